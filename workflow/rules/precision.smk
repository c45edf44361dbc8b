# A checkpoint, so that infer's params are looked at again when the precision is chosen: another one infers again, and the
# same one, though chosen anew, does not.
if CERTAIN:

    checkpoint precision:
        output:
            choice=f"{OUT}/precision/choice.txt",
        log:
            f"{OUT}/logs/precision.log",
        benchmark:
            f"{OUT}/benchmarks/precision.tsv"
        localrule: True
        conda:
            "../envs/ecgpipe.yaml"
        shell:
            "echo float32 > {output.choice:q} 2> {log:q}"

else:

    # The first shard by itself: that its segments are made again for this must not infer its part again.
    use rule preprocess as sample with:
        input:
            lambda wildcards: shard_of_manifest("00000"),
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
        output:
            choice=f"{OUT}/precision/choice.txt",
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
            device=SETTINGS.inference.device,
        params:
            meaning=MEANING["precision"],
            precision=SETTINGS.inference.precision,
            max_drift=SETTINGS.inference.max_drift,
        shell:
            "python3 -m ecgpipe precision --weights {input.weights:q} --description {input.description:q} "
            "--segments {input.segments:q} --precision {params.precision} --max-drift {params.max_drift} "
            "--choice {output.choice:q} --drift {output.drift:q} --device {resources.device} --threads {resources.computing_threads} --log {log:q}"
