# A checkpoint, and beside its output a file that it writes only if another precision is chosen (choice.txt): another one
# infers again, and the same one, though chosen anew, does not.
if CERTAIN:

    checkpoint precision:
        input:
            settings=settings_of("precision"),
        output:
            chosen=f"{OUT}/precision/chosen.json",
        log:
            f"{OUT}/logs/precision.log",
        benchmark:
            f"{OUT}/benchmarks/precision.tsv"
        localrule: True
        conda:
            "../envs/ecgpipe.yaml"
        shell:
            "python3 -m ecgpipe precision --settings {input.settings:q} --chosen {output.chosen:q} --log {log:q}"

else:

    # The first shard by itself: that its segments are made again for this must not infer its part again.
    use rule preprocess as sample with:
        input:
            shard=lambda wildcards: shard_of_manifest("00000"),
            settings=settings_of("preprocess"),
        output:
            segments=temp(f"{OUT}/precision/sample.arrow"),
            records=temp(f"{OUT}/precision/sample.parquet"),
        log:
            f"{OUT}/logs/sample.log",
        benchmark:
            f"{OUT}/benchmarks/sample.tsv"
        priority: URGENT

    checkpoint precision:
        input:
            weights=f"{OUT}/checkpoint/model.safetensors",
            description=f"{OUT}/checkpoint/model.json",
            segments=segments_to_compare,
            settings=settings_of("precision"),
        output:
            chosen=f"{OUT}/precision/chosen.json",
            drift=f"{OUT}/precision/drift.json",
        log:
            f"{OUT}/logs/precision.log",
        benchmark:
            f"{OUT}/benchmarks/precision.tsv"
        priority: URGENT
        conda:
            "../envs/ecgpipe.yaml"
        threads: COUNTED_CORES
        resources:
            gpu=1,
            computing_threads=computing_threads("precision"),
            mem_mb=growing(8000),
            runtime=growing(60),
        shell:
            "python3 -m ecgpipe precision --settings {input.settings:q} --weights {input.weights:q} --description {input.description:q} "
            "--segments {input.segments:q} --chosen {output.chosen:q} "
            "--drift {output.drift:q} --threads {resources.computing_threads} --log {log:q}"
