rule infer:
    input:
        weights=f"{OUT}/checkpoint/model.safetensors",
        description=f"{OUT}/checkpoint/model.json",
        segments=segments_of_part,
    output:
        **ATTENTION,
        logits=f"{OUT}/logits/part-{{part}}.parquet",
        embeddings=f"{OUT}/embeddings/part-{{part}}.parquet",
        timing=f"{OUT}/timing/part-{{part}}.json",
    log:
        f"{OUT}/logs/infer/part-{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/infer/part-{{part}}.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    threads: 64
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=240,
        device=SETTINGS.inference.device,
        batch_size=(f"--batch-size {SETTINGS.inference.batch_size}" if SETTINGS.inference.batch_size else ""),
    params:
        attention=lambda wildcards, output: (["--attention", output.attention] if ATTENTION else []),
    shell:
        "python3 -m ecgpipe infer --weights {input.weights:q} --description {input.description:q} --segments {input.segments:q} "
        "--logits {output.logits:q} --embeddings {output.embeddings:q} {params.attention:q} --timing {output.timing:q} "
        "--device {resources.device} {resources.batch_size} --threads {threads} --log {log:q}"
