# Not part of a run: `snakemake verify_against_fairseq_signals` holds a finished one against the real fairseq-signals,
# which has a software environment of its own, made by `--software-deployment-method conda`, or another by hand, whose
# python is the setting inference.fairseq_python.
rule verify_sample:
    input:
        run=f"{OUT}/run.json",
        records=all_records,
        description=f"{OUT}/checkpoint/model.json",
    output:
        temp(f"{OUT}/verify/segments.frames"),
    log:
        f"{OUT}/logs/verify_sample.log",
    benchmark:
        f"{OUT}/benchmarks/verify_sample.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        meaning=provenance.MEANING["verify"],
        outdir=lambda wildcards, input: str(Path(input.run).parent),
    shell:
        "python3 -m ecgpipe verify --against fairseq-signals --outdir {params.outdir:q} --sample {output:q} --log {log:q}"


rule verify_forward:
    input:
        f"{OUT}/verify/segments.frames",
    output:
        temp(f"{OUT}/verify/answers.frames"),
    log:
        f"{OUT}/logs/verify_forward.log",
    benchmark:
        f"{OUT}/benchmarks/verify_forward.tsv"
    conda:
        "../envs/fairseq-signals.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        meaning=provenance.MEANING["verify"],
        python=SETTINGS.inference.fairseq_python or "python3",
        script=FORWARD,
    shell:
        "{params.python:q} {params.script:q} {input:q} {output:q} 2> {log:q}"


rule verify_against_fairseq_signals:
    input:
        segments=f"{OUT}/verify/segments.frames",
        answers=f"{OUT}/verify/answers.frames",
        run=f"{OUT}/run.json",
        weights=f"{OUT}/checkpoint/model.safetensors",
        description=f"{OUT}/checkpoint/model.json",
        logits=all_parts("logits"),
        embeddings=all_parts("embeddings"),
        attention=all_parts("attention") if ATTENTION else [],
    output:
        f"{OUT}/verify/fairseq_signals.json",
    log:
        f"{OUT}/logs/verify.log",
    benchmark:
        f"{OUT}/benchmarks/verify.tsv"
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        meaning=provenance.MEANING["verify"],
        outdir=lambda wildcards, input: str(Path(input.run).parent),
    shell:
        "python3 -m ecgpipe verify --against fairseq-signals --outdir {params.outdir:q} --sample {input.segments:q} "
        "--answers {input.answers:q} --device cpu --output {output:q} --log {log:q}"
