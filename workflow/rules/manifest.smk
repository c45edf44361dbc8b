checkpoint manifest:
    input:
        # Patterns are resolved in the job: on a cluster every job parses this file.
        [path for path in SETTINGS.inputs if Path(path).exists()],
    output:
        directory(f"{OUT}/manifest"),
    log:
        f"{OUT}/logs/manifest.log",
    benchmark:
        f"{OUT}/benchmarks/manifest.tsv"
    params:
        inputs=SETTINGS.inputs,
        shard_size=SETTINGS.manifest.shard_size,
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "{ECGPIPE} manifest --input {params.inputs:q} --shard-size {params.shard_size} --outdir {output:q} --log {log:q}"
