rule checkpoint:
    input:
        file=[] if SETTINGS.checkpoint.startswith("hf://") else SETTINGS.checkpoint,
    output:
        **INDEX_LABELS,
        weights=f"{OUT}/checkpoint/model.safetensors",
        description=f"{OUT}/checkpoint/model.json",
    log:
        f"{OUT}/logs/checkpoint.log",
    benchmark:
        f"{OUT}/benchmarks/checkpoint.tsv"
    priority: URGENT
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        # Neither input nor params: another threshold or aggregation, or the same labels in another file, must not convert
        # the checkpoint, and so infer everything, again. The names are a param.
        labels="index" if INDEX_LABELS else SETTINGS.labels,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        meaning=MEANING["checkpoint"],
        source=lambda wildcards: SETTINGS.checkpoint,
        options=(f"--sha256 {SETTINGS.sha256}" if SETTINGS.sha256 else "") + ("" if NATIVE else " --backend fairseq"),
        label_names=lambda wildcards: "index" if INDEX_LABELS else [label.name for label in LABELS],
    shell:
        "python3 -m ecgpipe checkpoint --source {params.source:q} {params.options} --labels {resources.labels:q} "
        "--weights {output.weights:q} --description {output.description:q} --log {log:q}"
