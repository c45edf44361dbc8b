"""Recordings as a page shows them: read again, with attention and attributions."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ecgpipe.core import parquet, schemas
from ecgpipe.core.run import RunInfo
from ecgpipe.preprocessing import preprocess, reread
from ecgpipe.preprocessing.reread import Sources
from ecgpipe.preprocessing.segments import UnusableError, locate_segments
from ecgpipe.readers import Assumed, Recording, UnreadableError
from ecgpipe.report import deidentify, waveform

logger = logging.getLogger(__name__)

# Leads named in the sentence on an attribution, those with the largest share.
MOST_LEADS = 3

ORDINALS = {1: "", 2: "second ", 3: "third "}


class Stored(NamedTuple):
    """What a run says of some recordings, by record id."""

    sources: Sources
    rows: dict[str, dict[str, Any]]  # of the manifest
    records: dict[str, dict[str, Any]]
    attention: dict[str, np.ndarray]  # (segments, tokens)
    attributions: dict[str, list[dict[str, Any]]]


class Drawn(NamedTuple):
    """A recording as it was read, and what is drawn of it whatever the model."""

    row: dict[str, Any]  # of the manifest, by which it was read
    assumed: Assumed
    recording: Recording
    leads: dict[str, Any]  # of `waveform.encode_leads`


def read_views(
    record_ids: Sequence[str],
    sources: Sources,
    paths: bool = True,
    added_attributions: Mapping[str, list[dict[str, Any]]] = MappingProxyType({}),
) -> dict[str, dict[str, Any]]:
    """Read recordings again and encode what is drawn of them.

    Args:
        record_ids: The recordings.
        sources: Where the run's recordings come from.
        paths: Whether a note may have particulars.
        added_attributions: By record id, attributions that are in no file, as `read_attributions` gives them.

    Returns:
        By record id `view`, `note` and `statements`, as of `view_recording`. Ids without a record in the run are left
        out.
    """
    stored = read_stored(record_ids, sources, added_attributions)
    return {name: view_recording(name, stored, paths)[0] for name in record_ids if name in stored.records}


def read_stored(
    record_ids: Sequence[str], sources: Sources, added_attributions: Mapping[str, list[dict[str, Any]]]
) -> Stored:
    """Read what a run says of some recordings; arguments as of `read_views`."""
    attention: dict[str, list[np.ndarray]] = {}
    for table in parquet.rows_of(sources.attention, record_ids):
        rows = table["attention"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        for record_id, row in zip(table["record_id"].to_pylist(), rows, strict=True):
            attention.setdefault(record_id, []).append(row)  # in the order of the segments
    attributions = read_attributions(sources.attribution, record_ids, sources.windows.model_input.leads)
    return Stored(
        sources,
        reread.read_rows(sources.manifest, record_ids),
        reread.read_rows(sources.records, record_ids),
        {name: np.stack(rows) for name, rows in attention.items()},
        {name: [*attributions.get(name, []), *added_attributions.get(name, [])] for name in record_ids},
    )


def view_recording(
    record_id: str, stored: Stored, paths: bool, drawn: Drawn | None = None
) -> tuple[dict[str, Any], Drawn | None]:
    """Encode what is drawn of a recording: its leads, and what the run's model makes of it.

    Args:
        record_id: A recording of the run.
        stored: What the run says of it.
        paths: Whether a note may have particulars.
        drawn: The recording as another run has it, if it was read already.

    Returns:
        `view`, as `waveform.encode_leads` and `waveform.encode_model` give it, and `note`, of which one is None, and
        the device's `statements`, none without `paths`: a text may name somebody; and the recording as it was read,
        None if it could not be.
    """
    record, sources, view, note = stored.records[record_id], stored.sources, None, None
    try:
        drawn = _read_again(stored.rows.get(record_id), sources.assumed, drawn)
        twelve = reread.choose_same_leads(drawn.recording, record, sources.windows)
        if not drawn.leads:
            leads = waveform.encode_leads(twelve, drawn.recording.sample_rate, drawn.recording.unit)
            drawn = drawn._replace(leads=leads)
        model_input = sources.windows.model_input
        view = drawn.leads | waveform.encode_model(
            drawn.leads["seconds"],
            locate_segments(drawn.recording, sources.windows),
            sources.windows.segment_samples,
            stored.attention.get(record_id),
            stored.attributions[record_id],
            sources.token_samples,
            waveform.Layout(model_input.rate, model_input.leads, sources.has_tokens_by_lead),
        )
    except (UnreadableError, UnusableError) as error:
        note = str(error)
    except Exception as error:  # one odd file must not stop the report
        logger.exception("%s could not be drawn", record["path"])
        note = f"an error of ecgpipe's own ({type(error).__name__}: {error})"
    if note:
        note = f"No leads: the file could not be read again: {note if paths else deidentify.generalise(note)}."
    statements = (record.get("device_statements") or []) if paths else []
    return {"view": view, "note": note, "statements": statements}, drawn


def _read_again(row: dict[str, Any] | None, assumed: Assumed, drawn: Drawn | None) -> Drawn:
    """Read a recording, unless it was read in the same way already; its leads are not encoded yet."""
    if row is None:
        raise UnreadableError("the manifest does not have it any more")
    if drawn and (drawn.row, drawn.assumed) == (row, assumed):
        return drawn
    return Drawn(row, assumed, preprocess.read_recording(row, assumed), {})


def read_attributions(
    path: Path | None, record_ids: Sequence[str], leads: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Read the attributions of some recordings, and say how far they can be trusted.

    Args:
        path: `attribution/attribution.parquet`, or None.
        record_ids: The recordings.
        leads: Those that the model takes.

    Returns:
        By record id, one for each label: `label`, `attribution` (segments, leads, samples), `judged`, which is a text.
    """
    pieces: dict[tuple[str, str], list[pa.Table]] = {}
    for part in parquet.rows_of([path] if path else [], record_ids):
        keys = zip(part["record_id"].to_pylist(), part["label"].to_pylist(), strict=True)
        rows: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        for key, table_rows in rows.items():
            pieces.setdefault(key, []).append(part.take(table_rows))
    attributions: dict[str, list[dict[str, Any]]] = {}
    for (record_id, label), tables in pieces.items():
        table = pa.concat_tables(tables).sort_by("segment")
        values = table["attribution"].combine_chunks().flatten().to_numpy().reshape(len(table), len(leads), -1)
        numbers = {name: table[name].to_numpy() for name in schemas.JUDGED}
        attribution = {"label": label, "judged": describe_attribution(values, numbers, leads), "attribution": values}
        attributions.setdefault(record_id, []).append(attribution)
    return attributions


def describe_attribution(attribution: np.ndarray, numbers: Mapping[str, np.ndarray], lead_names: Sequence[str]) -> str:
    """Say how far an attribution can be trusted, and which leads it comes from.

    Args:
        attribution: (segments, leads, samples).
        numbers: The columns of `schemas.attribution_schema`, (segments,) each.
        lead_names: Of its leads.

    Returns:
        Sentences.
    """
    difference = (numbers["logit"] - numbers["baseline_logit"]).mean()
    shares = np.abs(attribution).sum(axis=(0, 2), dtype=float)
    shares /= shares.sum() or 1
    most = np.argsort(-shares, kind="stable")[:MOST_LEADS]
    leads = ", ".join(f"{lead_names[lead]} {shares[lead]:.0%}" for lead in most)
    error = np.abs(numbers["error"]).mean()
    return (
        f"Completeness error {error:.3f} (logit \N{MINUS SIGN} baseline = {difference:.2f}) "
        f"in {describe_steps(numbers['steps'])} of the integral. Deleting "
        f"the top 10 % lowers the logit by {numbers['drop'].mean():.2f}; deleting a random 10 % changes it by "
        f"{numbers['random_change'].mean():.2f}. "
        f"Most comes from {leads}."
    )


def name_attributable(info: RunInfo, paths: bool) -> dict[str, Any]:
    """What the page needs to say how a recording is attributed to another label.

    Args:
        info: Of the run.
        paths: Whether the page names recordings.

    Returns:
        The model's `labels`, `paths`, and whether the model is the user's own file (`own`).
    """
    return {
        "labels": list(info.checkpoint.labels),
        "paths": paths,
        "own": str(info.config.get("model", "")).endswith(".py"),
    }


def describe_steps(steps: np.ndarray) -> str:
    """Say how many steps the segments took, e.g. "11 to 14 steps"."""
    least, most = int(steps.min()), int(steps.max())
    return f"{most} steps" if least == most else f"{least} to {most} steps"


def describe_reason(why: Mapping[str, Any]) -> str:
    """Say why a recording was chosen."""
    words = {
        "strongest": f"{ORDINALS.get(why['rank'], '')}highest probability of {why['what']}",
        "borderline": f"near the threshold of {why['what']}",
        "false_positive": f"false positive of {why['what']}",
        "false_negative": f"false negative of {why['what']}",
        "outlier": "UMAP outlier",
        "quality": f"low signal quality ({(why['what'] or '').replace('_', ' ')})",
        "random": "at random",
    }
    return words[why["kind"]]


def group_by_reason(chosen: Sequence[tuple[int, str, Sequence[Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """Make a list of the chosen recordings to pick from, by why they were chosen.

    Args:
        chosen: Row, name and reasons of each.

    Returns:
        `name` and `options` (`row`, `text`) of each group; a recording may stand in several.
    """
    heads = {
        "strongest": "Highest probability",
        "borderline": "Near the threshold",
        "false_positive": "False positive",
        "false_negative": "False negative",
        "quality": "Low signal quality",
        "outlier": "UMAP outliers",
        "random": "At random",
    }
    options: dict[str, list[dict[str, Any]]] = {kind: [] for kind in heads}
    for row, name, reasons in chosen:
        for why in reasons:
            what = f"{(why['what'] or '').replace('_', ' ')}: " if why["what"] else ""
            options[why["kind"]].append({"row": row, "text": what + name})
    return [{"name": heads[kind], "options": own} for kind, own in options.items() if own]
