rule aggregate:
    input:
        logits=f"{OUT}/logits/part-{{part}}.parquet",
        labels=SETTINGS.labels,
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
    shell:
        "python3 -m ecgpipe aggregate --logits {input.logits:q} --labels {input.labels:q} --predictions {output:q} --log {log:q}"
