rule summary:
    input:
        manifest=lambda wildcards: f"{checkpoints.manifest.get().output[0]}/manifest.json",
        description=f"{OUT}/checkpoint/model.json",
        records=all_records,
        timings=all_parts("timing", "json"),
        drift=DRIFT,
    output:
        run=f"{OUT}/run.json",
        duplicates=f"{OUT}/duplicates.parquet",
    log:
        f"{OUT}/logs/summary.log",
    benchmark:
        f"{OUT}/benchmarks/summary.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        records=f"{OUT}/records",
        shards=lambda wildcards: n_shards(),
        timings=f"{OUT}/timing",
        parts=lambda wildcards: n_parts(),
        drift=["--drift", *DRIFT] if DRIFT else [],
        settings=SETTINGS.model_dump_json(),
    shell:
        "python3 -m ecgpipe summary --manifest {input.manifest:q} --description {input.description:q} "
        "--records {params.records:q} --shards {params.shards} --timings {params.timings:q} --parts {params.parts} {params.drift:q} "
        "--settings {params.settings:q} --duplicates {output.duplicates:q} --output {output.run:q} --log {log:q}"
