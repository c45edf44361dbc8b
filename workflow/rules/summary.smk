rule summary:
    input:
        manifest=ancient(manifest),  # written in each run; what counts is its content
        scan_digest=scan_digest,
        settings=settings_of("summary"),
        description=OUT.file("description"),
        records=all_records,
        timings=all_parts("timing"),
        predictions=all_parts("predictions"),
        umap=OUT.file("umap"),
        drift=DRIFT,
    output:
        run=OUT.file("run"),
        duplicates=OUT.file("duplicates"),
    log:
        OUT.log("summary"),
    benchmark:
        OUT.benchmark("summary")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=lasting(20, per_million=1),
    params:
        records=OUT.folder("records"),
        shards=n_shards,
        timings=OUT.folder("timing"),
        predictions=OUT.folder("predictions"),
        parts=n_parts,
        drift=["--drift", *DRIFT] if DRIFT else [],
    shell:
        "python3 -m ecgpipe summary --manifest {input.manifest:q} --description {input.description:q} "
        "--records {params.records:q} --shards {params.shards} --timings {params.timings:q} --parts {params.parts} {params.drift:q} "
        "--predictions {params.predictions:q} --umap {input.umap:q} "
        "--settings {input.settings:q} --duplicates {output.duplicates:q} --output {output.run:q} --log {log:q}"
