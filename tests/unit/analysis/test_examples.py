"""The recordings that the report shows: chosen by rules that can be read off the tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from small_run import LABELS

from ecgpipe.analysis import examples
from ecgpipe.analysis.examples import Why, choose
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.workflow import reuse

IDS = tuple(f"a/{i}" for i in range(60))
THRESHOLDS = dict(zip(LABELS, (0.5, 0.7, 0.5), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    small_run.write(folder, IDS, unusable=5, n_signals=3)
    return folder


def predictions(folder: Path) -> dict[str, dict[str, float]]:
    rows = [row for path in sorted(folder.glob("predictions/*")) for row in pq.read_table(path).to_pylist()]
    return {row["record_id"]: row for row in rows}


def chosen(folder: Path, *options: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(small_run.examples(folder, *options)).to_pylist()
    return rows


def test_the_highest_of_each_label_are_chosen_in_their_order(folder: Path) -> None:
    values = predictions(folder)
    found = {
        (why["what"], why["rank"]): row["record_id"]
        for row in chosen(folder)
        for why in row["why"]  # type: ignore[attr-defined]
        if why["kind"] == "strongest"
    }
    for label in LABELS:
        order = sorted(IDS, key=lambda record_id: -values[record_id][label])
        assert [found[label, rank] for rank in (1, 2, 3)] == order[:3]


def test_those_nearest_to_the_threshold_are_chosen_only_where_they_are_near(folder: Path) -> None:
    values = predictions(folder)
    strongest, borderline = examples.rank_by_probability(sorted(folder.glob("predictions/*")), THRESHOLDS)
    assert len(strongest) == 3 * len(LABELS)
    for record_id, why in borderline:
        assert why.what is not None
        distances = sorted(abs(row[why.what] - THRESHOLDS[why.what]) for row in values.values())
        assert abs(values[record_id][why.what] - THRESHOLDS[why.what]) == pytest.approx(distances[why.rank - 1])
    far = dict.fromkeys(LABELS, 3.0)
    assert examples.rank_by_probability(sorted(folder.glob("predictions/*")), far)[1] == []


def test_what_is_found_does_not_depend_on_where_batches_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = chosen(folder)
    monkeypatch.setattr(parquet, "BATCH_ROWS", 4)
    assert chosen(folder) == whole


def test_every_recording_has_its_neighbours(folder: Path) -> None:
    for row in chosen(folder):
        neighbors = row["neighbors"]
        assert isinstance(neighbors, list)
        assert len(neighbors) == examples.NEIGHBORS
        assert row["record_id"] not in [neighbor["record_id"] for neighbor in neighbors]


def test_recordings_with_a_doubtful_signal_are_chosen_by_each_doubt(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [{"record_id": f"r{i}", "status": "ok"} for i in range(50)]
    records[10] |= {"clipped_leads": ["V1"]}
    records[20] |= {"flat_leads": ["I"], "lead_suspicion": "I and II swapped"}
    records[30] |= {"derived_leads": ["aVR"]}  # nothing is wrong with that
    records[40] |= {"status": "failed", "clipped_leads": ["V1"]}
    records[41] |= {"clipped_leads": []}
    parquet.write(tmp_path / "shard.parquet", pa.Table.from_pylist(records, schema=schemas.RECORDS))
    found = examples.rank_records([tmp_path / "shard.parquet"], 5)
    assert {(record_id, why.what) for record_id, why in found["quality"]} == {
        ("r10", "clipped_leads"),
        ("r20", "flat_leads"),
        ("r20", "lead_suspicion"),
    }
    assert len(found["random"]) == 5
    assert "r40" not in [record_id for record_id, _ in found["random"]]


def test_the_random_ones_stay_when_recordings_are_added_that_do_not_displace_them(tmp_path: Path) -> None:
    def random(n: int) -> list[str]:
        rows = [{"record_id": f"r{i}", "status": "ok"} for i in range(n)]
        parquet.write(tmp_path / "shard.parquet", pa.Table.from_pylist(rows, schema=schemas.RECORDS))
        return [record_id for record_id, _ in examples.rank_records([tmp_path / "shard.parquet"], 20)["random"]]

    before, after = random(1000), random(1010)
    assert len(set(before) & set(after)) >= 18
    assert [record_id for record_id in before if record_id in after] == [one for one in after if one in before]


def test_what_lies_apart_on_the_map_is_found(tmp_path: Path) -> None:
    places = np.random.default_rng(0).random((200, 2)).astype(np.float32)
    places[77], places[120] = (9, 9), (-5, 3)
    columns = [[f"r{i // 2}" for i in range(200)], [i % 2 for i in range(200)], places[:, 0], places[:, 1]]
    parquet.write(tmp_path / "umap.parquet", pa.table(columns, schema=schemas.UMAP))
    found = examples.find_outliers(tmp_path / "umap.parquet", 2)
    assert found == [("r38", Why("outlier", None, 1)), ("r60", Why("outlier", None, 2))]


def test_the_most_wrong_of_each_label_are_chosen_among_those_that_were_evaluated(folder: Path, tmp_path: Path) -> None:
    values = predictions(folder)
    label, threshold = LABELS[1], 0.7
    has_label = {name: [True, False, None][i % 3] for i, name in enumerate(IDS)}
    evaluated = {name: i % 5 > 0 for i, name in enumerate(IDS)}
    rows = [{"record_id": i, "is_evaluated": evaluated[i], label: has_label[i]} for i in reversed(IDS)]
    schema = provenance.add_origin(schemas.true_labels_schema([label]), "evaluate", settings={"evaluate": "e" * 64})
    parquet.write(tmp_path / "true.parquet", pa.Table.from_pylist(rows, schema=schema))
    found = examples.rank_wrong(sorted(folder.glob("predictions/*")), tmp_path / "true.parquet", THRESHOLDS)
    known = [name for name in IDS if evaluated[name] and has_label[name] is not None]
    value = {name: values[name][label] for name in known}
    false_positive = sorted((n for n in known if not has_label[n] and value[n] >= threshold), key=lambda n: -value[n])
    false_negative = sorted((n for n in known if has_label[n] and value[n] < threshold), key=lambda n: value[n])
    for kind, expected in (("false_positive", false_positive), ("false_negative", false_negative)):
        assert len(expected) >= 3
        assert found[kind] == [(name, Why(kind, label, rank)) for rank, name in enumerate(expected[:3], 1)]
    made = small_run.examples(folder, "--true-labels", str(tmp_path / "true.parquet"))
    chosen_ids = [row["record_id"] for row in pq.read_table(made).to_pylist()]
    assert {false_positive[0], false_negative[0]} <= set(chosen_ids)
    # They name the evaluation's settings, so that they are chosen again where it is another one or switched off.
    result = reuse.Result("examples", made, reuse.read_made_by(made))
    assert result.made_by is not None
    assert result.is_of(result.made_by)
    assert result.made_by["evaluate"] == "e" * 64
    without = {stage: sha256 for stage, sha256 in result.made_by.items() if stage != "evaluate"}
    assert not result.is_of(without)
    assert result._replace(made_by=without).is_of(without)
    assert not result._replace(made_by=without).is_of(result.made_by)


def candidates(**ids: list[str]) -> dict[str, list[tuple[str, Why]]]:
    kinds = ("strongest", "borderline", "quality", "random", "outlier")
    return {
        kind: [
            (name, Why(kind, "A" if kind in kinds[:2] else None, rank))
            for rank, name in enumerate(ids.get(kind, []), 1)
        ]
        for kind in kinds
    }


def test_each_kind_has_its_share_and_the_labels_the_rest() -> None:
    many = {
        kind: [f"{kind}{i}" for i in range(100)] for kind in ("strongest", "borderline", "quality", "random", "outlier")
    }
    found = choose(candidates(**many), 50)
    kinds = [reasons[0].kind for reasons in found.values()]
    assert len(found) == 50
    assert [kinds.count(kind) for kind in ("quality", "random", "outlier")] == [5, 5, 5]
    assert kinds[:4] == ["strongest", "borderline", "strongest", "borderline"]


def test_a_recording_is_chosen_once_and_has_all_its_reasons() -> None:
    found = choose(candidates(strongest=["a", "b"], random=["b", "c"], outlier=["a"]), 10)
    assert {name: [why.kind for why in reasons] for name, reasons in found.items()} == {
        "a": ["strongest", "outlier"],
        "b": ["strongest", "random"],
        "c": ["random"],
    }


def test_fewer_candidates_than_wanted_are_all_chosen_and_none_when_none_are_wanted() -> None:
    assert list(choose(candidates(random=["a", "b", "c"]), 80)) == ["a", "b", "c"]
    assert choose(candidates(strongest=["a"], random=["b"]), 0) == {}


def test_a_model_without_a_head_has_examples_too(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS[:10], labels=[])
    rows = chosen(tmp_path)
    assert len(rows) == 10
    assert {why["kind"] for row in rows for why in row["why"]} <= {"random", "outlier", "quality"}  # type: ignore[attr-defined]
