# Last, when everything is there to look at: an error if too many recordings could not be read.
rule verdict:
    input:
        run=f"{OUT}/run.json",
        page=f"{OUT}/report.html",
    output:
        f"{OUT}/verdict.txt",
    log:
        f"{OUT}/logs/verdict.log",
    benchmark:
        f"{OUT}/benchmarks/verdict.tsv"
    localrule: True
    conda:
        "../envs/ecgpipe.yaml"
    params:
        most=SETTINGS.max_failed_fraction,
    shell:
        "python3 -m ecgpipe verdict --run {input.run:q} --max-failed-fraction {params.most} --output {output:q} --log {log:q}"
