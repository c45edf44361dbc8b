rule umap:
    input:
        embeddings=all_parts("embeddings"),
        settings=settings_of("umap"),
    output:
        OUT.file("umap"),
    log:
        OUT.log("umap"),
    benchmark:
        OUT.benchmark("umap")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(240, per_million=60),
    params:
        embeddings=OUT.folder("embeddings"),
        parts=n_parts,
    shell:
        "python3 -m ecgpipe umap --settings {input.settings:q} --embeddings {params.embeddings:q} --parts {params.parts} --output {output:q} "
        "--log {log:q}"
