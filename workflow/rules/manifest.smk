checkpoint manifest:
    input:
        # Patterns are resolved in the job: on a cluster every job parses this file.
        [path for path in SETTINGS.inputs if Path(path).exists()],
        asked=asked,
        settings=settings_of("manifest"),
    output:
        # Beside it are the shards, and files that say what earlier scans found. Snakemake would delete an output.
        OUT.file("manifest"),
    log:
        OUT.log("manifest"),
    benchmark:
        OUT.benchmark("manifest")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000, per_million=800),
        runtime=lasting(60, per_million=1),
    params:
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "python3 -m ecgpipe manifest --settings {input.settings:q} --outdir {params.folder:q} --log {log:q}"
