"""Recordings as a page shows them: read again, with what the model attends to and what speaks for labels."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from ecgpipe.core import parquet, schemas, settings
from ecgpipe.preprocessing import preprocess, reread
from ecgpipe.preprocessing.reread import Sources
from ecgpipe.preprocessing.segments import UnusableError, count_resampled, place_segments
from ecgpipe.readers import LEADS, UnreadableError
from ecgpipe.report import deidentify, waveform

logger = logging.getLogger(__name__)

# Leads named in the sentence on an attribution, those with the largest share.
MOST_LEADS = 3

ORDINALS = {1: "", 2: "second ", 3: "third "}


def add_results_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a stage that shows a run's results."""
    parser.add_argument("--run", type=Path, required=True, help="run.json")
    parser.add_argument("--description", type=Path, required=True, help="checkpoint/model.json")
    parser.add_argument("--labels", type=Path, help="the label CSV, which may give thresholds")
    parser.add_argument("--manifest", type=Path, required=True, help="the folder manifest/")
    parser.add_argument("--records", type=Path, required=True, help="the folder records/")
    parser.add_argument("--shards", type=int, help="how many shards the run has (default: all in the folder)")
    parser.add_argument("--predictions", type=Path, required=True, help="the folder predictions/")
    parser.add_argument("--attention", type=Path, help="the folder attention/, unless it was switched off")
    parser.add_argument("--parts", type=int, help="how many parts the run has (default: all in the folder)")
    parser.add_argument("--umap", type=Path, required=True, help="umap/umap.parquet")
    parser.add_argument("--examples", type=Path, required=True, help="examples.parquet: the recordings to show")
    parser.add_argument("--attribution", type=Path, help="attribution/attribution.parquet, where there is one")


def sources(args: argparse.Namespace, given: settings.Shown, token_samples: tuple[int, int]) -> Sources:
    """What `add_results_arguments` and the settings say of where recordings come from."""
    windows, assumed = preprocess.reading_from_settings(given.reading)
    return Sources(
        manifest=parquet.numbered(args.manifest, "shard", args.shards),
        records=parquet.numbered(args.records, "shard", args.shards),
        attention=parquet.numbered(args.attention, "part", args.parts) if args.attention else [],
        attribution=args.attribution,
        token_samples=token_samples,
        windows=windows,
        assumed=assumed,
    )


def read(
    record_ids: Sequence[str],
    given: Sources,
    paths: bool = True,
    more: Mapping[str, list[dict[str, Any]]] = MappingProxyType({}),
) -> dict[str, dict[str, Any]]:
    """Read recordings again and code what is drawn of them.

    Args:
        record_ids: Whose.
        given: Where the run's come from.
        paths: Whether a note may have particulars.
        more: By record id, attributions that are in no file, as `attributed` gives them.

    Returns:
        By record id `view`, as `waveform.coded` gives it, and `note`; one of them is None. Ids of which the run has no
        record are left out.
    """
    found, accounts = reread.rows(given.manifest, record_ids), reread.rows(given.records, record_ids)
    attention: dict[str, list[np.ndarray]] = {}
    for table in parquet.rows_of(given.attention, record_ids):
        rows = table["attention"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        for record_id, row in zip(table["record_id"].to_pylist(), rows, strict=True):
            attention.setdefault(record_id, []).append(row)  # in the order of the segments
    attributions = attributed(given.attribution, record_ids)
    shown: dict[str, dict[str, Any]] = {}
    for record_id in record_ids:
        if record_id not in accounts:
            continue
        account, view, note = accounts[record_id], None, None
        try:
            if record_id not in found:
                raise UnreadableError("the manifest does not have it any more")
            recording, twelve = reread.leads(found[record_id], account, given.windows, given.assumed)
            view = waveform.coded(
                twelve,
                recording.sample_rate,
                recording.unit,
                place_segments(count_resampled(recording), given.windows),
                given.windows.segment_samples,
                np.stack(attention[record_id]) if record_id in attention else None,
                [*attributions.get(record_id, []), *more.get(record_id, [])],
                given.token_samples,
            )
        except (UnreadableError, UnusableError) as error:
            note = str(error)
        except Exception as error:  # one odd file must not stop the report
            logger.exception("%s could not be drawn", account["path"])
            note = f"an error of ecgpipe's own ({type(error).__name__}: {error})"
        if note:
            note = f"No leads: the file could not be read again: {note if paths else deidentify.general(note)}."
        shown[record_id] = {"view": view, "note": note}
    return shown


def attributed(path: Path | None, record_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The attributions of some recordings, and in a sentence how far they can be trusted.

    Args:
        path: `attribution/attribution.parquet`, or None.
        record_ids: Whose.

    Returns:
        By record id, one for each label: `label`, `attribution` (segments, 12, samples), `judged`.
    """
    pieces: dict[tuple[str, str], list[pa.Table]] = {}
    for table in parquet.rows_of([path] if path else [], record_ids):
        keys = zip(table["record_id"].to_pylist(), table["label"].to_pylist(), strict=True)
        rows: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        for key, some in rows.items():
            pieces.setdefault(key, []).append(table.take(some))
    found: dict[str, list[dict[str, Any]]] = {}
    for (record_id, label), some_tables in pieces.items():
        own = pa.concat_tables(some_tables).sort_by("segment")
        values = own["attribution"].combine_chunks().flatten().to_numpy().reshape(len(own), len(LEADS), -1)
        numbers = {name: own[name].to_numpy() for name in schemas.JUDGED}
        told = {"label": label, "judged": judged(values, numbers), "attribution": values}
        found.setdefault(record_id, []).append(told)
    return found


def judged(attribution: np.ndarray, numbers: Mapping[str, np.ndarray]) -> str:
    """How far an attribution can be trusted, and which leads it comes from.

    Args:
        attribution: (segments, 12, samples).
        numbers: The columns of `schemas.attribution_schema`, (segments,) each.

    Returns:
        Sentences.
    """
    difference = (numbers["logit"] - numbers["baseline_logit"]).mean()
    shares = np.abs(attribution).sum(axis=(0, 2), dtype=float)
    shares /= shares.sum() or 1
    most = np.argsort(-shares, kind="stable")[:MOST_LEADS]
    leads = ", ".join(f"{LEADS[lead]} {shares[lead]:.0%}" for lead in most)
    return (
        f"Its sum misses the logit's difference from a flat line of {difference:.2f} by "
        f"{np.abs(numbers['error']).mean():.3f}. Without the tenth of the signal that speaks most for the label the "
        f"logit falls by "
        f"{numbers['drop'].mean():.2f}; a random tenth changes it by {numbers['random_change'].mean():.2f}. "
        f"Most comes from {leads}."
    )


def reason(why: Mapping[str, Any]) -> str:
    """Why a recording was chosen, in words."""
    words = {
        "strongest": f"{ORDINALS.get(why['rank'], '')}highest probability of {why['what']}",
        "borderline": f"near the threshold of {why['what']}",
        "outlier": "apart on the map",
        "quality": f"doubtful signal ({(why['what'] or '').replace('_', ' ')})",
        "random": "at random",
    }
    return words[why["kind"]]


def groups(chosen: Sequence[tuple[int, str, Sequence[Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """The chosen recordings as a list to pick from, by why they were chosen.

    Args:
        chosen: Row, name and reasons of each.

    Returns:
        `name` and `options` (`row`, `text`) of each group; a recording may stand in several.
    """
    heads = {
        "strongest": "Highest probability",
        "borderline": "Near the threshold",
        "quality": "Doubtful signal",
        "outlier": "Apart on the map",
        "random": "At random",
    }
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in heads}
    for row, name, reasons in chosen:
        for why in reasons:
            what = f"{(why['what'] or '').replace('_', ' ')}: " if why["what"] else ""
            found[why["kind"]].append({"row": row, "text": what + name})
    return [{"name": heads[kind], "options": options} for kind, options in found.items() if options]
