rule examples:
    input:
        records=all_records,
        predictions=all_parts("predictions"),
        embeddings=all_parts("embeddings"),
        umap=f"{OUT}/umap/umap.parquet",
        settings=settings_of("examples"),
    output:
        f"{OUT}/examples.parquet",
    log:
        f"{OUT}/logs/examples.log",
    benchmark:
        f"{OUT}/benchmarks/examples.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30, per_million=10),
    params:
        records=f"{OUT}/records",
        shards=lambda wildcards: n_shards(),
        predictions=f"{OUT}/predictions",
        embeddings=f"{OUT}/embeddings",
        parts=lambda wildcards: n_parts(),
    shell:
        "python3 -m ecgpipe examples --settings {input.settings:q} --records {params.records:q} --shards {params.shards} "
        "--predictions {params.predictions:q} --embeddings {params.embeddings:q} --parts {params.parts} --umap {input.umap:q} "
        "--output {output:q} --log {log:q}"
