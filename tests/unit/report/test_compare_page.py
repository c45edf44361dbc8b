"""Two runs compared: planted differences are found, by name and by record id, whatever the order of the rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from report_page import Page
from scipy import stats
from scipy.spatial.distance import cosine

from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas

HOSTILE = "<script>alert(1)</script>"
SHA = "ab" * 32
N = 60
IDS = [f"p{i}" for i in range(N - 1)] + [HOSTILE]
RANDOM = np.random.default_rng(11)
PROBABILITIES = {
    "Sinus rhythm": RANDOM.random(N),
    "Tachycardia": 0.8 * RANDOM.random(N),
    "Infarction": RANDOM.random(N),
}
VECTORS = RANDOM.standard_normal((N, 5)).astype(np.float32)


def write(
    folder: Path,
    ids: Sequence[str],
    probabilities: Mapping[str, np.ndarray],
    vectors: np.ndarray,
    order: Sequence[int] | None = None,
    sha: str = SHA,
    config: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, float] | None = None,
    unused: Mapping[str, str] | None = None,
    random_weights: bool = False,
    signals: Mapping[str, str] | None = None,
) -> Path:
    """A run as far as the command reads it: two segments per recording around the given vectors, in two parts."""
    order = range(len(ids)) if order is None else order
    facts = {"checkpoint": "x.pt", "checkpoint_sha256": sha, "preprocess": {"short": "skip"}}
    for part, some in enumerate(np.array_split(np.array(order), 2)):
        names = [ids[i] for i in some]
        columns = [pa.array(names, pa.string()), pa.array([2] * len(some), pa.int32())]
        columns += [pa.array(values[some]) for values in probabilities.values()]
        schema = provenance.add_origin(schemas.predictions_schema(list(probabilities)), "aggregate", {}, **facts)
        parquet.write(folder / f"predictions/part-{part:05d}.parquet", pa.table(columns, schema=schema))
        width = vectors.shape[1]
        both = np.stack([vectors[some] - 0.5, vectors[some] + 0.5], axis=1).astype(np.float32)
        columns = [
            pa.array([name for name in names for _ in range(2)], pa.string()),
            pa.array([0, 1] * len(some), pa.int32()),
            pa.FixedSizeListArray.from_arrays(pa.array(both.ravel()), width),
        ]
        schema = provenance.add_origin(schemas.embeddings_schema(width), "infer", {}, **facts)
        parquet.write(folder / f"embeddings/part-{part:05d}.parquet", pa.table(columns, schema=schema))
    hashes = {name: name for name in ids} | dict(signals or {})
    rows = [{"record_id": ids[i], "status": "ok", "signal_hash": hashes[ids[i]]} for i in order]
    rows += [{"record_id": name, "status": "skipped", "reason": why} for name, why in (unused or {}).items()]
    parquet.write(folder / "records/shard-00000.parquet", pa.Table.from_pylist(rows, schema=schemas.RECORDS))
    given = thresholds or {}
    lines = [f'"{name}",mean,{given.get(name, "")}' for name in probabilities]
    (folder / "labels.csv").write_text("\n".join(["name,aggregation,threshold", *lines]) + "\n")
    run = small_run.run_json()
    run |= {
        "checkpoint": run["checkpoint"] | {"uri": f"{sha[:2]}.pt", "sha256": sha, "random_weights": random_weights},
        "versions": {"torch": "2.0"},
        "config": {
            "input": "x",
            "labels": str(folder / "labels.csv"),
            "preprocess": {"short": "skip"},
            **(config or {}),
        },
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def compare(first: Path, second: Path, output: Path, *options: str) -> int:
    return main(["compare", str(first), str(second), "--output", str(output), *options])


def rows(path: Path, key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in pq.read_table(path).to_pylist()}


def account(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "compare.json").read_text())
    return content


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """B has the labels and the recordings in another order, and four planted differences."""
    folder = tmp_path_factory.mktemp("planted")
    changed = {name: values.copy() for name, values in reversed(PROBABILITIES.items())}
    changed["Tachycardia"] += 0.1  # a label that is shifted
    changed["Infarction"][[3, 7]] = changed["Infarction"][[7, 3]]  # two recordings that are swapped
    changed["Sinus rhythm"][N - 1] = 1.9 if PROBABILITIES["Sinus rhythm"][N - 1] < 0.5 else -0.9  # changed most
    vectors = VECTORS.copy()
    vectors[5] *= -1  # one embedding that is turned round
    order = np.random.default_rng(1).permutation(N).tolist()
    first = write(folder / "a", IDS, PROBABILITIES, VECTORS)
    second = write(folder / "b", IDS, changed, vectors, order, config={"preprocess": {"short": "pad"}})
    assert compare(first, second, folder / "out") == 0
    return folder


def values(folder: Path, label: str) -> dict[str, float]:
    """A label's probabilities by record id, as they stand in the files."""
    found = [pq.read_table(path, columns=["record_id", label]) for path in sorted(folder.glob("predictions/*"))]
    return {row["record_id"]: row[label] for row in pa.concat_tables(found).to_pylist()}


@pytest.mark.parametrize("label", PROBABILITIES)
def test_each_label_is_compared_as_scipy_does_by_record_id(label: str, planted: Path) -> None:
    row = rows(planted / "out/labels.parquet", "label")[label]
    first, by_id = values(planted / "a", label), values(planted / "b", label)
    a = np.array([first[name] for name in IDS])
    b = np.array([by_id[name] for name in IDS])
    assert row["mean_difference"] == pytest.approx((b - a).mean(), abs=1e-12)
    assert row["sd_difference"] == pytest.approx(stats.tstd(b - a), abs=1e-12)
    assert row["pearson"] == pytest.approx(stats.pearsonr(a, b).statistic)
    assert row["spearman"] == pytest.approx(stats.spearmanr(a, b).statistic)
    assert row["crossed_up"] == sum((a < 0.5) & (b >= 0.5))
    assert row["crossed_down"] == sum((a >= 0.5) & (b < 0.5))
    assert row["ks"] == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert row["wasserstein"] == pytest.approx(stats.wasserstein_distance(a, b))
    for letter, some in (("a", a), ("b", b)):
        assert row[f"mean_{letter}"] == pytest.approx(some.mean())
        assert row[f"positive_{letter}"] == (some >= 0.5).mean()
        assert [row[f"q{q}_{letter}"] for q in ("05", "25", "50", "75", "95")] == pytest.approx(
            np.percentile(some, [5, 25, 50, 75, 95])
        )


def test_a_shift_of_one_label_is_a_shift_of_that_label_alone(planted: Path) -> None:
    table = rows(planted / "out/labels.parquet", "label")
    assert list(table) == list(PROBABILITIES)  # in the order of A
    shifted = table["Tachycardia"]
    assert shifted["mean_difference"] == pytest.approx(0.1)
    assert shifted["sd_difference"] == pytest.approx(0, abs=1e-12)
    assert shifted["spearman"] == pytest.approx(1)
    assert shifted["wasserstein"] == pytest.approx(0.1)
    assert shifted["crossed_down"] == 0
    assert table["Infarction"]["mean_difference"] == pytest.approx(0, abs=1e-12)
    assert table["Infarction"]["ks"] == table["Infarction"]["wasserstein"] == 0  # swapped: the same distribution


def test_each_recording_has_its_largest_change_and_the_one_that_changed_most_stands_first(planted: Path) -> None:
    table = rows(planted / "out/recordings.parquet", "record_id")
    assert list(table) == IDS
    before = {label: values(planted / "a", label) for label in PROBABILITIES}
    after = {label: values(planted / "b", label) for label in PROBABILITIES}
    for record_id, row in table.items():
        change = {label: after[label][record_id] - before[label][record_id] for label in PROBABILITIES}
        label = max(change, key=lambda name: abs(change[name]))
        assert (row["label"], row["change"]) == (label, change[label])
        assert (row["probability_a"], row["probability_b"]) == (before[label][record_id], after[label][record_id])
    assert table[HOSTILE]["label"] == "Sinus rhythm"
    swapped = {name for name, row in table.items() if row["label"] == "Infarction"}
    assert swapped == {"p3", "p7"}
    text = Page(planted / "out/compare.html").words
    most = text[text.index("Recordings that changed most") :]
    assert most.index(HOSTILE) < min(most.index(f"{name} Infarction") for name in swapped)


def test_embeddings_are_compared_by_record_id(planted: Path) -> None:
    table = rows(planted / "out/recordings.parquet", "record_id")
    assert table["p5"]["embedding_distance"] == pytest.approx(2)
    assert max(row["embedding_distance"] for name, row in table.items() if name != "p5") < 1e-6
    found = account(planted / "out")["embeddings"]
    assert found["same_space"]
    assert found["cka_recordings"] == N
    assert 0.8 < found["cka"] < 1
    assert 0 < found["frechet"] < found["frechet_halves"]


@pytest.mark.parametrize("batch", [3, 10_000])
def test_distances_are_those_of_scipy_wherever_a_batch_ends(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", batch)
    some = list(range(10, N))
    others = VECTORS + np.random.default_rng(8).standard_normal(VECTORS.shape).astype(np.float32)
    order = np.random.default_rng(9).permutation(50)
    first = write(tmp_path / "a", IDS[:50], {}, VECTORS[:50], order.tolist())
    second = write(tmp_path / "b", IDS[10:], {}, others[10:])
    assert compare(first, second, tmp_path / "out") == 0
    table = rows(tmp_path / "out/recordings.parquet", "record_id")
    assert list(table) == [IDS[i] for i in order if i in some]
    for record_id, row in table.items():
        i = IDS.index(record_id)
        assert row["embedding_distance"] == pytest.approx(cosine(VECTORS[i], others[i]), abs=1e-6)
        assert (row["label"], row["change"]) == (None, None)
    only = rows(tmp_path / "out/only.parquet", "record_id")
    assert {name: row["run"] for name, row in only.items()} == {
        **dict.fromkeys(IDS[:10], "a"),
        **dict.fromkeys(IDS[50:], "b"),
    }
    assert "no label is in both runs" in Page(tmp_path / "out/compare.html").words


def test_a_run_is_the_same_as_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", IDS, PROBABILITIES, VECTORS)
    assert compare(folder, folder, tmp_path / "out") == 0
    found = account(tmp_path / "out")
    assert found["differences"] == found["warnings"] == []
    assert found["recordings"] == {
        **{"a": N, "b": N, "both": N, "unchanged": N},
        **{"other_segments": 0, "other_signal": 0},
    }
    assert found["embeddings"]["cka"] == pytest.approx(1)
    assert found["embeddings"]["frechet"] == pytest.approx(0, abs=1e-9)
    for row in rows(tmp_path / "out/labels.parquet", "label").values():
        assert [row[name] for name in ("mean_difference", "sd_difference", "ks", "wasserstein")] == [0, 0, 0, 0]
    assert len(pq.read_table(tmp_path / "out/only.parquet")) == 0


def test_of_two_datasets_distributions_are_compared(tmp_path: Path) -> None:
    first = write(tmp_path / "a", IDS, PROBABILITIES, VECTORS)
    second = write(tmp_path / "b", [f"q{i}" for i in range(N)], PROBABILITIES, VECTORS + 2)
    assert compare(first, second, tmp_path / "out") == 0
    row = rows(tmp_path / "out/labels.parquet", "label")["Infarction"]
    assert row["ks"] == row["wasserstein"] == 0
    assert row["mean_difference"] is row["pearson"] is row["crossed_up"] is None
    found = account(tmp_path / "out")
    assert found["recordings"]["both"] == 0
    assert found["embeddings"]["frechet"] == pytest.approx(5 * 2**2, rel=1e-5)
    assert found["embeddings"]["frechet_halves"] < 2
    assert found["embeddings"]["cka"] is None
    text = Page(tmp_path / "out/compare.html").words
    assert "no recording is in both runs: only distributions are compared" in text
    assert "Recordings that changed most" not in text


def test_of_two_checkpoints_the_alignment_is_told_and_no_distance(tmp_path: Path) -> None:
    rotated = VECTORS @ stats.ortho_group.rvs(5, random_state=3).astype(np.float32)
    wider = np.concatenate([rotated, np.zeros((N, 2), np.float32)], axis=1)
    order = np.random.default_rng(2).permutation(N).tolist()
    first = write(tmp_path / "a", IDS, PROBABILITIES, VECTORS)
    second = write(tmp_path / "b", IDS, PROBABILITIES, wider, order, sha="cd" * 32)
    assert compare(first, second, tmp_path / "out") == 0
    found = account(tmp_path / "out")
    assert not found["embeddings"]["same_space"]
    assert found["embeddings"]["frechet"] is None
    assert found["embeddings"]["cka"] == pytest.approx(1)
    assert any(warning.startswith("the checkpoints differ") for warning in found["warnings"])
    assert pq.read_table(tmp_path / "out/recordings.parquet")["embedding_distance"].null_count == N
    assert {row["what"]: (row["a"], row["b"]) for row in found["differences"]}["checkpoint.sha256"] == (SHA, "cd" * 32)


def test_what_the_runs_say_of_their_making_is_said_where_it_differs(planted: Path) -> None:
    found = {row["what"]: (row["a"], row["b"]) for row in account(planted / "out")["differences"]}
    assert found["config.preprocess.short"] == ("skip", "pad")
    assert set(found) == {"config.preprocess.short", "config.labels"}
    assert "config.preprocess.short skip pad" in Page(planted / "out/compare.html").words


def test_labels_of_one_run_only_are_listed_and_thresholds_are_each_runs_own(tmp_path: Path) -> None:
    mine = {name: PROBABILITIES[name] for name in ("Sinus rhythm", "Infarction")}
    theirs = {"Infarction": PROBABILITIES["Infarction"], "Tachycardia": PROBABILITIES["Tachycardia"]}
    first = write(tmp_path / "a", IDS, mine, VECTORS, thresholds={"Infarction": 0.3})
    second = write(tmp_path / "b", IDS, theirs, VECTORS, thresholds={"Infarction": 0.6})
    assert compare(first, second, tmp_path / "out") == 0
    found = account(tmp_path / "out")
    assert found["labels"] == {"both": ["Infarction"], "only_a": ["Sinus rhythm"], "only_b": ["Tachycardia"]}
    row = rows(tmp_path / "out/labels.parquet", "label")["Infarction"]
    between = sum((PROBABILITIES["Infarction"] >= 0.3) & (PROBABILITIES["Infarction"] < 0.6))
    assert (row["threshold_a"], row["threshold_b"]) == (0.3, 0.6)
    assert (row["crossed_up"], row["crossed_down"]) == (0, between)
    assert any(warning.startswith("thresholds differ for Infarction") for warning in found["warnings"])
    (tmp_path / "all.csv").write_text("name,aggregation\nInfarction,mean\nSinus rhythm,mean\nTachycardia,mean\n")
    assert compare(first, second, tmp_path / "out", "--labels", str(tmp_path / "all.csv")) == 0
    row = rows(tmp_path / "out/labels.parquet", "label")["Infarction"]
    assert (row["threshold_a"], row["threshold_b"], row["crossed_down"]) == (0.5, 0.5, 0)


def test_recordings_of_one_run_only_say_what_became_of_them_in_the_other(tmp_path: Path) -> None:
    first = write(tmp_path / "a", IDS, PROBABILITIES, VECTORS)
    fewer = {name: some[2:] for name, some in PROBABILITIES.items()}
    second = write(tmp_path / "b", IDS[2:], fewer, VECTORS[2:], unused={"p0": "too short (3 s)"})
    assert compare(first, second, tmp_path / "out") == 0
    only = rows(tmp_path / "out/only.parquet", "record_id")
    assert {name: tuple(row.values())[1:] for name, row in only.items()} == {
        "p0": ("a", "skipped", "too short (3 s)"),
        "p1": ("a", None, None),
    }
    assert "A unknown 1 A skipped 1" in Page(tmp_path / "out/compare.html").words


def test_ids_that_are_the_same_by_chance_are_told_by_their_signals(tmp_path: Path) -> None:
    first = write(tmp_path / "a", IDS, PROBABILITIES, VECTORS)
    second = write(tmp_path / "b", IDS, PROBABILITIES, VECTORS, signals={"p4": "another"})
    assert compare(first, second, tmp_path / "out") == 0
    table = rows(tmp_path / "out/recordings.parquet", "record_id")
    assert [name for name, row in table.items() if not row["same_signal"]] == ["p4"]
    assert account(tmp_path / "out")["recordings"]["other_signal"] == 1
    assert f"1 of {N} recordings with the same id have another signal" in Page(tmp_path / "out/compare.html").words


def test_hostile_texts_stay_texts_and_the_page_runs_nothing(planted: Path) -> None:
    page = Page(planted / "out/compare.html")
    assert HOSTILE in page.text
    assert HOSTILE not in page.source
    assert page.scripts == 0
    assert "default-src 'none'; style-src 'unsafe-inline'\"" in page.source
    assert "http" not in page.source.replace("http-equiv", "")


def test_a_run_whose_report_names_no_files_is_not_named(tmp_path: Path) -> None:
    first = write(tmp_path / "a", IDS, PROBABILITIES, VECTORS, config={"report": {"paths": False}, "input": "/secret"})
    second = write(tmp_path / "b", IDS, {n: 1 - v for n, v in PROBABILITIES.items()}, VECTORS, random_weights=True)
    assert compare(first, second, tmp_path / "out") == 0
    text = Page(tmp_path / "out/compare.html").words
    assert "recording 5 " in text
    assert "RANDOM WEIGHTS" in text
    for hidden in ("p4 ", "/secret", str(tmp_path), HOSTILE):
        assert hidden not in text


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    broken = PROBABILITIES["Infarction"].copy()
    broken[2] = np.nan
    first = write(tmp_path / "a", IDS, {"Infarction": PROBABILITIES["Infarction"]}, VECTORS)
    second = write(tmp_path / "b", IDS, {"Infarction": broken}, VECTORS)
    assert compare(first, second, tmp_path / "out") == 0
    assert rows(tmp_path / "out/labels.parquet", "label")["Infarction"]["mean_difference"] == 0
    table = rows(tmp_path / "out/recordings.parquet", "record_id")
    assert [name for name, row in table.items() if row["change"] is None] == ["p2"]
    some = {"Infarction": np.where(np.arange(N) < N // 2, np.nan, 0.5)}
    others = {"Infarction": np.where(np.arange(N) < N // 2, 0.5, np.nan)}
    first, second = write(tmp_path / "c", IDS, some, VECTORS), write(tmp_path / "d", IDS, others, VECTORS)
    assert compare(first, second, tmp_path / "none") == 0
    row = rows(tmp_path / "none/labels.parquet", "label")["Infarction"]
    assert row["mean_a"] == row["mean_b"] == 0.5
    assert row["mean_difference"] is row["crossed_up"] is None


def test_mistakes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a", IDS, PROBABILITIES, VECTORS)
    assert compare(first, tmp_path / "nowhere", tmp_path / "out") == 2
    assert "nowhere; give the folder of a finished run's results" in capsys.readouterr().err
    second = write(tmp_path / "b", IDS[:40], {n: v[:40] for n, v in PROBABILITIES.items()}, VECTORS[:40])
    (second / "predictions/part-00001.parquet").unlink()
    assert compare(first, second, tmp_path / "out") == 2
    assert "are not of the same recordings; run the workflow to its end" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_thresholds_whose_file_is_gone_are_one_half_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write(tmp_path / "a", IDS, PROBABILITIES, VECTORS, thresholds={"Infarction": 0.9})
    (first / "labels.csv").unlink()
    assert compare(first, first, tmp_path / "out") == 0
    assert "labels.csv is not there any more: thresholds of" in capsys.readouterr().err
    assert rows(tmp_path / "out/labels.parquet", "label")["Infarction"]["threshold_a"] == 0.5
