rule figures:
    input:
        run=f"{OUT}/run.json",
        description=f"{OUT}/checkpoint/model.json",
        records=all_records,
        predictions=all_parts("predictions"),
        attention=all_parts("attention") if ATTENTION else [],
        umap=f"{OUT}/umap/umap.parquet",
        examples=f"{OUT}/examples.parquet",
        attribution=ATTRIBUTION,
        settings=settings_of("figures"),
    output:
        *(f"{OUT}/figures/{name}.svg" for name in FIGURES),
        # What `snakemake --report` shows.
        *(
            report(
                f"{OUT}/figures/{name}.png",
                caption=f"../report/{name}.rst",
                category="Figures",
                labels={"figure": name},
            )
            for name in FIGURES
        ),
    log:
        f"{OUT}/logs/figures.log",
    benchmark:
        f"{OUT}/benchmarks/figures.tsv"
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
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "python3 -m ecgpipe figures --run {input.run:q} --description {input.description:q} --settings {input.settings:q} "
        "--manifest {params.manifest:q} --records {params.records:q} --shards {params.shards} --predictions {params.predictions:q} "
        "{params.attention:q} --parts {params.parts} --umap {input.umap:q} --examples {input.examples:q} "
        "{params.attribution:q} --outdir {params.folder:q} --log {log:q}"
