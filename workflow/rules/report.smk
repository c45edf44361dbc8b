rule report:
    input:
        run=OUT.file("run"),
        description=OUT.file("description"),
        records=all_records,
        predictions=all_parts("predictions"),
        attention=all_parts("attention") if ATTENTION else [],
        umap=OUT.file("umap"),
        examples=OUT.file("examples"),
        attribution=ATTRIBUTION,
        settings=settings_of("report"),
        evaluation=evaluation,
    output:
        OUT.file("report"),
    log:
        OUT.log("report"),
    benchmark:
        OUT.benchmark("report")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=lasting(60),
    params:
        manifest=OUT.folder("shard"),
        records=OUT.folder("records"),
        shards=n_shards,
        predictions=OUT.folder("predictions"),
        attention=attention_option,
        parts=n_parts,
        attribution=["--attribution", *ATTRIBUTION] if ATTRIBUTION else [],
        evaluation=evaluation_option,
        benchmarks=OUT.folder_of_benchmarks(),
    shell:
        "python3 -m ecgpipe report --run {input.run:q} --description {input.description:q} --settings {input.settings:q} "
        "--manifest {params.manifest:q} --records {params.records:q} --shards {params.shards} --predictions {params.predictions:q} "
        "{params.attention:q} --parts {params.parts} --umap {input.umap:q} --examples {input.examples:q} "
        "{params.attribution:q} {params.evaluation:q} --benchmarks {params.benchmarks:q} "
        "--output {output:q} --log {log:q}"
