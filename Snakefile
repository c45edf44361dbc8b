from snakemake.utils import min_version

from ecgpipe.workflow.snakemake_compat import Engine

min_version("9.20")


report: "workflow/report/workflow.rst"


ENGINE = Engine(workflow)
ROOT = ENGINE.folder()


configfile: ROOT / "config" / "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/checkpoint.smk"
include: "workflow/rules/manifest.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/precision.smk"
include: "workflow/rules/infer.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/umap.smk"
include: "workflow/rules/examples.smk"
include: "workflow/rules/attribute.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/summary.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/verdict.smk"
include: "workflow/rules/verify.smk"
include: "workflow/rules/study.smk"


# Every result is named, not the last ones alone: one that goes missing is made again.
rule all:
    input:
        *(
            all_of(run, name)
            for run in RUN.runs
            for name in ["records", "logits", "embeddings", *ATTENTION, "predictions"]
        ),
        *(path for run in RUN.runs for path in single_results(run)),
        *STUDY,
    localrule: True


onstart:
    last_words.say_how_to_resume()
    with errors_of_workflow():
        RUN.start(log)


onsuccess:
    RUN.succeed()


onerror:
    RUN.fail(log)
