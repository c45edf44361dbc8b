"""Finished runs of three models over the same recordings, written without a model, to test a study.

`ecgfounder` has its recordings in another order and lacks some; `pretrained`, of ECG-FM too, has no labels.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import small_run

from ecgpipe.cli import main
from ecgpipe.core import parquet, schemas

LABELS: dict[str, tuple[str, ...]] = {
    "ecg-fm": ("Atrial fibrillation", "Atrial flutter", "Electronic pacemaker", "Tachycardia"),
    "ecgfounder": ("ATRIAL FLUTTER", "SINUS TACHYCARDIA", "ATRIAL FIBRILLATION"),
    "pretrained": (),
}
WIDTHS = {"ecg-fm": 8, "ecgfounder": 12, "pretrained": 6}
FAMILIES = {"pretrained": "ecg-fm"}  # where the name is not the family's
SHARED = ("Atrial fibrillation", "Atrial flutter")
MISSING = (3, 4)  # of ecgfounder, which are shorter than its window


def ids(recordings: int) -> list[str]:
    return [f"r/{number:03}" for number in range(recordings)]


def truth(recordings: int, seed: int = 3) -> pd.DataFrame:
    """True labels by statement; two recordings of each patient."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "record_id": ids(recordings),
            "patient": [f"p{number // 2}" for number in range(recordings)],
            SHARED[0]: (random.random(recordings) < 0.4).astype(int),
            SHARED[1]: (random.random(recordings) < 0.3).astype(int),
        }
    )


def write(folder: Path, recordings: int = 60, models: Sequence[str] = tuple(LABELS), paths: bool = True) -> list[Path]:
    """Write a run of each model, and `truth.csv` beside them.

    Args:
        folder: Where to.
        recordings: Of the runs.
        models: Whose runs.
        paths: The setting `report.paths`.

    Returns:
        The folders of the runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labelled = truth(recordings)
    labelled.to_csv(folder / "truth.csv", index=False)
    runs = []
    for number, model in enumerate(models):
        run = folder / model
        names = ids(recordings)
        attributed = [(names[0], LABELS[model][0])] if model == "ecg-fm" else []
        small_run.write(run, names, LABELS[model], ("", "0.6", "", ""), [""] * 4, n_signals=1, attributed=attributed)
        _set_family(run, model, paths)
        kept = [name for place, name in enumerate(names) if model != "ecgfounder" or place not in MISSING]
        if model == "ecgfounder":
            kept.reverse()
            _skip(run, [names[place] for place in MISSING])
        _write_results(run, kept, labelled.set_index("record_id"), model, number)
        runs.append(run)
    return runs


def run(output: Path, *options: str) -> int:
    """Run the command, with few resamples."""
    return main(["study", *options, "--resamples", "40", "--output", str(output)])


def _set_family(run: Path, model: str, paths: bool) -> None:
    path = run / "checkpoint/model.json"
    content = json.loads(path.read_text())
    content["architecture"]["width"] = WIDTHS[model]
    if model == "ecgfounder":
        sizes = {"in_leads": 12, "first_width": 8, "kernel": 16, "group_width": 4, "stages": [[WIDTHS[model], 1]]}
        content["architecture"] = sizes | {"labels": len(LABELS[model])}
    path.write_text(json.dumps(content | {"family": FAMILIES.get(model, model)}))
    info = json.loads((run / "run.json").read_text())
    info["config"]["report"]["paths"] = paths
    info["checkpoint"]["sha256"] = model[0] * 64
    (run / "run.json").write_text(json.dumps(info))


def _skip(run: Path, missing: Sequence[str]) -> None:
    """Say in the records that some recordings were too short."""
    path = run / "records/shard-00000.parquet"
    table = pq.read_table(path)
    is_missing = pc.is_in(table["record_id"], pa.array(missing))
    for name, value in (("status", "skipped"), ("reason", "too short (4 s, needs 10 s)")):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pc.if_else(is_missing, value, table[name]))
    parquet.write(path, table)


def _write_results(run: Path, kept: Sequence[str], labelled: pd.DataFrame, model: str, seed: int) -> None:
    """Write predictions and embeddings that know something of the true labels, and a map, in two parts."""
    random = np.random.default_rng(seed)
    true = labelled.loc[list(kept), list(SHARED)].to_numpy(float)  # (recordings, 2)
    width, n = WIDTHS[model], len(kept)
    base = np.random.default_rng(11).standard_normal((1000, 2))[[int(name[-3:]) for name in kept]]
    mixed = np.concatenate([true, base], axis=1) @ random.standard_normal((4, width))
    vectors = (mixed + 0.3 * random.standard_normal((n, width))).astype(np.float32)
    probability = random.random((n, len(LABELS[model])))
    for place, label in enumerate(LABELS[model]):
        for column, statement in enumerate(SHARED):
            if label.lower() == statement.lower():
                probability[:, place] = 0.5 * probability[:, place] + (0.2 + 0.1 * seed) * true[:, column]
    for part, some in enumerate(np.array_split(np.arange(n), 2)):
        names = [kept[place] for place in some]
        columns = [pa.array(names, pa.string()), pa.array([2] * len(some), pa.int32())]
        columns += [pa.array(values) for values in probability[some].T]
        schema = schemas.predictions_schema(LABELS[model])
        parquet.write(run / f"predictions/part-{part:05d}.parquet", pa.table(columns, schema=schema))
        both = np.repeat(vectors[some], 2, axis=0)  # (segments, width)
        both[::2] += 0.5
        both[1::2] -= 0.5
        values = pa.FixedSizeListArray.from_arrays(pa.array(both.ravel()), width)
        table = pa.table([*_segments(names), values], schema=schemas.embeddings_schema(width))
        parquet.write(run / f"embeddings/part-{part:05d}.parquet", table)
    places = [pa.array(random.standard_normal(2 * n), pa.float32()) for _ in "xy"]
    parquet.write(run / "umap/umap.parquet", pa.table([*_segments(kept), *places], schema=schemas.UMAP))


def _segments(names: Sequence[str]) -> list[pa.Array]:
    return [pa.array(np.repeat(names, 2), pa.string()), pa.array([0, 1] * len(names), pa.int32())]
