rule aggregate:
    input:
        logits=f"{OUT}/logits/part-{{part}}.parquet",
        embeddings=(f"{OUT}/embeddings/part-{{part}}.parquet" if SETTINGS.heads else []),
        settings=settings_of("aggregate"),
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
        embeddings=lambda wildcards, input: ["--embeddings", input.embeddings] if input.embeddings else [],
    shell:
        "python3 -m ecgpipe aggregate --settings {input.settings:q} --logits {input.logits:q} {params.embeddings:q} "
        "--predictions {output:q} --log {log:q}"
