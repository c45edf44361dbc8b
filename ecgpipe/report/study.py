"""Put several models side by side: finished runs of different models over the same recordings.

Writes study.html, study.parquet (a row per recording) and study.json (all numbers of the page). Recordings are matched
by record_id, labels by a crosswalk to common statements (config/labels/crosswalk.csv, which you can edit). With true
labels (--truth, or those of the runs' settings) the models are evaluated on the statements that they share, and the
same linear probe is trained on each model's embeddings.
"""

import argparse
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ecgpipe import __version__
from ecgpipe.analysis.agreement import Disagreement
from ecgpipe.core import aligned_recordings, options, settings, study_inputs, study_settings
from ecgpipe.core.aligned_recordings import Aligned
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run
from ecgpipe.core.user_settings import StudySettings
from ecgpipe.evaluation import ground_truth, truth_tables
from ecgpipe.evaluation.ground_truth import Truth
from ecgpipe.evaluation.truth_tables import Source
from ecgpipe.report import study_attribution, study_page, study_results, study_runs, study_spaces, study_truth
from ecgpipe.report.study_attribution import Machine
from ecgpipe.report.study_results import Chosen, Side
from ecgpipe.report.study_runs import Labels, StudyRun
from ecgpipe.report.study_spaces import Spaces
from ecgpipe.report.study_truth import Evaluated

logger = logging.getLogger(__name__)


class Study(NamedTuple):
    """Everything that a study found. Its probabilities lie in an open file."""

    runs: Sequence[StudyRun]
    aligned: Aligned
    mapped: Labels
    side: Side
    found: Disagreement
    chosen: Chosen
    agreement: list[dict[str, Any]]
    evaluated: Evaluated | None
    spaces: Spaces
    has_patients: bool  # whether recordings of the same patient were told apart among neighbours

    @property
    def chosen_ids(self) -> list[str]:
        """The ids of the recordings on which the models disagree most."""
        ids: list[str] = [self.aligned.ids[place].as_py() for place in self.chosen.rows.tolist()]
        return ids


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe study`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the outdir of a finished run, named after its folder; or NAME=OUTDIR",
    )
    truth_tables.add_arguments(
        parser, "the settings evaluation.truth and mapping of the runs, or the columns of records/"
    )
    settings.add_arguments(parser, study_settings.Study)
    options.add(
        parser,
        "baseline",
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs of `untrained` checkpoints over the same recordings: the baseline of the probe of that network",
    )
    options.add(parser, "device", help="for --attributions (default %(default)s)")
    options.add(parser, "threads", help="CPU threads, for --attributions (default %(default)s)")
    options.add(parser, "output", default=Path("study"), help="folder (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Put several runs side by side."""
    runs = study_runs.read_runs([study_runs.parse_run(text) for text in args.runs])
    baselines = [study_runs.read_run(path.name, Run(path)) for path in args.baseline]
    given = settings.parse_arguments("study", study_settings.Study, args)
    asked = study_results.choose_settings(given, runs)
    table = args.truth or (Path(given.truth) if given.truth else None)
    source = study_truth.choose_source(runs, table, args.map, given.mapping)
    machine = Machine(args.device, args.threads)
    folders = {run.name: run.run.outdir for run in runs}
    made_by = study_inputs.name_makers(given, folders) if args.settings else {}
    write_study(runs, study_truth.find_baselines(runs, baselines), source, asked, machine, args.output, made_by)


def write_study(
    runs: Sequence[StudyRun],
    baselines: Mapping[str, StudyRun],
    source: Source | None,
    asked: StudySettings,
    machine: Machine,
    folder: Path,
    made_by: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write study.html, study.parquet and study.json.

    Args:
        runs: The runs.
        baselines: By model, a run of its network with random weights.
        source: Of the true labels; None where none were asked for.
        asked: The settings.
        machine: What attributions are computed on.
        folder: Where to write to.
        made_by: What the files name as that which made them (`study_inputs.name_makers`); nothing outside a workflow.

    Raises:
        EcgpipeError: A file cannot be read, or something was fitted on recordings to evaluate.
    """
    mapped = study_runs.map_labels(runs, study_runs.read_crosswalk(asked.crosswalk, runs))
    aligned = aligned_recordings.align([one.ids for one in runs])
    logger.info(
        "%s recordings, %s of them in all %d runs; %d statements of two models or more",
        *(f"{number:,}" for number in (len(aligned.ids), int(aligned.is_in_all.sum()))),
        len(runs),
        len(mapped.shared),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        side = study_results.collect_probabilities(runs, aligned, mapped.shared, file)
        truth, patients = read_truth(runs, aligned, mapped, source, asked)
        study = compute(runs, baselines, aligned, mapped, side, truth, patients, asked)
        study_results.write_table(folder / "study.parquet", runs, aligned, side, study.found, made_by)
        account = describe(study, asked)
        named = {settings.KEY: dict(made_by)} if made_by else {}
        write_json(folder / "study.json", _without_nan({**account, **named}))
        page = make_page(study, account, asked, machine)
    if made_by:
        page = page.replace(">", f">\n<!-- {settings.format_mark(made_by)} -->", 1)
    with whole(folder / "study.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    logger.info("%s: %.1f MB", folder / "study.html", len(page) / 1e6)


def read_truth(
    runs: Sequence[StudyRun], aligned: Aligned, mapped: Labels, source: Source | None, asked: StudySettings
) -> tuple[Truth | None, np.ndarray | None]:
    """Read the true labels, and the patient of each recording.

    Returns:
        The true labels of all recordings, None without any; and (recordings,) integers, None where no column is named.

    Raises:
        EcgpipeError: As of `study_truth.read_truth`, or the column of the patient is not there.
    """
    columns = [name for name in (asked.patient, asked.split) if name]
    truth = study_truth.read_truth(runs, aligned, mapped, source, columns)
    if asked.patient is None:
        return truth, None
    patients = (
        truth.columns[asked.patient]
        if truth
        else ground_truth.read_column(asked.patient, aligned.ids, runs[0].records, source.table if source else None)
    )
    if patients is None:
        raise EcgpipeError(f"patient: {asked.patient!r} is no column of records/; give another, or leave out --patient")
    return truth, ground_truth.number_patients(patients)


def compute(
    runs: Sequence[StudyRun],
    baselines: Mapping[str, StudyRun],
    aligned: Aligned,
    mapped: Labels,
    side: Side,
    truth: Truth | None,
    patients: np.ndarray | None,
    asked: StudySettings,
) -> Study:
    """Compute everything that a study shows; arguments as of `write_study` and its parts."""
    if truth:
        others = [name for name in truth.names if name not in side.statements]
        logger.info("true labels that fewer than two models have, for the probe alone: %s", ", ".join(others) or "none")
    found, chosen = study_results.find_disagreement(side, asked.recordings)
    evaluated = study_truth.evaluate(runs, aligned, mapped, side, truth, asked) if truth else None
    return Study(
        runs=runs,
        aligned=aligned,
        mapped=mapped,
        side=side,
        found=found,
        chosen=chosen,
        agreement=study_results.tabulate_agreement(side),
        evaluated=evaluated,
        spaces=study_spaces.compare_spaces(runs, baselines, aligned, truth, patients, asked),
        has_patients=patients is not None,
    )


def describe(study: Study, asked: StudySettings) -> dict[str, Any]:
    """All numbers of a study, for study.json.

    Args:
        study: The study.
        asked: The settings.

    Returns:
        JSON, with NaN where a number is not defined.
    """
    missing = study_runs.count_missing(study.runs, study.aligned, paths=True)
    names = [run.name for run in study.runs]
    return {
        "ecgpipe": __version__,
        "models": {run.name: study_runs.describe_model(run, paths=True) for run in study.runs},
        "recordings": {
            "all": len(study.aligned.ids),
            "in_all_models": int(study.aligned.is_in_all.sum()),
            "models": dict(zip(names, missing, strict=True)),
        },
        "labels": {
            "shared": study.mapped.shared,
            "related": {
                statement: {
                    name: [{"label": row.label, "relation": row.relation, "note": row.note} for row in rows]
                    for name, rows in by_model.items()
                }
                for statement, by_model in study.mapped.related.items()
            },
        },
        "evaluation": _describe_evaluation(study.evaluated),
        "agreement": study.agreement,
        "embeddings": _describe_embeddings(study),
        "probe": _describe_probe(study.spaces),
        "settings": asked.model_dump(include=set(StudySettings.model_fields)),
    }


def _describe_evaluation(evaluated: Evaluated | None) -> dict[str, Any] | None:
    if evaluated is None:
        return None
    return {**evaluated._asdict(), "rows": [row._asdict() for row in evaluated.rows]}


def _describe_embeddings(study: Study) -> dict[str, Any] | None:
    embedded = study.spaces.embedded
    if embedded is None:
        return None
    return {
        "models": embedded.models,
        "recordings": embedded.recordings,
        "common": embedded.common,
        "cka": embedded.cka.plain.tolist(),
        "cka_unbiased": embedded.cka.unbiased.tolist(),
        "overlap": embedded.overlap.share.tolist(),
        "neighbors": embedded.overlap.nearest,
        "queries": embedded.overlap.queries,
        "chance": embedded.overlap.chance,
        "without_the_same_patient": study.has_patients,
    }


def _describe_probe(spaces: Spaces) -> dict[str, Any] | None:
    if spaces.probed is None:
        return {"not_probed": spaces.not_probed} if spaces.not_probed else None
    return {**spaces.probed._asdict(), "rows": [row._asdict() for row in spaces.probed.rows]}


def _without_nan(value: Any) -> Any:  # noqa: ANN401, JSON
    """Replace NaN by None, which JSON has."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return [_without_nan(inner) for inner in value] if isinstance(value, list | tuple) else value


def make_page(study: Study, account: Mapping[str, Any], asked: StudySettings, machine: Machine) -> str:
    """Make the page. It names no recordings and no folders if one of the runs has `report.paths: false`.

    Args:
        study: The study.
        account: What `describe` says of it.
        asked: The settings.
        machine: What attributions are computed on.

    Returns:
        HTML.
    """
    runs, side = study.runs, study.side
    paths = all(run.paths for run in runs)
    names = {run.name: study_runs.name_in_page(run, number, paths) for number, run in enumerate(runs)}
    names |= {name + study_spaces.RANDOM: shown + study_spaces.RANDOM for name, shown in names.items()}
    rows = study_page.choose_rows(runs, study.aligned, study.chosen, asked.map_recordings, asked.seed, paths)
    maps = study_page.encode_maps(runs, names, rows)
    statements = [side.statements[study.found.statement[place]] for place in study.chosen.rows]
    disputed = list(zip(study.chosen_ids, statements, strict=True))[: asked.attributions]
    added = [study_attribution.attribute_disputed(run, disputed, study.mapped.shared, machine) for run in runs]
    views = list(study_page.read_views(runs, rows, study.chosen_ids, paths, added))
    data = {
        "rows": {**study_page.encode_rows(rows, side, study.found.spread, names), "paths": paths},
        "maps": maps,
        "views": views,
    }
    labelled = [name for number, name in enumerate(side.models) if side.has[number].any()]
    pairs = study_page.pair_models(labelled)
    context = {
        "title": asked.title,
        "paths": paths,
        "account": account,
        "models": [
            {"name": names[run.name], **study_runs.describe_model(run, paths), "missing": missing}
            for run, missing in zip(runs, study_runs.count_missing(runs, study.aligned, paths), strict=True)
        ],
        "random": [names[run.name] for run in runs if run.random_weights],
        "mapping": study_page.tabulate_labels(study.mapped, [run.name for run in runs]),
        "evaluation": study_page.show_evaluation(study.evaluated, names, labelled, pairs) if study.evaluated else None,
        "agreement": study_page.tabulate_agreement(study.agreement, names, pairs),
        "disagreements": study_page.list_disagreements(study.chosen, rows, study.found, side, names),
        "spaces": study_page.show_spaces(study.spaces, names),
        "has_patients": study.has_patients,
        "maps": [{"model": one["model"], "points": len(one["points"]["row"])} for one in maps],
        "n_rows": len(rows.names),
        "n_views": sum(view["view"] is not None for view in views),
        "version": __version__,
    }
    return study_page.render(context, data)
