"""De-identify pages: record ids and paths may tell who a patient is, so recordings get numbers instead.

The lists here say what may be shown. A setting, or a field of run.json, that is on no list is hidden.
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
from ecgpipe.core.run import Reason, RunInfo
from ecgpipe.evaluation import notes
from ecgpipe.models.labels import Label
from ecgpipe.report import summary

ANY = "*"  # each key: names of labels, versions, names of a fixed set


def _show_all(*keys: str) -> dict[str, Any]:
    return dict.fromkeys(keys, True)


# Settings that are numbers, yes or no, or a word of a few. The report's title is shown too, as its headline.
SETTINGS: dict[str, Any] = {
    **_show_all("max_failed_fraction"),
    "manifest": _show_all("shard_size", "ptbxl"),
    "preprocess": _show_all(
        *("assume_sample_rate", "assume_unit", "segment_s", "tail", "short", "missing_leads", "min_leads"),
        "keep_segments",
    ),
    "inference": _show_all(
        *("shards_per_part", "attention", "device", "batch_size", "precision", "max_drift", "deterministic", "backend"),
    ),
    "umap": _show_all("neighbors", "min_dist", "random_state", "fit_segments"),
    "attribution": _show_all("recordings", "steps", "tolerance"),
    "evaluation": _show_all("resamples", "seed"),
    "report": _show_all("recordings", "map_points", "paths"),
}

_SCAN = _show_all("recordings", "added", "changed", "removed")
_DRIFT = {
    **_show_all("asked", "used", "device", "compared", "bound", "segments", "largest"),
    "probability": {ANY: _show_all("largest", "mean")},
    "embedding": _show_all("largest", "mean"),
}

# Of run.json. Texts are not here: reasons, other files, warnings, the checkpoint's address.
RUN: dict[str, Any] = {
    **_show_all("ecgpipe", "finished"),
    "code": _show_all("version", "source_sha256", "commit"),
    "made_by": {stage: {ANY: True} for stage in provenance.MEANING},
    "inputs": {"scans": _SCAN},  # not their hash, by which a guess of the paths could be checked
    "counts": _show_all(
        *("recordings", "ok", "skipped", "failed", "segments", "hours", "duplicates", "other_files"), *schemas.FLAGS
    ),
    "checkpoint": _show_all("sha256", "random_weights", "demo_model", "labels"),
    "throughput": _show_all("segments", "seconds", "segments_per_s"),
    "calibration": {**_show_all("method", "sha256", "left"), "fitted": _show_all("recordings")},
    "precision": {**_show_all("used", "recomputed_segments"), "parts": {ANY: True}, "drift": _DRIFT},
    "hardware": {
        **_show_all("inference", "system", "cpus", "memory_gb"),  # the last three of an older version
        "machines": _show_all("device", "system", "cpu", "cpus", "memory_gb", "parts"),
    },
    "versions": _show_all("python", *provenance.PACKAGES),
    "config": SETTINGS,
}

# Of evaluation/account.json. Columns and their values are not here: split, patient, subgroups.
EVALUATION: dict[str, Any] = {
    "recordings": {
        **_show_all("predicted", "without_truth", "with_truth", "outside_split", "evaluated"),
        "truth_without_prediction": _show_all("skipped", "failed", "not_in_the_run"),
    },
    "intervals": _show_all("resamples", "seed", "level", "unit", "patients", "without_patient"),
    "labels": {ANY: _show_all("known", "unknown", "positive", "threshold", "threshold_from")},
    **_show_all("labels_without_truth", "labels_with_one_class"),
}

# Of the metadata of results, if two runs are compared.
ORIGIN: dict[str, Any] = {
    "meaning": dict.fromkeys(provenance.MEANING, True),
    "preprocess": _show_all(
        *("leads", "sample_rate", "segment_samples", "segment_s", "tail", "short", "missing_leads", "min_leads"),
        *("assume_sample_rate", "assume_unit"),
    ),
}

_APART = "Thresholds, calibration or heads were fitted, on none of the recordings evaluated here."

_METHOD = re.compile(r"(youden|f1|(sensitivity|specificity)=[\d.]+)")


def keep_only(content: Any, shown: Mapping[str, Any] | bool) -> Any:  # noqa: ANN401, JSON
    """Keep only what of some JSON may be shown.

    Args:
        content: The JSON.
        shown: By key what to keep of its value, True for all of it; `ANY` stands for every key. It applies to each item
            of a list.

    Returns:
        JSON of the same form, with only what `shown` lists.
    """
    if shown is True or content is None:
        return content
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [keep_only(item, shown) for item in content]
    if not isinstance(content, Mapping) or not isinstance(shown, Mapping):
        return None
    rules = {key: shown.get(key, shown.get(ANY)) for key in content}
    return {key: keep_only(content[key], inner) for key, inner in rules.items() if inner is not None}


def deidentify_run(info: RunInfo) -> RunInfo:
    """De-identify what run.json says.

    Args:
        info: What it says.

    Returns:
        What of it names nobody; the rest is as in a run.json without it. `config` has the settings that may be shown. A
        checkpoint on the hub keeps its address.
    """
    shown: dict[str, Any] = keep_only(info.model_dump(mode="json", exclude_unset=True), RUN)
    is_on_hub = info.checkpoint.uri.startswith("hf://")
    shown["checkpoint"]["uri"] = info.checkpoint.uri if is_on_hub else "a local file"
    shown["checkpoint"]["revision"] = info.checkpoint.revision if is_on_hub else None
    if (shown.get("calibration") or {}).get("fitted"):
        shown["calibration"]["fitted"]["on"] = None  # a column and its value
    shown["inputs"] = {**shown.get("inputs", {}), "sha256": None}
    numbers = RunInfo.model_validate(shown)

    other_files: Counter[str] = Counter()
    for text, count in info.other_files.items():
        other_files[generalise(text)] += count
    reasons: Counter[tuple[str, str]] = Counter()
    for reason in info.reasons:
        reasons[reason.status, generalise(reason.reason)] += reason.count
    return numbers.model_copy(
        update={
            "reasons": tuple(Reason(status=s, reason=r, count=n) for (s, r), n in reasons.most_common()),
            "other_files": dict(other_files.most_common()),
            "warnings": tuple(summary.list_warnings(numbers)),  # anew, from numbers
        }
    )


def deidentify_evaluation(account: Mapping[str, Any], columns: Collection[str]) -> dict[str, Any]:
    """De-identify what an evaluation's account says.

    Args:
        account: The content of evaluation/account.json.
        columns: The columns of the inputs' tables that are to be shown.

    Returns:
        The same keys. The split, the patient's column, and the recordings that something was fitted on are not named.
    """
    shown: dict[str, Any] = keep_only(account, EVALUATION)
    return {
        **shown,
        "split": {"column": None, "value": None} if account["split"] else None,
        "intervals": {**shown["intervals"], "patient_column": None},
        "fitted": [_APART] if notes.NO_OVERLAP in account["fitted"] else [],
        "subgroups": {column: values for column, values in account["subgroups"].items() if column in columns},
    }


def deidentify_label(label: Label) -> Label:
    """De-identify a label: neither column nor value of the split that its decision threshold was chosen on is kept."""
    origin = label.threshold_from
    if origin is None:
        return label
    method = origin["method"] if _METHOD.fullmatch(str(origin["method"])) else "a method of its own"
    return label._replace(threshold_from={**origin, "method": method, "on": None})


def generalise(reason: str) -> str:
    """Leave out the particulars of a reason.

    They stand in brackets, which a test holds all readers to. Nothing from the first bracket on is kept;
    `schemas.strip_particulars` leaves out less of a text that is not ecgpipe's own. A file extension stands after a
    comma.
    """
    return re.sub(r"^(no known format), .*", r"\1", reason.partition(" (")[0], flags=re.DOTALL)


def name_by_row(number: int) -> str:
    """Name a recording by its row in `records/`, from 1, over all shards."""
    return f"recording {number}"


def number_recordings(records: Sequence[Path], ids: pa.Array) -> list[str]:
    """Name recordings by their rows.

    Args:
        records: All `records/shard-*.parquet`, in order.
        ids: Record ids, each once.

    Returns:
        A name for each of `ids`.
    """
    rows = np.zeros(len(ids), int)
    done = 0
    for batch in parquet.batches(records, ["record_id"]):
        places = pc.index_in(batch["record_id"], ids)
        here = np.flatnonzero(places.is_valid())
        rows[places.drop_null().to_numpy()] = done + here + 1
        done += batch.num_rows
    return [name_by_row(number) for number in rows]
