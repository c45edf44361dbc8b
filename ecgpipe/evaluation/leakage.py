"""The data-leakage check: refuse to score recordings that thresholds, a calibration or a head were fitted on.

Beside each fitted file lies another one with hashes of the ids, signals and patients of the recordings that it was
fitted on. The fitted file names its SHA-256. Scoring needs it; a run does not.
"""

import argparse
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import normalized_text, options, parquet, provenance, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run
from ecgpipe.core.typed import write_setting
from ecgpipe.evaluation import ground_truth, truth_tables
from ecgpipe.evaluation.truth_tables import Source
from ecgpipe.models import calibration, heads, labels

logger = logging.getLogger(__name__)

# By what a recording is recognised.
KINDS = ("record_id", "signal", "patient")

# As the column of the patient it says that each recording counts as a patient: the patients themselves are unknown.
EACH = "record_id"

# Ids that a message names.
NAMED = 3


class Selection(NamedTuple):
    """Which recordings to fit on."""

    split: str | None  # the column that says it; None: all recordings
    value: str | None  # its value for the recordings to take
    patient: str | None  # the column of the patient, none of whose recordings may be scored later


class Sample(NamedTuple):
    """Recordings to fit on: those of a split that have a true label."""

    truth: ground_truth.Truth
    signals: pa.Array  # (recordings,) `signal_hash`, null where there is none
    patients: pa.Array | None  # (recordings,), null where unknown; None where no column was named
    heads: tuple[str, ...]  # labels of heads with true labels, which nothing is fitted to
    scores: dict[str, Any]  # `provenance.select_scores` of the predictions, and `aggregation` by label
    facts: dict[str, Any]  # what the fitted file says of the fit: `on`, `recordings`, ...

    @property
    def split(self) -> str:
        """The split in words."""
        return str(self.facts["on"] or "all recordings")


class Fit(NamedTuple):
    """What was fitted on which recordings."""

    what: str  # e.g. "the thresholds of labels.csv"
    on: str | None  # the split, e.g. "fold = 9"; None: all recordings
    hashes: dict[str, np.ndarray]  # by kind, uint64
    patient: str | None = None  # the column of the patients; None where none was named


class Recordings(NamedTuple):
    """Recordings, by all that they are recognised by."""

    ids: pa.Array  # (recordings,)
    signals: pa.Array  # (recordings,) their `signal_hash`, null where there is none
    patients: pa.Array | None = None  # (recordings,) null where unknown; None where no column is known


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to fit on: the run, its true labels, and the split."""
    options.add_run(parser)
    truth_tables.add_arguments(parser, "the run's settings evaluation.truth and mapping, or the columns of records/")
    options.add(parser, "split", help="column that says which recordings to fit on (default: all)")
    options.add(parser, "on", help="its value for these recordings, e.g. valid")
    options.add(parser, "patient", help="column of the patient, none of whose recordings may be scored later")


def read_scores(predictions: Sequence[Path]) -> dict[str, Any]:
    """Read how a run's predictions came about.

    Args:
        predictions: All `predictions/part-*.parquet`.

    Returns:
        `provenance.select_scores`, and `aggregation` by label.

    Raises:
        EcgpipeError: The parts are not of one kind.
    """
    scores: list[dict[str, Any]] = []
    for path in predictions:
        origin = provenance.read_origin(pq.read_schema(path))
        scores.append({**provenance.select_scores(origin), "aggregation": origin.get("aggregation", {})})
        different = provenance.describe_difference(scores[0], scores[-1])
        if different:
            raise EcgpipeError(f"{path} was made with {different} than {predictions[0]}; finish the run first")
    return scores[0]


def read_sample(run: Run, source: Source, selection: Selection) -> Sample:
    """Read the recordings to fit on.

    Args:
        run: A finished run.
        source: Of the true labels.
        selection: Which of its recordings to take.

    Returns:
        The recordings.

    Raises:
        EcgpipeError: As of `ground_truth.read_truth`, or no recording of the split has a known true label.
    """
    column, value, patient = selection
    if (column is None) != (value is None):
        raise EcgpipeError("--split, --on: one says which column, the other which value; give both or neither")
    predictions, records = run.files("predictions"), run.files("records")
    columns = [name for name in dict.fromkeys([column, patient]) if name]
    truth = ground_truth.read_truth(predictions, records, source, columns)
    labels_of_heads = labels.read_head_labels(predictions[0])
    heads_left = tuple(name for name in truth.names if name in labels_of_heads)
    truth = ground_truth.drop_labels(truth, labels_of_heads)
    if not truth.names:
        raise EcgpipeError(
            f"truth: it has only labels of heads ({', '.join(heads_left)}), which take no thresholds and no "
            "calibration: a head gives the probabilities of a logistic regression, and is positive from 0.5 on; give "
            "the true labels of the model's own labels, by --map COLUMN=LABEL"
        )
    truth = ground_truth.mask_unpredicted(ground_truth.select_split(truth, column, value))
    return Sample(
        truth=truth,
        signals=parquet.column_of(records, "signal_hash", truth.record_ids),
        patients=truth.columns[patient] if patient else None,
        heads=heads_left,
        scores=read_scores(predictions),
        facts={
            "on": f"{column} = {value}" if column else None,
            "recordings": len(truth.record_ids),
            "patient": patient,
            "truth_sha256": provenance.hash_file(source.table) if source.table else None,  # None: the inputs' columns
            "inputs_sha256": provenance.read_origin(pq.read_schema(predictions[0])).get("inputs_sha256"),
        },
    )


def sidecar(path: Path) -> Path:
    """The path of the hashes of the recordings that a file was fitted on."""
    return path.with_name(f"{path.name}.fitted.parquet")


def write_sample(path: Path, stage: str, sample: Sample, method: str) -> str:
    """Write beside a file which recordings it was fitted on.

    Args:
        path: The file itself, which need not be there yet.
        stage: The stage that fits.
        sample: The recordings.
        method: By which it fits.

    Returns:
        The SHA-256 of what was written, for the file to name.
    """
    recordings = Recordings(sample.truth.record_ids, sample.signals, sample.patients)
    return write_hashes(path, stage, recordings, {"scores": sample.scores, **sample.facts, "method": method})


def write_hashes(path: Path, stage: str, recordings: Recordings, facts: Mapping[str, Any]) -> str:
    """Write beside a file the hashes of the recordings that it was fitted on.

    Args:
        path: The file itself, which need not be there yet.
        stage: The stage that fits.
        recordings: The recordings of the fit.
        facts: Its metadata.

    Returns:
        The SHA-256 of what was written, for the file to name.
    """
    values = dict(zip(KINDS, recordings, strict=True))
    columns = {kind: np.unique(_hash_values(kind, values[kind])) for kind in KINDS}
    what = np.repeat(KINDS, [len(columns[kind]) for kind in KINDS])
    schema = provenance.add_origin(schemas.FITTED, stage, **facts)
    hashes = pa.array(np.concatenate(list(columns.values())), pa.uint64())
    parquet.write(sidecar(path), pa.table([pa.array(what, pa.string()), hashes], schema=schema))
    return provenance.hash_file(sidecar(path))


def read_fit(path: Path, what: str, on: str | None, sha256: str, patient: str | None = None) -> Fit:
    """Read which recordings a file was fitted on.

    Args:
        path: The file itself.
        what: What was fitted, in words.
        on: The split, as the file says.
        sha256: Of the hashes beside it, as the file says.
        patient: The column of the patients, where the hashes were written by an older version and do not say.

    Returns:
        The fit.

    Raises:
        EcgpipeError: The hashes are missing, or belong to another fit.
    """
    hashes_path = sidecar(path)
    if not hashes_path.is_file():
        raise EcgpipeError(
            f"{hashes_path} is missing, so it is unknown which recordings {what} were fitted on; put it back "
            f"beside {path.name}, or fit again"
        )
    if provenance.hash_file(hashes_path) != sha256:
        raise EcgpipeError(
            f"{hashes_path} belongs to another fit than {path.name}; put the right one back, or fit again"
        )
    table = pq.read_table(hashes_path)
    hashes = {kind: table.filter(pc.equal(table["what"], kind))["hash"].to_numpy() for kind in KINDS}
    patient = provenance.read_origin(table.schema).get("patient", patient)
    if patient == EACH:
        patient, hashes["patient"] = None, np.empty(0, np.uint64)
    return Fit(what, on, hashes, patient)


def read_fits(label_csv: Path, calibrated_by: Path | None, calibration_facts: Mapping[str, Any] | None) -> list[Fit]:
    """Read which recordings the thresholds and the calibration of a run were fitted on.

    Args:
        label_csv: The label CSV with the thresholds.
        calibrated_by: The calibration of the predictions; None for none.
        calibration_facts: What the predictions themselves say of it, `calibration` of their origin.

    Returns:
        One for the thresholds, unless a person wrote them, and one for the calibration, unless it is an assumption.

    Raises:
        EcgpipeError: A file cannot be read, the calibration is not that of the predictions, or as of `read_fit`.
    """
    sha256 = (calibration_facts or {}).get("sha256")
    if sha256 != (provenance.hash_file(calibrated_by) if calibrated_by else None):
        how = f"calibrated by the file with the SHA-256 {sha256}" if sha256 else "not calibrated"
        raise EcgpipeError(
            f"--calibration: {calibrated_by or 'no file'} was given, but the predictions were {how}; give the file "
            "that they were calibrated by"
        )
    choices = [label.threshold_from for label in labels.read(label_csv) if label.threshold_from]
    splits = {choice["fitted"]: choice["on"] for choice in choices}  # one, unless a person put files together
    fits = [read_fit(label_csv, f"the thresholds of {label_csv.name}", on, sha256) for sha256, on in splits.items()]
    fitted = calibration.read_calibration(calibrated_by).fitted if calibrated_by else None
    if calibrated_by and fitted:
        what = f"the parameters of {calibrated_by.name}"
        fits.append(read_fit(calibrated_by, what, fitted["on"], fitted["sha256"]))
    return fits


def read_head_fits(
    predicted_by: Mapping[str, Mapping[str, str]], names: Sequence[str], files: Sequence[Path] = ()
) -> list[Fit]:
    """Read which recordings the heads were trained on whose labels are to be scored.

    Args:
        predicted_by: What the predictions say of labels of heads, `heads` of their origin.
        names: The labels to score.
        files: Files of heads, wherever they lie now: they are told apart by their content.

    Returns:
        One for each head that has one of the labels.

    Raises:
        EcgpipeError: A head is not among the files, or as of `read_fit`.
    """
    by_sha256 = {provenance.hash_file(path): path for path in files if path.is_file()}
    # Predictions of an older version name the file.
    named = (Path(predicted_by[name]["path"]) for name in names if "path" in predicted_by.get(name, {}))
    by_sha256 = {provenance.hash_file(path): path for path in named if path.is_file()} | by_sha256
    labels_of: dict[str, list[str]] = {}
    for name in names:
        if name in predicted_by:
            labels_of.setdefault(predicted_by[name]["sha256"], []).append(name)
    fits = []
    for sha256, head_labels in labels_of.items():
        path = by_sha256.get(sha256)
        if path is None:
            raise EcgpipeError(
                f"--heads: the head that predicted {', '.join(map(repr, head_labels))} is not among the files (its "
                f"SHA-256 is {sha256[:12]}...); give its head.safetensors, which says which recordings it was trained "
                "on, or run again with another head"
            )
        facts = heads.load_head(path).facts
        fitted = facts.get("fitted")
        if fitted is None:
            raise EcgpipeError(f"heads: {path} does not say which recordings it was trained on; train it anew by probe")
        column = (facts.get("split") or {}).get("patient")
        fits.append(read_fit(path, f"the weights of {path}", fitted["on"], fitted["sha256"], column))
    return fits


def refuse_overlap(
    fits: Sequence[Fit],
    scored: Recordings,
    run: Recordings | None = None,
    column: Callable[[str], pa.Array | None] = lambda name: None,
) -> None:
    """Refuse to score recordings that something was fitted on: the numbers would be better than those of new ones.

    A recording is recognised by its id, by its signal (the same recording under another id), and by its patient. If the
    scoring names no column of the patient, that of the fit is used. If the fit named none, its recordings are searched
    for in this run, and their patients count as fitted on. Ids and patients are compared as texts, across datasets too:
    two datasets that use the same numbers for different patients are not told apart.

    Args:
        fits: What was fitted.
        scored: The recordings to score.
        run: All recordings of the run that is scored, with their patients.
        column: Reads a column by name for the recordings to score, (recordings,); None where there is none.

    Raises:
        EcgpipeError: Some of the recordings, or others of the same patients, were fitted on; or this cannot be checked,
            because the fit has patients and the scoring has no such column.
    """
    for fit in fits:
        patients_fitted_on = fit.hashes["patient"]
        columns = [scored.patients]
        if len(patients_fitted_on):
            columns.append(column(fit.patient) if fit.patient else None)  # the scoring may have named another one
        elif scored.patients is not None:
            patients_fitted_on = _find_patients(fit, run)
        columns = [values for values in columns if values is not None]
        if len(patients_fitted_on) and not columns:
            where = f"the column {fit.patient!r}" if fit.patient else "a column"
            raise EcgpipeError(
                f"evaluation.patient: not given, and {fit.what} were fitted with the patients of {where}, which is not "
                "here, so it is unknown whether recordings of the same patients are scored; name the column of the "
                f"patient: evaluation: {{patient: COLUMN}}, or {write_setting('evaluation.patient', 'COLUMN')}"
            )
        is_seen = {
            "record_id": _is_among("record_id", scored.ids, fit.hashes["record_id"]),
            "signal": _is_among("signal", scored.signals, fit.hashes["signal"]),
            "patient": np.zeros(len(scored.ids), bool),
        }
        for values in columns:
            is_seen["patient"] |= _is_among("patient", values, patients_fitted_on)
        leaked = np.logical_or.reduce(list(is_seen.values()))  # (recordings,)
        if not leaked.any():
            continue
        names = ", ".join(map(repr, scored.ids.filter(pa.array(leaked))[:NAMED].to_pylist()))
        by = {"record_id": "by id", "signal": "by signal", "patient": "by patient"}
        counts = ", ".join(f"{is_seen[kind].sum():,} {by[kind]}" for kind in KINDS)
        raise EcgpipeError(
            f"evaluation: {fit.what} were fitted on {fit.on or 'all recordings of a run'}, and {leaked.sum():,} of the "
            f"{len(scored.ids):,} recordings to score are among those or of their patients ({counts}), such as {names}"
            "; score another split (evaluation.split_value), or fit on another one"
        )


def _find_patients(fit: Fit, run: Recordings | None) -> np.ndarray:
    """Hash the patients of the run's recordings that something was fitted on without a column of the patient."""
    hashes = np.empty(0, np.uint64)
    recordings_found = 0
    if run is not None and run.patients is not None:
        is_fitted = _is_among("record_id", run.ids, fit.hashes["record_id"])
        is_fitted |= _is_among("signal", run.signals, fit.hashes["signal"])
        recordings_found = min(int(is_fitted.sum()), len(fit.hashes["record_id"]))
        hashes = np.unique(_hash_values("patient", run.patients.filter(pa.array(is_fitted))))
    if recordings_found < len(fit.hashes["record_id"]):
        logger.warning(
            "%s were fitted without a column of the patient, and only %s of %s of these recordings are in this run: "
            "other recordings of the same patients may be scored; fit again with --patient COLUMN",
            fit.what,
            f"{recordings_found:,}",
            f"{len(fit.hashes['record_id']):,}",
        )
    return hashes


def _is_among(kind: str, values: pa.Array, hashes: np.ndarray) -> np.ndarray:
    """(recordings,) bool: which of the values were fitted on."""
    is_among = np.zeros(len(values), bool)
    values = normalized_text.as_ids(values)
    is_among[values.is_valid().to_numpy(zero_copy_only=False)] = np.isin(_hash_values(kind, values), hashes)
    return is_among


def _hash_values(kind: str, values: pa.Array | None) -> np.ndarray:
    """The first eight bytes of the SHA-256 of each value that is not null: uint64.

    A value is recognised by its hash, and cannot be read from it; who guesses an id can see that the guess is right.
    """
    ids = pa.array([], pa.string()) if values is None else normalized_text.as_ids(values).drop_null()
    content = bytearray()
    for start in range(0, len(ids), parquet.BATCH_ROWS):
        for text in ids[start : start + parquet.BATCH_ROWS].to_pylist():
            content += hashlib.sha256(f"{kind} {text}".encode()).digest()[:8]
    return np.frombuffer(bytes(content), ">u8").astype(np.uint64)
