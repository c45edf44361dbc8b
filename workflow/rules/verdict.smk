# Last, when everything is there to look at: an error if too many recordings could not be read.
rule verdict:
    input:
        run=OUT.file("run"),
        page=OUT.file("report"),
        settings=settings_of("verdict"),
    output:
        OUT.file("verdict"),
    log:
        OUT.log("verdict"),
    benchmark:
        OUT.benchmark("verdict")
    localrule: True
    conda:
        "../envs/ecgpipe.yaml"
    shell:
        "python3 -m ecgpipe verdict --settings {input.settings:q} --run {input.run:q} --output {output:q} --log {log:q}"
