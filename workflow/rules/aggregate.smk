rule aggregate:
    input:
        logits=f"{OUT}/logits/part-{{part}}.parquet",
        labels=SETTINGS.labels,
        calibration=SETTINGS.calibration or [],
        embeddings=(f"{OUT}/embeddings/part-{{part}}.parquet" if SETTINGS.heads else []),
        heads=SETTINGS.heads,
    output:
        f"{OUT}/predictions/part-{{part}}.parquet",
    log:
        f"{OUT}/logs/aggregate/part-{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/aggregate/part-{{part}}.tsv"
    priority: DOWNSTREAM
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        meaning=MEANING["aggregate"],
        calibration=["--calibration", SETTINGS.calibration] if SETTINGS.calibration else [],
        heads=lambda wildcards, input: (
            ["--embeddings", input.embeddings, "--heads", *input.heads] if SETTINGS.heads else []
        ),
    shell:
        "python3 -m ecgpipe aggregate --logits {input.logits:q} --labels {input.labels:q} {params.calibration:q} {params.heads:q} "
        "--predictions {output:q} --log {log:q}"
