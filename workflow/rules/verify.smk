# Not part of a run: `snakemake verify_against_fairseq_signals` holds a finished one against the real fairseq-signals,
# which has a software environment of its own, made by `--software-deployment-method conda`, or another by hand, whose
# python is the setting inference.fairseq_python.
FORWARD = str(ROOT / "ecgpipe" / "inference" / "fairseq_forward.py")  # runs where there is no ecgpipe


rule verify_sample:
    input:
        run=OUT.file("run"),
        records=all_records,
        description=OUT.file("description"),
    output:
        temp(OUT.file("verify_segments")),
    log:
        OUT.log("verify_sample"),
    benchmark:
        OUT.benchmark("verify_sample")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=lasting(60),
    params:
        meaning=provenance.MEANING["verify"],
        outdir=lambda wildcards, input: str(Path(input.run).parent),
    shell:
        "python3 -m ecgpipe verify {params.outdir:q} --against fairseq-signals --sample {output:q} --log {log:q}"


rule verify_forward:
    input:
        OUT.file("verify_segments"),
    output:
        temp(OUT.file("verify_answers")),
    log:
        OUT.log("verify_forward"),
    benchmark:
        OUT.benchmark("verify_forward")
    conda:
        "../envs/fairseq-signals.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=lasting(60),
    params:
        meaning=provenance.MEANING["verify"],
        python=SETTINGS.inference.fairseq_python or "python3",
        script=FORWARD,
    shell:
        "{params.python:q} {params.script:q} {input:q} {output:q} 2> {log:q}"


rule verify_against_fairseq_signals:
    input:
        segments=OUT.file("verify_segments"),
        answers=OUT.file("verify_answers"),
        run=OUT.file("run"),
        weights=OUT.file("weights"),
        description=OUT.file("description"),
        logits=all_parts("logits"),
        embeddings=all_parts("embeddings"),
        attention=all_parts("attention") if ATTENTION else [],
    output:
        OUT.file("verify"),
    log:
        OUT.log("verify"),
    benchmark:
        OUT.benchmark("verify")
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=lasting(60),
    params:
        meaning=provenance.MEANING["verify"],
        outdir=lambda wildcards, input: str(Path(input.run).parent),
    shell:
        "python3 -m ecgpipe verify {params.outdir:q} --against fairseq-signals --sample {input.segments:q} "
        "--answers {input.answers:q} --device cpu --output {output:q} --log {log:q}"
