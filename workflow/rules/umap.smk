rule umap:
    input:
        all_parts("embeddings"),
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
        meaning=MEANING["umap"],
        embeddings=f"{OUT}/embeddings",
        parts=lambda wildcards: n_parts(),
        neighbors=(f"--neighbors {SETTINGS.umap.neighbors}" if SETTINGS.umap.neighbors else ""),
        min_dist=SETTINGS.umap.min_dist,
        random_state=SETTINGS.umap.random_state,
        fit_segments=SETTINGS.umap.fit_segments,
    shell:
        "python3 -m ecgpipe umap --embeddings {params.embeddings:q} --parts {params.parts} --output {output:q} "
        "{params.neighbors} --min-dist {params.min_dist} --random-state {params.random_state} "
        "--fit-segments {params.fit_segments} --log {log:q}"
