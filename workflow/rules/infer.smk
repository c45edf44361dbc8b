rule infer:
    input:
        weights=f"{OUT}/checkpoint/model.safetensors",
        description=f"{OUT}/checkpoint/model.json",
        segments=segments_of_part,
        choice=ancient(choice),  # what counts is the precision itself, below
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
        device=SETTINGS.inference.device,
        fairseq_python=FAIRSEQ_PYTHON,
        batch_size=(f"--batch-size {SETTINGS.inference.batch_size}" if SETTINGS.inference.batch_size else ""),
    params:
        meaning=MEANING["infer"],
        attention=lambda wildcards, output: (["--attention", output.attention] if ATTENTION else []),
        precision=chosen_precision,
        deterministic=DETERMINISTIC,
    shell:
        "python3 -m ecgpipe infer --weights {input.weights:q} --description {input.description:q} --segments {input.segments:q} "
        "--logits {output.logits:q} --embeddings {output.embeddings:q} {params.attention:q} --timing {output.timing:q} "
        "--precision {params.precision} {params.deterministic} --device {resources.device} {resources.batch_size} {resources.fairseq_python} --threads {resources.computing_threads} "
        "--log {log:q}"
