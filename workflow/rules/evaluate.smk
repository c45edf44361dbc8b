rule evaluate:
    input:
        records=all_records,
        predictions=all_parts("predictions"),
        settings=settings_of("evaluate"),
    output:
        metrics=OUT.file("metrics"),
        curves=OUT.file("curves"),
        account=OUT.file("account"),
        true_labels=OUT.file("true_labels"),
    log:
        OUT.log("evaluate"),
    benchmark:
        OUT.benchmark("evaluate")
    conda:
        "../envs/ecgpipe.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000, per_million=8000),  # enough for 160 labels, of 50 bytes a recording
        runtime=lasting(60, per_million=30),
    params:
        records=OUT.folder("records"),
        shards=n_shards,
        predictions=OUT.folder("predictions"),
        parts=n_parts,
    shell:
        "python3 -m ecgpipe evaluate --settings {input.settings:q} --predictions {params.predictions:q} --parts {params.parts} --records {params.records:q} "
        "--shards {params.shards} "
        "--metrics {output.metrics:q} --curves {output.curves:q} --account {output.account:q} --true-labels {output.true_labels:q} --log {log:q}"
