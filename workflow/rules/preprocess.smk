rule preprocess:
    input:
        shard=lambda wildcards: shard_of_manifest(wildcards.shard),
        settings=settings_of("preprocess"),
    output:
        segments=(
            f"{OUT}/segments/shard-{{shard}}.arrow"
            if SETTINGS.preprocess.keep_segments
            else temp(f"{OUT}/segments/shard-{{shard}}.arrow")
        ),
        records=f"{OUT}/records/shard-{{shard}}.parquet",
    log:
        f"{OUT}/logs/preprocess/shard-{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/preprocess/shard-{{shard}}.tsv"
    priority: part_by_part
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10 + SETTINGS.manifest.shard_size // 240),  # 0.25 s per recording
    shell:
        "python3 -m ecgpipe preprocess --settings {input.settings:q} --shard {input.shard:q} --segments {output.segments:q} --records {output.records:q} "
        "--log {log:q}"
