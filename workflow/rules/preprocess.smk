rule preprocess:
    input:
        shard=shard_of_manifest,
        settings=settings_of("preprocess"),
    output:
        segments=OUT.file("segments") if SETTINGS.preprocess.keep_segments else temp(OUT.file("segments")),
        records=OUT.file("records"),
    log:
        OUT.log("preprocess"),
    benchmark:
        OUT.benchmark("preprocess")
    priority: part_by_part
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10 + SETTINGS.manifest.shard_size // 240),  # 0.25 s per recording
    shell:
        "python3 -m ecgpipe preprocess --settings {input.settings:q} --shard {input.shard:q} --segments {output.segments:q} --records {output.records:q} "
        "--log {log:q}"
