rule summary:
    input:
        manifest=lambda wildcards: f"{checkpoints.manifest.get().output[0]}/manifest.json",
        description=f"{OUT}/checkpoint/model.json",
        records=all_shards("records/shard-{shard}.parquet"),
        timings=all_parts("timing", "json"),
    output:
        f"{OUT}/run.json",
    log:
        f"{OUT}/logs/summary.log",
    benchmark:
        f"{OUT}/benchmarks/summary.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=SETTINGS.model_dump_json(),
    shell:
        "python3 -m ecgpipe summary --manifest {input.manifest:q} --description {input.description:q} --records {input.records:q} "
        "--timings {input.timings:q} --settings {params.settings:q} --output {output:q} --log {log:q}"
