rule attribute:
    input:
        weights=OUT.file("weights"),
        description=OUT.file("description"),
        records=all_records,
        predictions=all_parts("predictions"),
        settings=settings_of("attribute"),
    output:
        attribution=OUT.file("attribution"),
        leads=OUT.file("attribution_leads"),
    log:
        OUT.log("attribute"),
    benchmark:
        OUT.benchmark("attribute")
    conda:
        "../envs/ecgpipe.yaml"
    threads: COUNTED_CORES
    resources:
        gpu=1,
        computing_threads=computing_threads("attribute"),
        mem_mb=growing(8000),
        runtime=lasting(30 + 4 * SETTINGS.attribution.recordings),
    params:
        manifest=OUT.folder("shard"),
        records=OUT.folder("records"),
        shards=n_shards,
        predictions=OUT.folder("predictions"),
        parts=n_parts,
    shell:
        "python3 -m ecgpipe attribute --settings {input.settings:q} --weights {input.weights:q} --description {input.description:q} --manifest {params.manifest:q} "
        "--records {params.records:q} --shards {params.shards} --predictions {params.predictions:q} --parts {params.parts} "
        "--threads {resources.computing_threads} "
        "--output {output.attribution:q} --leads {output.leads:q} --log {log:q}"
