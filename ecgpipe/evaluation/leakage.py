"""On which recordings thresholds or a calibration were fitted, so that none of them is scored later as if it were new.

Beside a fitted file lies another one with hashes of those recordings' ids, signals and patients, bound to it by a
SHA-256. A run does not need it; scoring does.
"""

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import identity, parquet, provenance, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth
from ecgpipe.models import calibration, heads, labels

logger = logging.getLogger(__name__)

# What a recording is known again by.
KINDS = ("record_id", "signal", "patient")

# As the column of the patient it says that each recording counts as a patient: which patients there are, nobody knows.
EACH = "record_id"

# Ids that a message names.
NAMED = 3


class Sample(NamedTuple):
    """Recordings to fit on: those of a split for which something is known."""

    truth: ground_truth.Truth
    signals: pa.Array  # (recordings,) `signal_hash`, null where there is none
    patients: pa.Array | None  # (recordings,), null where nobody knows; None where no column was named
    heads: tuple[str, ...]  # labels of heads with true labels, which nothing is fitted to
    scores: dict[str, Any]  # `provenance.scores` of the predictions, and `aggregation` by label
    settings: dict[str, Any]  # `config` of the run's run.json
    facts: dict[str, Any]  # what is told of the fit: `on`, `recordings`, ...


class Fit(NamedTuple):
    """What was fitted on which recordings."""

    what: str  # e.g. "the thresholds of labels.csv"
    on: str | None  # the split, e.g. "fold = 9"; None: all that there were
    hashes: dict[str, np.ndarray]  # by kind, uint64
    patient: str | None = None  # the column that the patients were taken from; None where none was named


class Recordings(NamedTuple):
    """Recordings by all that they are known again by."""

    ids: pa.Array  # (recordings,)
    signals: pa.Array  # (recordings,) their `signal_hash`, null where there is none
    patients: pa.Array | None = None  # (recordings,) null where nobody knows; None where no column is known


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what to fit on."""
    parser.add_argument("--outdir", type=Path, default=Path("results"), help="of a finished run (default %(default)s)")
    ground_truth.add_arguments(parser, ground_truth.OF_RUN)
    parser.add_argument("--split", metavar="COLUMN", help="column that says which recordings to fit on (default: all)")
    parser.add_argument("--on", metavar="VALUE", help="what it says of those, e.g. valid")
    parser.add_argument("--patient", metavar="COLUMN", help="column of the patient: none of theirs may be scored later")


def settings(outdir: Path) -> dict[str, Any]:
    """The settings of a finished run."""
    path = outdir / "run.json"
    if not path.is_file():
        raise EcgpipeError(f"--outdir: there is no {path}; give the folder of a finished run's results")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["config"]
    return found


def scores(predictions: Sequence[Path]) -> dict[str, Any]:
    """How a run's predictions came about.

    Args:
        predictions: All `predictions/part-*.parquet`.

    Returns:
        `provenance.scores`, and `aggregation` by label.

    Raises:
        EcgpipeError: The parts are not of one kind.
    """
    found: list[dict[str, Any]] = []
    for path in predictions:
        origin = provenance.origin(pq.read_schema(path))
        found.append({**provenance.scores(origin), "aggregation": origin.get("aggregation", {})})
        different = provenance.difference(found[0], found[-1])
        if different:
            raise EcgpipeError(f"{path} was made with {different} than {predictions[0]}; finish the run first")
    return found[0]


def sample(args: argparse.Namespace) -> Sample:
    """Read what `add_arguments` was given.

    Args:
        args: Its options.

    Returns:
        The recordings to fit on.

    Raises:
        EcgpipeError: The run is not finished, as of `ground_truth.read`, or nothing is known of any recording of
            the split.
    """
    if (args.split is None) != (args.on is None):
        raise EcgpipeError("--split, --on: one says which column, the other which value; give both or neither")
    given = settings(args.outdir)
    predictions = parquet.of_run(args.outdir, "predictions")
    records = parquet.of_run(args.outdir, "records")
    beside = [name for name in dict.fromkeys([args.split, args.patient]) if name]
    table, mapped = ground_truth.of_run(args, given)
    everything = ground_truth.read(predictions, records, table, mapped, beside)
    of_heads = labels.read_head_labels(predictions[0])
    heads_left = tuple(name for name in everything.names if name in of_heads)
    everything = ground_truth.without(everything, of_heads)
    if not everything.names:
        raise EcgpipeError(
            f"truth: it has labels of heads alone ({', '.join(heads_left)}), which take no thresholds and no "
            "calibration: a head gives the probabilities of a logistic regression, and is positive from 0.5 on; give "
            "the true labels of the model's own labels, by --map COLUMN=LABEL"
        )
    found = ground_truth.where_predicted(ground_truth.in_split(everything, args.split, args.on))
    inputs = provenance.origin(pq.read_schema(predictions[0])).get("inputs_sha256")
    return Sample(
        truth=found,
        signals=parquet.column_of(records, "signal_hash", found.record_ids),
        patients=found.columns[args.patient] if args.patient else None,
        heads=heads_left,
        scores=scores(predictions),
        settings=given,
        facts={
            "on": f"{args.split} = {args.on}" if args.split else None,
            "recordings": len(found.record_ids),
            "patient": args.patient,
            "truth_sha256": provenance.file_sha256(table) if table else None,  # None: the inputs' own columns
            "inputs_sha256": inputs,
        },
    )


def sidecar(path: Path) -> Path:
    """Where the hashes of what a file was fitted on lie."""
    return path.with_name(f"{path.name}.fitted.parquet")


def write(path: Path, stage: str, given: Sample, **facts: Any) -> str:  # noqa: ANN401, whatever JSON holds
    """Write beside a file on which recordings it was fitted.

    Args:
        path: The file itself, which need not be there yet.
        stage: That fits.
        given: The recordings.
        facts: What else there is to say of the fit.

    Returns:
        The SHA-256 of what was written, for the file to name.
    """
    told = {"scores": given.scores, **given.facts, **facts}
    return write_hashes(path, stage, given.truth.record_ids, given.signals, given.patients, **told)


def write_hashes(
    path: Path,
    stage: str,
    ids: pa.Array,
    signals: pa.Array,
    patients: pa.Array | None,
    **facts: Any,  # noqa: ANN401, whatever JSON holds
) -> str:
    """Write beside a file which recordings it was fitted on.

    Args:
        path: The file itself, which need not be there yet.
        stage: That fits.
        ids: (recordings,) of the fit.
        signals: (recordings,) their `signal_hash`.
        patients: (recordings,) their patients; None where no column is known.
        facts: What there is to say of the fit.

    Returns:
        The SHA-256 of what was written, for the file to name.
    """
    values = {"record_id": ids, "signal": signals, "patient": patients}
    columns = {kind: np.unique(_hashes(kind, values[kind])) for kind in KINDS}
    what = np.repeat(KINDS, [len(columns[kind]) for kind in KINDS])
    schema = provenance.with_origin(schemas.FITTED, stage, **facts)
    hashes = pa.array(np.concatenate(list(columns.values())), pa.uint64())
    parquet.write(sidecar(path), pa.table([pa.array(what, pa.string()), hashes], schema=schema))
    return provenance.file_sha256(sidecar(path))


def read(path: Path, what: str, on: str | None, sha256: str, patient: str | None = None) -> Fit:
    """Read on which recordings a file was fitted.

    Args:
        path: The file itself.
        what: It is, in words.
        on: The split, as the file says.
        sha256: Of what was written beside it, as the file says.
        patient: The column of the patients, where what was written beside it is of an older version and does not say.

    Returns:
        The fit.

    Raises:
        EcgpipeError: The file beside it is gone, or of another fit.
    """
    beside = sidecar(path)
    if not beside.is_file():
        raise EcgpipeError(
            f"{beside} is not there, so that nobody can tell which recordings {what} were fitted on; put it back "
            f"beside {path.name}, or fit again"
        )
    if provenance.file_sha256(beside) != sha256:
        raise EcgpipeError(f"{beside} belongs to another fit than {path.name}; put the right one back, or fit again")
    table = pq.read_table(beside)
    kinds = {kind: table.filter(pc.equal(table["what"], kind))["hash"].to_numpy() for kind in KINDS}
    patient = provenance.origin(table.schema).get("patient", patient)
    if patient == EACH:
        patient, kinds["patient"] = None, np.empty(0, np.uint64)
    return Fit(what, on, kinds, patient)


def behind(csv: Path, calibrated: Path | None, told: Mapping[str, Any] | None) -> list[Fit]:
    """What was fitted on which recordings before a run's probabilities can be told positive or negative.

    Args:
        csv: The label CSV that the thresholds are taken from.
        calibrated: The calibration that the probabilities went through; None for none.
        told: What the predictions themselves say of it, `calibration` of their origin.

    Returns:
        One for the thresholds, unless a person wrote them, and one for the calibration, unless it is an assumption.

    Raises:
        EcgpipeError: A file cannot be read, the calibration is not that of the predictions, or as of `read`.
    """
    made_by = (told or {}).get("sha256")
    if made_by != (provenance.file_sha256(calibrated) if calibrated else None):
        how = f"calibrated by the file with the SHA-256 {made_by}" if made_by else "not calibrated"
        raise EcgpipeError(
            f"--calibration: {calibrated or 'no file'} was given, but the predictions were {how}; give what "
            "they went through"
        )
    choices = [label.threshold_from for label in labels.read(csv) if label.threshold_from]
    on = {made["fitted"]: made["on"] for made in choices}  # one, unless a person put files together
    found = [read(csv, f"the thresholds of {csv.name}", split, sha256) for sha256, split in on.items()]
    fit = calibration.read(calibrated).fitted if calibrated else None
    if calibrated and fit:
        found.append(read(calibrated, f"the parameters of {calibrated.name}", fit["on"], fit["sha256"]))
    return found


def of_heads(told: Mapping[str, Mapping[str, str]], names: Sequence[str], given: Sequence[Path] = ()) -> list[Fit]:
    """On which recordings the heads were trained whose labels are to be scored.

    Args:
        told: What the predictions say of labels that are heads', `heads` of their origin.
        names: The labels to score.
        given: Files of heads, wherever they lie now: which is which, their content says.

    Returns:
        One for each head that has one of them.

    Raises:
        EcgpipeError: A head is not among the files, or as of `read`.
    """
    files = {provenance.file_sha256(path): path for path in given if path.is_file()}
    # Predictions of an older version name the file.
    written = (Path(told[name]["path"]) for name in names if "path" in told.get(name, {}))
    files = {provenance.file_sha256(path): path for path in written if path.is_file()} | files
    labels_of: dict[str, list[str]] = {}
    for name in names:
        if name in told:
            labels_of.setdefault(told[name]["sha256"], []).append(name)
    found = []
    for sha256, some in labels_of.items():
        path = files.get(sha256)
        if path is None:
            raise EcgpipeError(
                f"--heads: the head that predicted {', '.join(map(repr, some))} is not among the files, of which the "
                f"SHA-256 would be {sha256[:12]}...; give its head.safetensors, or run again with the one that is "
                "there: it says which recordings it was trained on"
            )
        facts = heads.load(path).facts
        made = facts.get("fitted")
        if made is None:
            raise EcgpipeError(f"heads: {path} does not say which recordings it was trained on; train it anew by probe")
        column = (facts.get("split") or {}).get("patient")
        found.append(read(path, f"the weights of {path}", made["on"], made["sha256"], column))
    return found


def refuse_overlap(
    fits: Sequence[Fit],
    scored: Recordings,
    run: Recordings | None = None,
    column: Callable[[str], pa.Array | None] = lambda name: None,
) -> None:
    """Refuse to score recordings that something was fitted on: the numbers would be better than those of new ones.

    A recording is known again by its id, by its signal (the same recording under another id), and by its patient. Where
    the scoring names no column of the patient, that of the fit is taken. Where the fit named none, its recordings
    are looked for in this run, and their patients count as fitted on. Ids and patients are compared as texts, whatever
    data set they are of: two that number theirs alike are told apart only by other numbers.

    Args:
        fits: What was fitted.
        scored: The recordings to score.
        run: All recordings of the run that is scored, with their patients.
        column: Gives the column of a name for the recordings to score, (recordings,); None where there is none.

    Raises:
        EcgpipeError: Some of the recordings, or others of the same patients, were fitted on; or that cannot be told, as
            the fit knows patients and the scoring has no such column.
    """
    for fit in fits:
        patients_fitted_on = fit.hashes["patient"]
        columns = [scored.patients]
        if len(patients_fitted_on):
            columns.append(column(fit.patient) if fit.patient else None)  # the scoring may have named another one
        elif scored.patients is not None:
            patients_fitted_on = _patients_of(fit, run)
        columns = [values for values in columns if values is not None]
        if len(patients_fitted_on) and not columns:
            where = f"the column {fit.patient!r}" if fit.patient else "a column"
            raise EcgpipeError(
                f"evaluation.patient: not given, and {fit.what} were fitted with the patients of {where}, which is not "
                "here, so that nobody can tell whether recordings of the same patients are scored; name the column "
                "that says whose a recording is: evaluation: {patient: COLUMN}, or --config evaluation='{..., "
                "patient: COLUMN}'"
            )
        again = {
            "record_id": _among("record_id", scored.ids, fit.hashes["record_id"]),
            "signal": _among("signal", scored.signals, fit.hashes["signal"]),
            "patient": np.zeros(len(scored.ids), bool),
        }
        for values in columns:
            again["patient"] |= _among("patient", values, patients_fitted_on)
        leaked = np.logical_or.reduce(list(again.values()))  # (recordings,)
        if not leaked.any():
            continue
        names = ", ".join(map(repr, scored.ids.filter(pa.array(leaked))[:NAMED].to_pylist()))
        by = {"record_id": "by id", "signal": "by signal", "patient": "by patient"}
        counts = ", ".join(f"{again[kind].sum():,} {by[kind]}" for kind in KINDS)
        raise EcgpipeError(
            f"evaluation: {fit.what} were fitted on {fit.on or 'all recordings of a run'}, and {leaked.sum():,} of the "
            f"{len(scored.ids):,} recordings to score are among those or of their patients ({counts}), such as {names}"
            "; score another split (evaluation.split_value), or fit on another one"
        )


def _patients_of(fit: Fit, run: Recordings | None) -> np.ndarray:
    """The hashes of the patients of those recordings of a run that something was fitted on without knowing patients."""
    found = np.empty(0, np.uint64)
    here = 0
    if run is not None and run.patients is not None:
        by_id = _among("record_id", run.ids, fit.hashes["record_id"])
        by_signal = _among("signal", run.signals, fit.hashes["signal"])
        here = min(int((by_id | by_signal).sum()), len(fit.hashes["record_id"]))
        found = np.unique(_hashes("patient", run.patients.filter(pa.array(by_id | by_signal))))
    if here < len(fit.hashes["record_id"]):
        logger.warning(
            "nobody knows of which patients %s were fitted, but for %s of %s recordings, which are in this run: other "
            "recordings of theirs may be scored; fit again with --patient COLUMN",
            fit.what,
            f"{here:,}",
            f"{len(fit.hashes['record_id']):,}",
        )
    return found


def _among(kind: str, values: pa.Array, hashes: np.ndarray) -> np.ndarray:
    """(recordings,) bool: which of the values were fitted on."""
    found = np.zeros(len(values), bool)
    values = identity.as_ids(values)
    found[values.is_valid().to_numpy(zero_copy_only=False)] = np.isin(_hashes(kind, values), hashes)
    return found


def _hashes(kind: str, values: pa.Array | None) -> np.ndarray:
    """The first eight bytes of the SHA-256 of each value that there is: uint64, without those that are null.

    By them a value is known again, and not read; who guesses an id can see that the guess is right.
    """
    texts = [] if values is None else identity.as_ids(values).drop_null().to_pylist()
    content = b"".join(hashlib.sha256(f"{kind} {text}".encode()).digest()[:8] for text in texts)
    return np.frombuffer(content, ">u8").astype(np.uint64)
