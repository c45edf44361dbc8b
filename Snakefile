from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.20")


report: "workflow/report/workflow.rst"


configfile: Path(workflow.basedir) / "config" / "config.yaml"


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


# Every result is named, not the last ones alone: one that goes missing is made again.
rule all:
    input:
        all_records,
        *(all_parts(kind) for kind in ["logits", "embeddings", *ATTENTION, "predictions"]),
        *DRIFT,
        f"{OUT}/umap/umap.parquet",
        f"{OUT}/run.json",
        f"{OUT}/duplicates.parquet",
        f"{OUT}/examples.parquet",
        ATTRIBUTION,
        *EVALUATION.values(),
        *(f"{OUT}/figures/{name}.{suffix}" for name in FIGURES for suffix in ["png", "svg"]),
        f"{OUT}/report.html",
        f"{OUT}/verdict.txt",
    localrule: True


onstart:
    end_well_when_stopped()
    clear_up(log)


onsuccess:
    slurm.forget(Path(OUT))
    remove_surplus()
    print(closing_words())


onerror:
    slurm.forget(Path(OUT))
    remove_outdated_report()
    print(mistakes())
