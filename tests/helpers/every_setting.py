"""Every setting of a run, another value for it, and the stages whose results depend on it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ecgpipe.core.user_settings import Config
from ecgpipe.models import heads

LABELS = "name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n"
SHOWN = {"figures", "report"}
CHECKPOINT = b"a checkpoint"
READ = {"preprocess", "attribute", "summary", *SHOWN}

# By key a value that differs from `base`, and the stages whose own settings that changes. What follows from those is
# made again besides. A key that is missing here fails a test, and so a new setting is not forgotten.
CHANGES: dict[str, tuple[Any, set[str]]] = {
    "input": ("other", {"manifest"}),
    "outdir": ("elsewhere", set()),  # results that moved there are the same
    "checkpoint": ("y.pt", {"checkpoint"}),
    "model": ("deepecg-ssl", {"checkpoint", *READ}),
    "models": (["ecg-fm"], set()),  # what each model's run has of its own are other settings
    "model_options": ({"preprocessing": "plain"}, {"checkpoint", *READ}),
    "sha256": (hashlib.sha256(CHECKPOINT).hexdigest(), set()),  # what the file has anyway
    "labels": ("names.csv", {"checkpoint", "aggregate", "examples", "evaluate", "summary", *SHOWN}),
    "calibration": ("calibration.json", {"aggregate", "evaluate", "summary"}),
    "max_failed_fraction": (0.5, {"summary", "verdict"}),
    "heads": (["head.safetensors"], {"aggregate", "evaluate", "summary"}),
    "manifest.shard_size": (3, {"manifest", "summary"}),
    "manifest.ptbxl": ("records100", {"manifest", "summary"}),
    "preprocess.assume_sample_rate": (250, READ),
    "preprocess.assume_leads": (["I", "II"], READ),
    "preprocess.assume_unit": ("uV", READ),
    "preprocess.segment_s": (2.5, READ),
    "preprocess.tail": ("overlap", READ),
    "preprocess.short": ("pad", READ),
    "preprocess.missing_leads": ("zero", READ),
    "preprocess.min_leads": (3, READ),
    "preprocess.keep_segments": (True, set()),
    "preprocess.parts_ahead": (7, set()),
    "inference.shards_per_part": (3, {"infer", "summary"}),
    "inference.attention": (False, {"summary", *SHOWN}),
    "inference.device": ("auto", {"precision", "summary"}),  # float32 is no longer certain
    "inference.batch_size": (3, set()),
    "inference.precision": ("float32", {"summary"}),
    "inference.max_drift": (0.5, {"summary"}),
    "inference.deterministic": (True, {"infer", "summary"}),
    "inference.backend": ("fairseq", {"checkpoint", "infer", "attribute", "summary", *SHOWN}),
    "inference.fairseq_python": ("python", set()),
    "umap.neighbors": (4, {"umap", "summary"}),
    "umap.min_dist": (0.2, {"umap", "summary"}),
    "umap.random_state": (7, {"umap", "summary"}),
    "umap.fit_segments": (100, {"umap", "summary"}),
    "attribution.recordings": (3, {"attribute", "summary"}),
    "attribution.steps": (5, {"attribute", "summary"}),
    "attribution.tolerance": (0.2, {"attribute", "summary"}),
    "evaluation.truth": ("other.csv", {"evaluate", "summary"}),
    "evaluation.mapping": ({"first": "First"}, {"evaluate", "summary"}),
    "evaluation.patient": ("patient", {"evaluate", "summary"}),
    "evaluation.split": ("fold", {"evaluate", "summary"}),
    "evaluation.split_value": ("9", {"evaluate", "summary"}),
    "evaluation.subgroups": (["sex"], {"evaluate", "summary"}),
    "evaluation.resamples": (10, {"evaluate", "summary"}),
    "evaluation.seed": (7, {"evaluate", "summary"}),
    "report.title": ("Other", {"report", "summary"}),
    "report.recordings": (3, {"examples", "summary"}),
    "report.map_points": (100, {"report", "summary"}),
    "report.columns": (["sex"], {"report", "summary"}),
    "report.paths": (False, {"summary", *SHOWN}),
    # Of the page that puts several models side by side, on which no run depends.
    "study.title": ("Other", set()),
    "study.crosswalk": ("other.csv", set()),
    "study.patient": ("patient", set()),
    "study.split": ("fold", set()),
    "study.split_value": ("9", set()),
    "study.resamples": (10, set()),
    "study.seed": (7, set()),
    "study.recordings": (3, set()),
    "study.attributions": (1, set()),
    "study.map_recordings": (10, set()),
}

# What goes with a setting to make it one that is taken.
WITH: dict[str, dict[str, Any]] = {
    "model_options": {"model": "ecgfounder"},
    "inference.backend": {"inference.fairseq_python": "python", "attribution.recordings": 0},
    "evaluation.split": {"evaluation.split_value": "9"},
    "evaluation.split_value": {"evaluation.split": "fold"},
}


def leaves(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """The keys of all settings."""
    for name, field in model.model_fields.items():
        inside = field.annotation
        if isinstance(inside, type) and issubclass(inside, BaseModel):
            yield from leaves(inside, f"{prefix}{name}.")
        else:
            yield prefix + name


def base(key: str | None = None, value: object = None) -> dict[str, Any]:
    """The settings of a run with true labels, six recordings in three shards and two parts; one of them another."""
    given: dict[str, Any] = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    given |= {"manifest": {"shard_size": 2}, "inference": {"shards_per_part": 2, "device": "cpu"}}
    given |= {"evaluation": {"truth": "truth.csv"}}
    for name, one in {**({key: value} if key else {}), **WITH.get(key or "", {})}.items():
        section, _, last = name.rpartition(".")
        if section:
            given[section] = {**given.get(section, {}), last: one}
        else:
            given[last] = one
    return given


def write_files(folder: Path) -> None:
    """Write what these settings name, but for the recordings and with a checkpoint that is none."""
    for name in ("input", "other"):
        (folder / name).mkdir()
    (folder / "x.pt").write_bytes(CHECKPOINT)
    (folder / "y.pt").write_bytes(b"another one")
    (folder / "labels.csv").write_text(LABELS)
    (folder / "names.csv").write_text(LABELS.replace("First", "Foremost"))
    rows = ["a,p,9,F,1,1,0", "b,q,9,M,0,0,1"]
    for name, ending in {"truth.csv": "", "other.csv": "c,q,8,M,1,0,1\n"}.items():
        text = "\n".join(["record_id,patient,fold,sex,First,Second,first", *rows]) + f"\n{ending}"
        (folder / name).write_text(text)
    scores = {"aggregation": {"First": "max", "Second": "mean", "Third": "mean"}}
    fit = {"method": "temperature", "labels": {"First": {"temperature": 2.0}}, "left": {}, "scores": scores}
    (folder / "calibration.json").write_text(json.dumps({**fit, "fitted": None}))
    ones = np.ones(8, np.float32)
    head = heads.Head(("Mine",), 0 * ones, ones, ones[None], ones[:1], {"space": {}})
    heads.save_head(folder / "head.safetensors", head)
