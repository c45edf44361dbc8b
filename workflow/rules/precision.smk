# A checkpoint, and beside its output a file that it writes only if another precision is chosen (choice.txt): another one
# infers again, and the same one, though chosen anew, does not.
if CERTAIN:

    checkpoint precision:
        input:
            settings=settings_of("precision"),
        output:
            chosen=OUT.file("chosen"),
        log:
            OUT.log("precision"),
        benchmark:
            OUT.benchmark("precision")
        localrule: True
        conda:
            "../envs/ecgpipe.yaml"
        shell:
            "python3 -m ecgpipe precision --settings {input.settings:q} --chosen {output.chosen:q} --log {log:q}"

else:

    # The first shard by itself: that its segments are made again for this must not infer its part again.
    use rule preprocess as sample with:
        input:
            shard=first_shard,
            settings=settings_of("preprocess"),
        output:
            segments=temp(OUT.file("sample_segments")),
            records=temp(OUT.file("sample_records")),
        log:
            OUT.log("sample"),
        benchmark:
            OUT.benchmark("sample")
        priority: URGENT
        params:
            settings=lambda wildcards, output: RUN.of(wildcards).paths.settings("preprocess"),

    checkpoint precision:
        input:
            weights=OUT.file("weights"),
            description=OUT.file("description"),
            segments=segments_to_compare,
            settings=settings_of("precision"),
        output:
            chosen=OUT.file("chosen"),
            drift=OUT.file("drift"),
        log:
            OUT.log("precision"),
        benchmark:
            OUT.benchmark("precision")
        priority: URGENT
        conda:
            "../envs/ecgpipe.yaml"
        threads: COUNTED_CORES
        resources:
            gpu=1,
            computing_threads=computing_threads("precision"),
            mem_mb=growing(8000),
            runtime=lasting(60),
        shell:
            "python3 -m ecgpipe precision --settings {input.settings:q} --weights {input.weights:q} --description {input.description:q} "
            "--segments {input.segments:q} --chosen {output.chosen:q} "
            "--drift {output.drift:q} --threads {resources.computing_threads} --log {log:q}"
