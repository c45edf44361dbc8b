rule evaluate:
    input:
        labels=SETTINGS.labels,
        records=all_records,
        predictions=all_parts("predictions"),
        truth=SETTINGS.evaluation.truth or [],
        calibration=SETTINGS.calibration or [],
        heads=SETTINGS.heads,
    output:
        metrics=f"{OUT}/evaluation/metrics.parquet",
        curves=f"{OUT}/evaluation/curves.parquet",
        account=f"{OUT}/evaluation/account.json",
    log:
        f"{OUT}/logs/evaluate.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000, per_million=4000),
        runtime=growing(60, per_million=30),
    params:
        meaning=MEANING["evaluate"],
        records=f"{OUT}/records",
        shards=lambda wildcards: n_shards(),
        predictions=f"{OUT}/predictions",
        parts=lambda wildcards: n_parts(),
        truth=lambda wildcards, input: ["--truth", input.truth] if input.truth else [],
        calibration=["--calibration", SETTINGS.calibration] if SETTINGS.calibration else [],
        heads=["--heads", *SETTINGS.heads] if SETTINGS.heads else [],
        options=truth_options,
        resamples=SETTINGS.evaluation.resamples,
        seed=SETTINGS.evaluation.seed,
    shell:
        "python3 -m ecgpipe evaluate --predictions {params.predictions:q} --parts {params.parts} --records {params.records:q} "
        "--shards {params.shards} --labels {input.labels:q} {params.calibration:q} {params.heads:q} {params.truth:q} {params.options:q} "
        "--resamples {params.resamples} --seed {params.seed} "
        "--metrics {output.metrics:q} --curves {output.curves:q} --account {output.account:q} --log {log:q}"
