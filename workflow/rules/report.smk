rule report:
    input:
        run=f"{OUT}/run.json",
        description=f"{OUT}/checkpoint/model.json",
        records=all_records,
        predictions=all_parts("predictions"),
        attention=all_parts("attention") if ATTENTION else [],
        umap=f"{OUT}/umap/umap.parquet",
        examples=f"{OUT}/examples.parquet",
        attribution=ATTRIBUTION,
        settings=settings_of("report"),
        evaluation=EVALUATION.values(),
    output:
        f"{OUT}/report.html",
    log:
        f"{OUT}/logs/report.log",
    benchmark:
        f"{OUT}/benchmarks/report.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        manifest=f"{OUT}/manifest",
        records=f"{OUT}/records",
        shards=lambda wildcards: n_shards(),
        predictions=f"{OUT}/predictions",
        attention=["--attention", f"{OUT}/attention"] if ATTENTION else [],
        parts=lambda wildcards: n_parts(),
        attribution=["--attribution", *ATTRIBUTION] if ATTRIBUTION else [],
        evaluation=["--evaluation", f"{OUT}/evaluation"] if EVALUATION else [],
        benchmarks=f"{OUT}/benchmarks",
    shell:
        "python3 -m ecgpipe report --run {input.run:q} --description {input.description:q} --settings {input.settings:q} "
        "--manifest {params.manifest:q} --records {params.records:q} --shards {params.shards} --predictions {params.predictions:q} "
        "{params.attention:q} --parts {params.parts} --umap {input.umap:q} --examples {input.examples:q} "
        "{params.attribution:q} {params.evaluation:q} --benchmarks {params.benchmarks:q} "
        "--output {output:q} --log {log:q}"
