rule checkpoint:
    input:
        # A changed threshold or aggregation alone must not convert the checkpoint, and so infer everything, again.
        labels=ancient(SETTINGS.labels),
        file=[] if SETTINGS.checkpoint.startswith("hf://") else SETTINGS.checkpoint,
    output:
        weights=f"{OUT}/checkpoint/model.safetensors",
        description=f"{OUT}/checkpoint/model.json",
    log:
        f"{OUT}/logs/checkpoint.log",
    benchmark:
        f"{OUT}/benchmarks/checkpoint.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        source=SETTINGS.checkpoint,
        sha256=f"--sha256 {SETTINGS.sha256}" if SETTINGS.sha256 else "",
        label_names=[label.name for label in LABELS],
    shell:
        "python3 -m ecgpipe checkpoint --source {params.source:q} {params.sha256} --labels {input.labels:q} "
        "--weights {output.weights:q} --description {output.description:q} --log {log:q}"
