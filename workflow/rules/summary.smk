rule summary:
    input:
        manifest=ancient(manifest),  # written in each run; what counts is its content
        found=found,
        settings=settings_of("summary"),
        description=f"{OUT}/checkpoint/model.json",
        records=all_records,
        timings=all_parts("timing", "json"),
        predictions=all_parts("predictions"),
        umap=f"{OUT}/umap/umap.parquet",
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
        mem_mb=growing(2000, per_million=400),
        runtime=growing(20, per_million=1),
    params:
        records=f"{OUT}/records",
        shards=lambda wildcards: n_shards(),
        timings=f"{OUT}/timing",
        predictions=f"{OUT}/predictions",
        parts=lambda wildcards: n_parts(),
        drift=["--drift", *DRIFT] if DRIFT else [],
    shell:
        "python3 -m ecgpipe summary --manifest {input.manifest:q} --description {input.description:q} "
        "--records {params.records:q} --shards {params.shards} --timings {params.timings:q} --parts {params.parts} {params.drift:q} "
        "--predictions {params.predictions:q} --umap {input.umap:q} "
        "--settings {input.settings:q} --duplicates {output.duplicates:q} --output {output.run:q} --log {log:q}"
