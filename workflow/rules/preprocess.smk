# One rule, `preprocess`, but for models of a study that need other shards than the others.
for READING in RUN.reading:

    rule:
        name:
            READING.rule
        input:
            shard=shard_of_manifest,
            settings=settings_to_read(READING),
            before=inferred_before(READING),
        output:
            segments=segments_of(READING),
            records=[run.paths.file("records") for run in READING.runs],
        log:
            OUT.log(READING.rule),
        benchmark:
            OUT.benchmark(READING.rule)
        priority: part_by_part
        conda:
            "../envs/ecgpipe.yaml"
        resources:
            mem_mb=growing(1500 + 500 * len(READING.runs)),
            # 0.25 s per recording and model
            runtime=lasting(10, per_million=len(READING.runs) * 1_000_000 // 240, recordings=RUN.shard_size),
        params:
            settings=settings_of_reading(READING),
        shell:
            # Snakemake remembers a rule's command, so that a single run keeps the one that it always had.
            (
                "python3 -m ecgpipe preprocess --settings {params.settings:q} --shard {input.shard:q} --segments {output.segments:q} --records {output.records:q} "
                "--log {log:q}"
                if RUN.models
                else "python3 -m ecgpipe preprocess --settings {input.settings:q} --shard {input.shard:q} --segments {output.segments:q} --records {output.records:q} "
                "--log {log:q}"
            )
