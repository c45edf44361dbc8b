# The run's cores, shared between as many jobs as it has GPUs (`--resources gpu=4`). On a cluster nobody gives the cores,
# nor a total of GPUs: eight, as in profiles/slurm.
CORES_PER_GPU = max(1, (workflow.resource_settings.cores or 8) // (workflow.global_resources.get("gpu").value or 1))


rule infer:
    input:
        weights=f"{OUT}/checkpoint/model.safetensors",
        description=f"{OUT}/checkpoint/model.json",
        segments=segments_of_part,
    output:
        **ATTENTION,
        logits=f"{OUT}/logits/part-{{part}}.parquet",
        embeddings=f"{OUT}/embeddings/part-{{part}}.parquet",
        timing=f"{OUT}/timing/part-{{part}}.json",
    log:
        f"{OUT}/logs/infer/part-{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/infer/part-{{part}}.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    threads: CORES_PER_GPU
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=240,
        device=SETTINGS.inference.device,
        batch_size=(f"--batch-size {SETTINGS.inference.batch_size}" if SETTINGS.inference.batch_size else ""),
    params:
        attention=lambda wildcards, output: (["--attention", output.attention] if ATTENTION else []),
    shell:
        "python3 -m ecgpipe infer --weights {input.weights:q} --description {input.description:q} --segments {input.segments:q} "
        "--logits {output.logits:q} --embeddings {output.embeddings:q} {params.attention:q} --timing {output.timing:q} "
        "--device {resources.device} {resources.batch_size} --threads {threads} --log {log:q}"
