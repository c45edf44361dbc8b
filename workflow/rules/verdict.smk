# Last, when everything is there to look at: an error if too many recordings could not be read.
rule verdict:
    input:
        run=f"{OUT}/run.json",
        page=f"{OUT}/report.html",
        settings=settings_of("verdict"),
    output:
        f"{OUT}/verdict.txt",
    log:
        f"{OUT}/logs/verdict.log",
    benchmark:
        f"{OUT}/benchmarks/verdict.tsv"
    localrule: True
    conda:
        "../envs/ecgpipe.yaml"
    shell:
        "python3 -m ecgpipe verdict --settings {input.settings:q} --run {input.run:q} --output {output:q} --log {log:q}"
