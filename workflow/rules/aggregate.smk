rule aggregate:
    input:
        logits=OUT.file("logits"),
        embeddings=embeddings_of_part,
        settings=settings_of("aggregate"),
    output:
        OUT.file("predictions"),
    log:
        OUT.log("aggregate"),
    benchmark:
        OUT.benchmark("aggregate")
    priority: DOWNSTREAM
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=lasting(20),
    params:
        embeddings=lambda wildcards, input: ["--embeddings", input.embeddings] if input.embeddings else [],
    shell:
        "python3 -m ecgpipe aggregate --settings {input.settings:q} --logits {input.logits:q} {params.embeddings:q} "
        "--predictions {output:q} --log {log:q}"
