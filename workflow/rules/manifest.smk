checkpoint manifest:
    input:
        # Patterns are resolved in the job: on a cluster every job parses this file.
        [path for path in SETTINGS.inputs if Path(path).exists()],
        asked=asked,
    output:
        # Beside it are the shards, and files that say what earlier scans found. Snakemake would delete an output.
        f"{OUT}/manifest/manifest.json",
    log:
        f"{OUT}/logs/manifest.log",
    benchmark:
        f"{OUT}/benchmarks/manifest.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000, per_million=800),
        runtime=growing(60, per_million=1),
        truth=shlex.join(truth_of_settings()),  # to be looked at before anything is computed; the scan is the same
    params:
        meaning=MEANING["manifest"],
        folder=lambda wildcards, output: str(Path(output[0]).parent),
        inputs=SETTINGS.inputs,
        shard_size=SETTINGS.manifest.shard_size,
        ptbxl=SETTINGS.manifest.ptbxl,
    shell:
        "python3 -m ecgpipe manifest --input {params.inputs:q} --shard-size {params.shard_size} --ptbxl {params.ptbxl} {resources.truth} --outdir {params.folder:q} --log {log:q}"
