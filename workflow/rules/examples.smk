rule examples:
    input:
        records=all_records,
        predictions=all_parts("predictions"),
        embeddings=all_parts("embeddings"),
        umap=OUT.file("umap"),
        true_labels=true_labels,
        settings=settings_of("examples"),
    output:
        OUT.file("examples"),
    log:
        OUT.log("examples"),
    benchmark:
        OUT.benchmark("examples")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=lasting(30, per_million=10),
    params:
        records=OUT.folder("records"),
        shards=n_shards,
        predictions=OUT.folder("predictions"),
        embeddings=OUT.folder("embeddings"),
        parts=n_parts,
        true_labels=true_labels_option,
    shell:
        "python3 -m ecgpipe examples --settings {input.settings:q} --records {params.records:q} --shards {params.shards} "
        "--predictions {params.predictions:q} --embeddings {params.embeddings:q} --parts {params.parts} --umap {input.umap:q} "
        "{params.true_labels:q} --output {output:q} --log {log:q}"
