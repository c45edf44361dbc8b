rule aggregate:
    input:
        logits=f"{OUT}/logits/part-{{part}}.parquet",
        labels=SETTINGS.labels,
        calibration=SETTINGS.calibration or [],
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
    shell:
        "python3 -m ecgpipe aggregate --logits {input.logits:q} --labels {input.labels:q} {params.calibration:q} "
        "--predictions {output:q} --log {log:q}"
