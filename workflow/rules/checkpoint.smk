rule checkpoint:
    input:
        settings=settings_of("checkpoint"),
    output:
        **INDEX_LABELS,
        weights=OUT.file("weights"),
        description=OUT.file("description"),
    log:
        OUT.log("checkpoint"),
    benchmark:
        OUT.benchmark("checkpoint")
    priority: URGENT
    conda:
        "../envs/ecgpipe.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=lasting(60),
    shell:
        "python3 -m ecgpipe checkpoint --settings {input.settings:q} "
        "--weights {output.weights:q} --description {output.description:q} --log {log:q}"
