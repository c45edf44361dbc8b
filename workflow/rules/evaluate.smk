rule evaluate:
    input:
        records=all_records,
        predictions=all_parts("predictions"),
        settings=settings_of("evaluate"),
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
        records=f"{OUT}/records",
        shards=lambda wildcards: n_shards(),
        predictions=f"{OUT}/predictions",
        parts=lambda wildcards: n_parts(),
    shell:
        "python3 -m ecgpipe evaluate --settings {input.settings:q} --predictions {params.predictions:q} --parts {params.parts} --records {params.records:q} "
        "--shards {params.shards} "
        "--metrics {output.metrics:q} --curves {output.curves:q} --account {output.account:q} --log {log:q}"
