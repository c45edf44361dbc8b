from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.20")


configfile: Path(workflow.basedir) / "config" / "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/checkpoint.smk"
include: "workflow/rules/manifest.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/infer.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/umap.smk"
include: "workflow/rules/summary.smk"
include: "workflow/rules/report.smk"


rule all:
    input:
        f"{OUT}/report.html",
        all_parts("predictions"),
    localrule: True


onsuccess:
    print(closing_words())
