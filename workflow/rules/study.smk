# The runs of a study side by side.
STUDY = [OUT.study(name) for name in STUDY_FILES] if len(RUN.models) > 1 else []

if STUDY:

    rule study:
        input:
            results_to_compare,
            runs=[run.paths.file("run") for run in RUN.runs],
            umaps=[run.paths.file("umap") for run in RUN.runs],
            settings=settings_of_study,
        output:
            *STUDY,
        log:
            OUT.log("study"),
        benchmark:
            OUT.benchmark("study")
        conda:
            "../envs/ecgpipe.yaml"
        resources:
            mem_mb=growing(4000, per_million=10000),
            runtime=lasting(60, per_million=60),
        params:
            runs=[f"{run.paths.model}={run.paths.outdir}" for run in RUN.runs],
            folder=lambda wildcards, output: str(Path(output[0]).parent),
        shell:
            "python3 -m ecgpipe study {params.runs:q} --settings {input.settings:q} --output {params.folder:q} --log {log:q}"
