rule infer:
    input:
        weights=f"{OUT}/checkpoint/model.safetensors",
        description=f"{OUT}/checkpoint/model.json",
        segments=segments_of_part,
        choice=choice,
        settings=settings_of("infer"),
    output:
        **ATTENTION,
        logits=f"{OUT}/logits/part-{{part}}.parquet",
        embeddings=f"{OUT}/embeddings/part-{{part}}.parquet",
        timing=f"{OUT}/timing/part-{{part}}.json",
    log:
        f"{OUT}/logs/infer/part-{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/infer/part-{{part}}.tsv"
    priority: DOWNSTREAM
    conda:
        "../envs/ecgpipe.yaml"
    threads: COUNTED_CORES
    resources:
        gpu=1,
        computing_threads=computing_threads("infer"),
        mem_mb=growing(8000),
        runtime=growing(30 + RECORDINGS_PER_PART // 600),  # 0.1 s per recording
    params:
        attention=lambda wildcards, output: (["--attention", output.attention] if ATTENTION else []),
        # The shards as a range: their paths would outgrow the line.
        segments=f"{OUT}/segments",
        shards=lambda wildcards: [int(shards_of(wildcards.part)[end]) for end in (0, -1)],
    shell:
        "python3 -m ecgpipe infer --settings {input.settings:q} --choice {input.choice:q} --weights {input.weights:q} "
        "--description {input.description:q} --segments {params.segments:q} --shards {params.shards} "
        "--logits {output.logits:q} --embeddings {output.embeddings:q} {params.attention:q} --timing {output.timing:q} "
        "--threads {resources.computing_threads} "
        "--log {log:q}"
