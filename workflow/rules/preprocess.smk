def segments_of(reading):
    """The segments that a job writes, of one model or several."""
    paths = [run.paths.file("segments") for run in reading.runs]
    return paths if SETTINGS.preprocess.keep_segments else temp(paths)


# One rule, `preprocess`, but for models of a study that need other shards than the others.
for READING in RUN.reading:

    rule:
        name:
            READING.rule
        input:
            shard=shard_of_manifest,
            settings=settings_to_read(READING),
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
            runtime=growing(10 + SETTINGS.manifest.shard_size * len(READING.runs) // 240),
        shell:
            "python3 -m ecgpipe preprocess --settings {input.settings:q} --shard {input.shard:q} --segments {output.segments:q} --records {output.records:q} "
            "--log {log:q}"
