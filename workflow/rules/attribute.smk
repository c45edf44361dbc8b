rule attribute:
    input:
        weights=f"{OUT}/checkpoint/model.safetensors",
        description=f"{OUT}/checkpoint/model.json",
        records=all_records,
        predictions=all_parts("predictions"),
        settings=settings_of("attribute"),
    output:
        attribution=f"{OUT}/attribution/attribution.parquet",
        leads=f"{OUT}/attribution/leads.parquet",
    log:
        f"{OUT}/logs/attribute.log",
    benchmark:
        f"{OUT}/benchmarks/attribute.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    threads: COUNTED_CORES
    resources:
        gpu=1,
        computing_threads=computing_threads("attribute"),
        mem_mb=growing(8000),
        runtime=growing(30 + 4 * SETTINGS.attribution.recordings),
    params:
        manifest=f"{OUT}/manifest",
        records=f"{OUT}/records",
        shards=lambda wildcards: n_shards(),
        predictions=f"{OUT}/predictions",
        parts=lambda wildcards: n_parts(),
    shell:
        "python3 -m ecgpipe attribute --settings {input.settings:q} --weights {input.weights:q} --description {input.description:q} --manifest {params.manifest:q} "
        "--records {params.records:q} --shards {params.shards} --predictions {params.predictions:q} --parts {params.parts} "
        "--threads {resources.computing_threads} "
        "--output {output.attribution:q} --leads {output.leads:q} --log {log:q}"
