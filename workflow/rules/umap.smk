rule umap:
    input:
        embeddings=all_parts("embeddings"),
        settings=settings_of("umap"),
    output:
        f"{OUT}/umap/umap.parquet",
    log:
        f"{OUT}/logs/umap.log",
    benchmark:
        f"{OUT}/benchmarks/umap.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(240, per_million=60),
    params:
        embeddings=f"{OUT}/embeddings",
        parts=lambda wildcards: n_parts(),
    shell:
        "python3 -m ecgpipe umap --settings {input.settings:q} --embeddings {params.embeddings:q} --parts {params.parts} --output {output:q} "
        "--log {log:q}"
