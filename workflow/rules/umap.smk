# A small run's map is made by `umap` alone. In a large one `umap_fit` fits it, `umap_place` places the segments of one part
# on it, and `umap` joins the places (`is_placed_by_part`).
rule umap_fit:
    input:
        embeddings=all_parts("embeddings"),
        settings=settings_of("umap"),
    output:
        temp(OUT.file("fit")),
    log:
        OUT.log("umap_fit"),
    benchmark:
        OUT.benchmark("umap_fit")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=lasting(240),
    params:
        embeddings=OUT.folder("embeddings"),
        parts=n_parts,
    shell:
        "python3 -m ecgpipe umap_fit --settings {input.settings:q} --embeddings {params.embeddings:q} --parts {params.parts} --output {output:q} "
        "--log {log:q}"


rule umap_place:
    input:
        fit=OUT.file("fit"),
        embeddings=OUT.file("embeddings"),
        settings=settings_of("umap"),
    output:
        temp(OUT.file("places")),
    log:
        OUT.log("umap_place"),
    benchmark:
        OUT.benchmark("umap_place")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=lasting(30, per_million=1_000_000 // 6000, recordings=recordings_per_part),  # 10 ms per recording
    shell:
        "python3 -m ecgpipe umap_place --settings {input.settings:q} --fit {input.fit:q} --embeddings {input.embeddings:q} --output {output:q} "
        "--log {log:q}"


rule umap:
    input:
        parts_to_map,
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
        runtime=lasting(240),
    params:
        embeddings=folder_to_map,
        parts=n_parts,
    shell:
        "python3 -m ecgpipe umap --settings {input.settings:q} --embeddings {params.embeddings:q} --parts {params.parts} --output {output:q} "
        "--log {log:q}"
