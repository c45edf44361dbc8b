rule figures:
    input:
        run=OUT.file("run"),
        description=OUT.file("description"),
        records=all_records,
        predictions=all_parts("predictions"),
        attention=all_parts("attention") if ATTENTION else [],
        umap=OUT.file("umap"),
        examples=OUT.file("examples"),
        attribution=ATTRIBUTION,
        settings=settings_of("figures"),
    output:
        *(OUT.file(f"figure_{name}_svg") for name in FIGURES),
        # What `snakemake --report` shows.
        *(
            report(
                OUT.file(f"figure_{name}_png"),
                caption=f"../report/{name}.rst",
                category="Figures",
                labels={"figure": name},
            )
            for name in FIGURES
        ),
    log:
        OUT.log("figures"),
    benchmark:
        OUT.benchmark("figures")
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
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "python3 -m ecgpipe figures --run {input.run:q} --description {input.description:q} --settings {input.settings:q} "
        "--manifest {params.manifest:q} --records {params.records:q} --shards {params.shards} --predictions {params.predictions:q} "
        "{params.attention:q} --parts {params.parts} --umap {input.umap:q} --examples {input.examples:q} "
        "{params.attribution:q} --outdir {params.folder:q} --log {log:q}"
