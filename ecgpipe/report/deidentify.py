"""Pages without names: record ids and paths may tell who a patient is, so recordings get numbers instead.

What may be shown is listed here. A setting, or a field of run.json, that is on no list is hidden.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.evaluation import notes
from ecgpipe.models.labels import Label
from ecgpipe.report import summary

ANY = "*"  # each key: names of labels, versions, names of a fixed set


def _each(*keys: str) -> dict[str, Any]:
    return dict.fromkeys(keys, True)


# Settings that are numbers, yes or no, or a word of a few. The report's title is shown too, as its headline.
SETTINGS: dict[str, Any] = {
    **_each("max_failed_fraction"),
    "manifest": _each("shard_size", "ptbxl"),
    "preprocess": _each(
        *("assume_sample_rate", "assume_unit", "segment_s", "tail", "short", "missing_leads", "min_leads"),
        "keep_segments",
    ),
    "inference": _each(
        *("shards_per_part", "attention", "device", "batch_size", "precision", "max_drift", "deterministic", "backend"),
    ),
    "umap": _each("neighbors", "min_dist", "random_state", "fit_segments"),
    "attribution": _each("recordings", "steps"),
    "evaluation": _each("resamples", "seed"),
    "report": _each("recordings", "map_points", "paths"),
}

_SCAN = _each("recordings", "added", "changed", "removed")
_DRIFT = {
    **_each("asked", "used", "device", "compared", "bound", "segments", "largest"),
    "probability": {ANY: _each("largest", "mean")},
    "embedding": _each("largest", "mean"),
}

# Of run.json. What is made of texts is not here: reasons, other files, warnings, the checkpoint's address.
RUN: dict[str, Any] = {
    **_each("ecgpipe", "finished"),
    "code": _each("version", "source_sha256", "commit"),
    "made_by": {stage: {ANY: True} for stage in provenance.MEANING},
    "inputs": {"scans": _SCAN},  # not their hash: who guesses the paths could see that the guess is right
    "counts": _each(
        *("recordings", "ok", "skipped", "failed", "segments", "hours", "duplicates", "other_files"), *schemas.FLAGS
    ),
    "checkpoint": _each("sha256", "random_weights", "labels"),
    "throughput": _each("segments", "seconds", "segments_per_s"),
    "calibration": {**_each("method", "sha256", "left"), "fitted": _each("recordings")},
    "precision": {**_each("used", "recomputed_segments"), "parts": {ANY: True}, "drift": _DRIFT},
    "hardware": {
        **_each("inference", "system", "cpus", "memory_gb"),  # the last three of an older version
        "machines": _each("device", "system", "cpu", "cpus", "memory_gb", "parts"),
    },
    "versions": _each("python", *provenance.PACKAGES),
    "config": SETTINGS,
}

# Of evaluation/account.json. Columns and their values are not here: split, patient, subgroups.
EVALUATION: dict[str, Any] = {
    "recordings": {
        **_each("predicted", "without_truth", "with_truth", "outside_split", "evaluated"),
        "truth_without_prediction": _each("skipped", "failed", "not_in_the_run"),
    },
    "intervals": _each("resamples", "seed", "level", "unit", "patients", "without_patient"),
    "labels": {ANY: _each("known", "unknown", "positive", "threshold", "threshold_from")},
    **_each("labels_without_truth", "labels_with_one_class"),
}

# Of what the metadata of results says of their making, where two runs are compared.
ORIGIN: dict[str, Any] = {
    "meaning": dict.fromkeys(provenance.MEANING, True),
    "preprocess": _each(
        *("leads", "sample_rate", "segment_samples", "segment_s", "tail", "short", "missing_leads", "min_leads"),
        *("assume_sample_rate", "assume_unit"),
    ),
}

_APART = "Thresholds, calibration or heads were fitted, on none of the recordings evaluated here."

_METHOD = re.compile(r"(youden|f1|(sensitivity|specificity)=[\d.]+)")


def only(content: Any, shown: Mapping[str, Any] | bool) -> Any:  # noqa: ANN401, JSON
    """What of some JSON may be shown.

    Args:
        content: The JSON.
        shown: By key what of its value, True for all; `ANY` stands for every key. Of a list: what of each.

    Returns:
        The same form, with what `shown` lists alone.
    """
    if shown is True or content is None:
        return content
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [only(one, shown) for one in content]
    if not isinstance(content, Mapping) or not isinstance(shown, Mapping):
        return None
    known = {key: shown.get(key, shown.get(ANY)) for key in content}
    return {key: only(content[key], some) for key, some in known.items() if some is not None}


def without_paths(run: dict[str, Any]) -> dict[str, Any]:
    """What run.json says and names nobody, in the form that the pages read.

    Args:
        run: The content of run.json.

    Returns:
        Fewer of the same keys. A checkpoint of the hub keeps its address.
    """
    found: dict[str, Any] = only(run, RUN)
    others: Counter[str] = Counter()
    for reason, count in run.get("other_files", {}).items():
        others[general(reason)] += count
    reasons: Counter[tuple[str, str]] = Counter()
    for reason in run.get("reasons", []):
        reasons[reason["status"], general(reason["reason"])] += reason["count"]
    of_hub = run["checkpoint"]["uri"].startswith("hf://")
    found["checkpoint"]["uri"] = run["checkpoint"]["uri"] if of_hub else "a local file"
    found["checkpoint"]["revision"] = run["checkpoint"]["revision"] if of_hub else None
    if (found.get("calibration") or {}).get("fitted"):
        found["calibration"]["fitted"]["on"] = None  # a column and its value
    return {
        **found,
        "inputs": {**found.get("inputs", {}), "sha256": None},
        "reasons": [{"status": s, "reason": r, "count": n} for (s, r), n in reasons.most_common()],
        "other_files": dict(others.most_common()),
        "warnings": summary.warnings_of(found),  # anew, from numbers
    }


def evaluation(account: Mapping[str, Any], columns: Collection[str]) -> dict[str, Any]:
    """What an evaluation's account says and names nobody, in the form that the report reads.

    Args:
        account: The content of evaluation/account.json.
        columns: Of the inputs' tables that are to be shown.

    Returns:
        Its keys; `split`, the patient's column and what was fitted on whom are not named.
    """
    found: dict[str, Any] = only(account, EVALUATION)
    return {
        **found,
        "split": {"column": None, "value": None} if account["split"] else None,
        "intervals": {**found["intervals"], "patient_column": None},
        "fitted": [_APART] if notes.NO_OVERLAP in account["fitted"] else [],
        "subgroups": {column: values for column, values in account["subgroups"].items() if column in columns},
    }


def label(given: Label) -> Label:
    """A label as it may be shown: of a threshold's choice neither the column nor the value of the split."""
    made = given.threshold_from
    if made is None:
        return given
    method = made["method"] if _METHOD.fullmatch(str(made["method"])) else "a method of its own"
    return given._replace(threshold_from={**made, "method": method, "on": None})


def general(reason: str) -> str:
    """A reason without its particulars.

    Those stand in brackets, and a test holds all readers to it; nothing from the first one on is kept, which is more
    than `schemas.kind` leaves out of a foreign text. The file extension stands after a comma.
    """
    return re.sub(r"^(no known format), .*", r"\1", reason.partition(" (")[0], flags=re.DOTALL)


def shows_names(run: Mapping[str, Any]) -> bool:
    """Whether pages of a finished run may name recordings and files: its setting `report.paths`."""
    return bool((run["config"].get("report") or {}).get("paths", True))


def called(number: int) -> str:
    """What a recording is called where ids are left out: by its row in `records/`, from 1, over all shards."""
    return f"recording {number}"


def names(records: Sequence[Path], ids: pa.Array) -> list[str]:
    """What recordings are called.

    Args:
        records: All `records/shard-*.parquet`, in order.
        ids: Record ids, each once.

    Returns:
        A name for each of `ids`.
    """
    found = np.zeros(len(ids), int)
    done = 0
    for batch in parquet.batches(records, ["record_id"]):
        places = pc.index_in(batch["record_id"], ids)
        here = np.flatnonzero(places.is_valid())
        found[places.drop_null().to_numpy()] = done + here + 1
        done += batch.num_rows
    return [called(number) for number in found]
