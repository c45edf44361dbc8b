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
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        inputs=SETTINGS.inputs,
        shard_size=SETTINGS.manifest.shard_size,
        ptbxl=SETTINGS.manifest.ptbxl,
    shell:
        "python3 -m ecgpipe manifest --input {params.inputs:q} --shard-size {params.shard_size} --ptbxl {params.ptbxl} --outdir {output:q} --log {log:q}"
