"""Linear probes: what can be separated is, what is random is at chance, and the test recordings teach nothing."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import small_run
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import head_training, splits
from ecgpipe.models import heads

WIDTH = 12
SHA = "ab" * 32


def write_run(outdir: Path, ids: Sequence[str], segments: np.ndarray, parts: int = 2, sha256: str = SHA) -> Path:
    """What `probe` reads of a run: records and embeddings, (recordings, segments of each, width)."""
    rows = [{"record_id": name, "status": "ok"} for name in ids]
    parquet.write(outdir / "records/shard-00000.parquet", pa.Table.from_pylist(rows, schema=schemas.RECORDS))
    facts = {"checkpoint_sha256": sha256, "preprocess": {"segment_s": 5}}
    each, width = segments.shape[1:]
    schema = provenance.add_origin(schemas.embeddings_schema(width), "infer", {"preprocess": 1}, **facts)
    for part, some in enumerate(np.array_split(np.arange(len(ids)), parts)):
        values = pa.array(segments[some].astype(np.float32).ravel())
        columns = [
            pa.array([ids[row] for row in some for _ in range(each)], pa.string()),
            pa.array([number for _ in some for number in range(each)], pa.int32()),
            pa.FixedSizeListArray.from_arrays(values, width),
        ]
        parquet.write(outdir / f"embeddings/part-{part:05d}.parquet", pa.table(columns, schema=schema))
    return outdir


def write_truth(path: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def data(count: int = 400, seed: int = 0) -> tuple[list[str], np.ndarray, dict[str, list[Any]]]:
    """Recordings of two segments; `easy` can be told from them, `random` cannot; a patient has two recordings."""
    random = np.random.default_rng(seed)
    ids = [f"r/{i}" for i in range(count)]
    embedding = random.standard_normal((count, WIDTH)) * np.linspace(0.1, 5, WIDTH) + 3
    segments = embedding[:, None] + 0.1 * random.standard_normal((count, 2, WIDTH))
    easy = (segments.mean(axis=1)[:, 0] > 3).astype(int)
    truth: dict[str, list[Any]] = {
        "record_id": ids,
        "easy": easy.tolist(),
        "random": random.integers(0, 2, count).tolist(),
        "patient": [i // 2 for i in range(count)],
        "fold": [i // 2 % 10 + 1 for i in range(count)],
    }
    return ids, segments, truth


FOLDS = ["--split", "fold", "--train", *map(str, range(1, 7)), "--valid", "7", "8", "--test", "9", "10"]


def run(outdir: Path, truth: Path, output: Path, *options: str) -> heads.Head:
    given = [str(outdir), "--truth", str(truth), "--output", str(output), "--resamples", "50"]
    assert main(["probe", *given, *(options or FOLDS)]) == 0
    return heads.load_head(output / "head.safetensors")


def auroc(output: Path, label: str, model: str = "probe") -> dict[str, Any]:
    rows = pq.read_table(output / "metrics.parquet").to_pylist()
    [found] = [row for row in rows if (row["model"], row["label"], row["metric"]) == (model, label, "auroc")]
    return dict(found)


@pytest.fixture
def outdir(tmp_path: Path) -> Path:
    ids, segments, truth = data()
    write_truth(tmp_path / "truth.csv", truth)
    return write_run(tmp_path / "run", ids, segments)


def test_what_can_be_separated_is_and_random_labels_are_at_chance(outdir: Path, tmp_path: Path) -> None:
    run(outdir, tmp_path / "truth.csv", tmp_path / "probe")
    assert auroc(tmp_path / "probe", "easy")["value"] > 0.99
    found = auroc(tmp_path / "probe", "random")
    assert found["low"] < 0.5 < found["high"]


def test_without_an_interval_none_is_printed(outdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(outdir, tmp_path / "truth.csv", tmp_path / "probe", *FOLDS, "--resamples", "0")
    said = capsys.readouterr().out
    assert "nan" not in said
    assert re.search(r"^easy +\S+ +\d\.\d{3}$", said, re.MULTILINE)


def test_the_head_is_what_scikit_learn_finds_by_the_same_rules(outdir: Path, tmp_path: Path) -> None:
    _, segments, truth = data()
    head = run(outdir, tmp_path / "truth.csv", tmp_path / "probe")
    assert head.labels == ("easy", "random")
    embedding, fold = segments.astype(np.float32).mean(axis=1, dtype=np.float64), np.array(truth["fold"])
    train, valid, test = fold <= 6, (fold == 7) | (fold == 8), fold >= 9
    standard = (embedding - embedding[train].mean(axis=0)) / embedding[train].std(axis=0)
    said = pq.read_table(tmp_path / "probe/predictions.parquet").to_pandas().set_index("record_id")
    ids = np.array(truth["record_id"])
    for number, label in enumerate(head.labels):
        true = np.array(truth[label])
        fits = [
            LogisticRegression(C=strength, tol=1e-10, max_iter=100_000).fit(standard[train], true[train])
            for strength in head_training.STRENGTHS
        ]
        losses = [log_loss(true[valid], fit.predict_proba(standard[valid])[:, 1]) for fit in fits]
        best = int(np.argmin(losses))
        assert head.facts["strength"][number] == head_training.STRENGTHS[best]
        theirs = fits[best].predict_proba(standard)[:, 1]
        np.testing.assert_allclose(head.probability(embedding)[:, number], theirs, atol=1e-3)
        np.testing.assert_allclose(said.loc[ids[test], label], theirs[test], atol=1e-3)
        assert auroc(tmp_path / "probe", label)["value"] == pytest.approx(
            roc_auc_score(true[test], theirs[test]), abs=2e-3
        )


def test_the_test_recordings_change_nothing_in_the_head(outdir: Path, tmp_path: Path) -> None:
    ids, segments, truth = data()
    before = run(outdir, tmp_path / "truth.csv", tmp_path / "probe")
    test = np.array(truth["fold"]) >= 9
    changed = {**truth, "easy": np.where(test, 1 - np.array(truth["easy"]), truth["easy"]).tolist()}
    other = write_run(tmp_path / "other", ids, np.where(test[:, None, None], 100 * segments, segments))
    after = run(other, write_truth(tmp_path / "changed.csv", changed), tmp_path / "again")
    for name in heads.TENSORS:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert auroc(tmp_path / "probe", "easy")["value"] > 0.99 > auroc(tmp_path / "again", "easy")["value"]


def test_standardisation_is_of_the_training_recordings_alone(outdir: Path, tmp_path: Path) -> None:
    _, segments, truth = data()
    head = run(outdir, tmp_path / "truth.csv", tmp_path / "probe")
    trained = segments[np.array(truth["fold"]) <= 6].mean(axis=1)
    np.testing.assert_allclose(head.mean, trained.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(head.scale, trained.std(axis=0), rtol=1e-5)


def test_the_order_of_the_truth_does_not_matter(outdir: Path, tmp_path: Path) -> None:
    _, _, truth = data()
    order = np.random.default_rng(1).permutation(len(truth["record_id"]))
    mixed = {name: [values[row] for row in order] for name, values in truth.items()}
    before = run(outdir, tmp_path / "truth.csv", tmp_path / "probe")
    after = run(outdir, write_truth(tmp_path / "mixed.csv", mixed), tmp_path / "again")
    for name in heads.TENSORS:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    kinds = [pq.read_table(tmp_path / folder / "predictions.parquet") for folder in ("probe", "again")]
    assert kinds[0].equals(kinds[1])


def test_patients_are_never_shared_between_splits_and_stay_where_they_are() -> None:
    patients = pa.array([f"p{i // 3}" for i in range(3000)] + [None])
    split = splits.by_patient(patients, 1)
    for number in range(1000):
        assert len(set(split[3 * number : 3 * number + 3])) == 1
    assert split[-1] == splits.NONE
    shares = np.bincount(split[:-1], minlength=3) / 3000
    np.testing.assert_allclose(shares, splits.SHARES, atol=0.05)
    np.testing.assert_array_equal(splits.by_patient(patients[:1500], 1), split[:1500])
    np.testing.assert_array_equal(splits.by_patient(patients.take(pa.array(range(2999, -1, -1))), 1), split[2999::-1])
    assert (splits.by_patient(patients, 2) != split).any()


def test_split_by_patient_from_the_command(outdir: Path, tmp_path: Path) -> None:
    _, _, truth = data()
    head = run(outdir, tmp_path / "truth.csv", tmp_path / "probe", "--patient", "patient", "--map", "easy=Easy")
    assert head.labels == ("Easy",)
    patient = dict(zip(truth["record_id"], truth["patient"], strict=True))
    said = pq.read_table(tmp_path / "probe/predictions.parquet")
    of = {name: said.filter(pc.equal(said["split"], name))["record_id"].to_pylist() for name in ("valid", "test")}
    people = {name: {patient[record_id] for record_id in some} for name, some in of.items()}
    trained = {patient[record_id] for record_id in truth["record_id"]} - people["valid"] - people["test"]
    assert not people["valid"] & people["test"]
    assert {name: len(some) for name, some in of.items()} == {name: 2 * len(some) for name, some in people.items()}
    assert head.facts["split"]["recordings"]["train"] == 2 * len(trained)


def test_a_patient_in_two_splits_is_refused(outdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, truth = data()
    shared = write_truth(tmp_path / "shared.csv", {**truth, "patient": [i % 7 for i in range(400)]})
    options = [str(outdir), "--truth", str(shared), "--output", str(tmp_path / "probe")]
    assert main(["probe", *options, *FOLDS, "--patient", "patient"]) == 2
    assert "7 patients have recordings in more than one split" in capsys.readouterr().err


def test_a_label_that_cannot_be_learned_is_left_out_and_reported(
    outdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, truth = data()
    rare = [int(fold >= 9) for fold in truth["fold"]]
    head = run(outdir, write_truth(tmp_path / "rare.csv", {**truth, "rare": rare}), tmp_path / "probe")
    assert head.labels == ("easy", "random")
    assert "rare is left out: train has no recording with it" in capsys.readouterr().err


def test_the_gain_over_a_baseline_is_the_difference_of_the_two(outdir: Path, tmp_path: Path) -> None:
    ids, segments, _ = data()
    noise = np.random.default_rng(5).standard_normal(segments.shape)
    baseline = write_run(tmp_path / "untrained", ids[::-1], noise, parts=1, sha256="cd" * 32)
    describe(baseline)
    run(outdir, tmp_path / "truth.csv", tmp_path / "probe", *FOLDS, "--baseline", str(baseline))
    ours, theirs, gain = (auroc(tmp_path / "probe", "easy", model) for model in ("probe", "baseline", "gain"))
    assert theirs["low"] < 0.5 < theirs["high"]
    assert gain["value"] == pytest.approx(ours["value"] - theirs["value"])
    assert 0.2 < gain["low"] < gain["value"] < gain["high"]


def test_a_run_is_no_gain_over_itself(outdir: Path, tmp_path: Path) -> None:
    describe(outdir)
    run(outdir, tmp_path / "truth.csv", tmp_path / "probe", *FOLDS, "--baseline", str(outdir))
    gain = auroc(tmp_path / "probe", "random", "gain")
    assert (gain["value"], gain["low"], gain["high"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --split COLUMN, or --patient COLUMN"),
        (["--split", "fold", "--train", "1", "--valid", "1", "--test", "2"], "'1' is given for two splits"),
        (["--split", "fold", "--train", "11", "--valid", "1", "--test", "2"], "no recording has '11'"),
        (["--split", "nowhere"], "'nowhere' is no column"),
        ([*FOLDS, "--map", "easy=record_id"], "'record_id' cannot be a label's name"),
        ([*FOLDS, "--map", "fold=Fold"], "a true label is 1, 0 or empty"),
        ([*FOLDS, "--resamples", "-1"], "--resamples: '-1' is not valid: input should be greater than or equal to 0"),
    ],
)
def test_mistakes_are_reported_in_a_line(
    outdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    given = [str(outdir), "--truth", str(tmp_path / "truth.csv"), "--output", str(tmp_path / "probe")]
    assert main(["probe", *given, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "probe").exists()


def test_real_recordings_with_noise_can_be_separated(reference: Path, tmp_path: Path) -> None:
    """The ten recordings of CODE-15%, each 60 times with noise: five of them are told from the other five."""
    golden, cut = np.load(reference / "golden/base.npz"), np.load(reference / "golden/segments.npz")
    record = cut["record"]
    real = np.stack([golden["embedding"][record == name].mean(axis=0) for name in np.unique(record)])  # (10, 768)
    assert len(real) == 10
    random, times = np.random.default_rng(0), 60
    spread = real.std(axis=0)
    copies = np.repeat(real, times, axis=0)
    segments = (copies + 0.5 * spread * random.standard_normal(copies.shape))[:, None]
    ids = [f"{recording}/{copy}" for recording in range(10) for copy in range(times)]
    truth = {
        "record_id": ids,
        "half": [recording % 2 for recording in range(10) for _ in range(times)],
        "chance": random.integers(0, 2, len(ids)).tolist(),
        "patient": ids,
    }
    outdir = write_run(tmp_path / "run", ids, segments)
    run(outdir, write_truth(tmp_path / "truth.csv", truth), tmp_path / "probe", "--patient", "patient")
    assert auroc(tmp_path / "probe", "half")["value"] > 0.999
    found = auroc(tmp_path / "probe", "chance")
    assert found["low"] < 0.5 < found["high"]


def test_an_invalid_head_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not a head")
    with pytest.raises(EcgpipeError, match="is not a head"):
        heads.load_head(tmp_path / "x")
    with pytest.raises(EcgpipeError, match="cannot read"):
        heads.load_head(tmp_path / "nowhere")


def describe(outdir: Path) -> None:
    """The part of a run that says whether its weights are random."""
    small_run.write(outdir.parent / "small", ["a", "b"], random_weights=True)
    (outdir / "checkpoint").mkdir()
    (outdir / "checkpoint/model.json").write_text((outdir.parent / "small/checkpoint/model.json").read_text())


def test_evaluate_refuses_the_recordings_that_a_head_was_trained_on(
    outdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = run(outdir, tmp_path / "truth.csv", tmp_path / "probe", *FOLDS, "--patient", "patient")
    path = tmp_path / "probe/head.safetensors"
    ids, segments, _ = data()
    told = heads.describe_labels([path], [head], [head.labels])
    columns = [ids, [2] * len(ids), *head.probability(segments.mean(axis=1)).T]
    schema = provenance.add_origin(schemas.predictions_schema(head.labels), "aggregate", heads=told)
    parquet.write(outdir / "predictions/part-00000.parquet", pa.table(columns, schema=schema))
    (tmp_path / "labels.csv").write_text("name,aggregation\nelse,mean\n")
    paths = {"predictions": outdir / "predictions", "records": outdir / "records", "labels": tmp_path / "labels.csv"}
    paths |= {"truth": tmp_path / "truth.csv"} | {name: tmp_path / name for name in ("metrics", "curves", "account")}
    given = ["evaluate", *(text for name, value in paths.items() for text in (f"--{name}", str(value)))]
    given += ["--heads", str(path), "--resamples", "10", "--patient", "patient", "--split", "fold", "--split-value"]
    for trained_on in ("1", "8"):  # train, valid
        assert main([*given, trained_on]) == 2
        said = capsys.readouterr().err
        assert f"the weights of {path} were fitted on the recordings of train and valid, and 40 of the 40" in said
    assert main([*given, "10"]) == 0
    assert "were trained on the recordings of train and valid." in capsys.readouterr().err
    (tmp_path / "probe/head.safetensors.fitted.parquet").unlink()
    assert main([*given, "10"]) == 2
    assert "is missing, so it is unknown which recordings the weights of" in capsys.readouterr().err


def predicted(outdir: Path, head: heads.Head, told: dict[str, dict[str, str]]) -> list[str]:
    """The command that evaluates what a head says of a run, on recordings that it was not trained on."""
    ids, segments, _ = data()
    columns = [ids, [2] * len(ids), *head.probability(segments.mean(axis=1)).T]
    schema = provenance.add_origin(schemas.predictions_schema(head.labels), "aggregate", heads=told)
    parquet.write(outdir / "predictions/part-00000.parquet", pa.table(columns, schema=schema))
    (outdir / "labels.csv").write_text("name,aggregation\nelse,mean\n")
    paths = {name: outdir / name for name in ("predictions", "records", "metrics", "curves", "account")}
    paths |= {"labels": outdir / "labels.csv", "truth": outdir.parent / "truth.csv"}
    given = ["evaluate", *(text for name, value in paths.items() for text in (f"--{name}", str(value)))]
    return [*given, "--resamples", "10", "--patient", "patient", "--split", "fold", "--split-value", "10"]


def test_a_head_is_found_by_its_content_wherever_it_lies_now(
    outdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = run(outdir, tmp_path / "truth.csv", tmp_path / "probe", *FOLDS, "--patient", "patient")
    told = heads.describe_labels([tmp_path / "probe/head.safetensors"], [head], [head.labels])
    command = predicted(outdir, head, told)
    (tmp_path / "probe").rename(tmp_path / "another mount")
    other = run(outdir, tmp_path / "truth.csv", tmp_path / "other", *FOLDS, "--patient", "patient", "--seed", "1")
    assert other.labels == head.labels
    given = [str(tmp_path / name / "head.safetensors") for name in ("other", "another mount")]
    assert main([*command, "--heads", *given]) == 0
    assert "another mount/head.safetensors were trained on the recordings of train" in capsys.readouterr().err
    assert main([*command, "--heads", given[0]]) == 2
    said = capsys.readouterr().err
    assert "--heads: the head that predicted 'easy', 'random' is not among the files" in said
    assert "give its head.safetensors" in said


def test_predictions_that_name_a_heads_file_as_they_did_once_are_evaluated_too(outdir: Path, tmp_path: Path) -> None:
    head = run(outdir, tmp_path / "truth.csv", tmp_path / "probe", *FOLDS, "--patient", "patient")
    path = tmp_path / "probe/head.safetensors"
    described = heads.describe_labels([path], [head], [head.labels])
    told = {name: {"path": str(path), **one} for name, one in described.items()}
    assert main(predicted(outdir, head, told)) == 0


def test_no_file_of_a_probe_names_a_folder(outdir: Path, tmp_path: Path) -> None:
    run(outdir, tmp_path / "truth.csv", tmp_path / "probe", *FOLDS, "--patient", "patient")
    for path in (tmp_path / "probe").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
        if path.suffix == ".parquet":
            assert str(tmp_path) not in json.dumps(provenance.read_origin(pq.read_schema(path)))
