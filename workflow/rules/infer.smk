rule infer:
    input:
        weights=OUT.file("weights"),
        description=OUT.file("description"),
        segments=segments_of_part,
        choice=choice,
        settings=settings_of("infer"),
    output:
        **ATTENTION,
        logits=OUT.file("logits"),
        embeddings=OUT.file("embeddings"),
        timing=OUT.file("timing"),
    log:
        OUT.log("infer"),
    benchmark:
        OUT.benchmark("infer")
    priority: DOWNSTREAM
    conda:
        "../envs/ecgpipe.yaml"
    threads: COUNTED_CORES
    resources:
        gpu=1,
        computing_threads=computing_threads("infer"),
        mem_mb=growing(8000),
        runtime=lasting(30, per_million=1_000_000 // 600, recordings=recordings_per_part),  # 0.1 s each
    params:
        attention=attention_of_part,
        segments=OUT.folder("segments"),
        shards=first_and_last_shard,
    shell:
        "python3 -m ecgpipe infer --settings {input.settings:q} --choice {input.choice:q} --weights {input.weights:q} "
        "--description {input.description:q} --segments {params.segments:q} --shards {params.shards} "
        "--logits {output.logits:q} --embeddings {output.embeddings:q} {params.attention:q} --timing {output.timing:q} "
        "--threads {resources.computing_threads} "
        "--log {log:q}"
