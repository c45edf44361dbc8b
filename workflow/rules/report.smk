rule report:
    input:
        run=f"{OUT}/run.json",
        description=f"{OUT}/checkpoint/model.json",
        labels=SETTINGS.labels,
        records=all_records,
        predictions=all_parts("predictions"),
        attention=all_parts("attention") if ATTENTION else [],
        umap=f"{OUT}/umap/umap.parquet",
        examples=f"{OUT}/examples.parquet",
        attribution=ATTRIBUTION,
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
        meaning=MEANING["report"],
        manifest=f"{OUT}/manifest",
        records=f"{OUT}/records",
        shards=lambda wildcards: n_shards(),
        predictions=f"{OUT}/predictions",
        attention=["--attention", f"{OUT}/attention"] if ATTENTION else [],
        parts=lambda wildcards: n_parts(),
        attribution=["--attribution", *ATTRIBUTION] if ATTRIBUTION else [],
        evaluation=["--evaluation", f"{OUT}/evaluation"] if EVALUATION else [],
        benchmarks=f"{OUT}/benchmarks",
        reading=reading,
        title=lambda wildcards: SETTINGS.report.title,  # a text as it is: braces in it are no wildcards
        map_points=SETTINGS.report.map_points,
        columns=lambda wildcards: [] if SETTINGS.report.columns is None else ["--columns", *SETTINGS.report.columns],
        paths="" if SETTINGS.report.paths else "--no-paths",
    shell:
        "python3 -m ecgpipe report --run {input.run:q} --description {input.description:q} --labels {input.labels:q} "
        "--manifest {params.manifest:q} --records {params.records:q} --shards {params.shards} --predictions {params.predictions:q} "
        "{params.attention:q} --parts {params.parts} --umap {input.umap:q} --examples {input.examples:q} "
        "{params.attribution:q} {params.evaluation:q} --benchmarks {params.benchmarks:q} {params.reading:q} {params.columns:q} "
        "--title={params.title:q} --map-points {params.map_points} {params.paths} "
        "--output {output:q} --log {log:q}"
