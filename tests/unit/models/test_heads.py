"""Heads of probes: applied by record id, only to the embeddings that they were trained on, only under new names."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit

from ecgpipe.analysis import attribute
from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth
from ecgpipe.evaluation.truth_tables import Source
from ecgpipe.models import heads, labels
from ecgpipe.models.heads import Head
from ecgpipe.workflow import validate

WIDTH = 6
FACTS: dict[str, Any] = {"checkpoint_sha256": "ab" * 32, "preprocess": {"segment_s": 5}}
MEANING = {"checkpoint": 1, "preprocess": 1}
MODEL = ["Sinus rhythm", "Infarction"]


def embeddings(folder: Path, facts: dict[str, Any] = FACTS, width: int = WIDTH) -> dict[str, np.ndarray]:
    """A part of recordings of one to three segments; the mean of each, float32."""
    random = np.random.default_rng(0)
    rows = [(f"r{i}", number) for i in range(40) for number in range(1 + i % 3)]
    values = random.standard_normal((len(rows), width)).astype(np.float32)
    keys = [pa.array([name for name, _ in rows]), pa.array([number for _, number in rows], pa.int32())]
    schema = provenance.add_origin(schemas.embeddings_schema(width), "infer", MEANING, **facts)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
    parquet.write(folder / "embeddings.parquet", pa.table([*keys, column], schema=schema))
    logits = [pa.array(random.standard_normal(len(rows)), pa.float32()) for _ in MODEL]
    schema = provenance.add_origin(schemas.logits_schema(MODEL), "infer", MEANING, **facts)
    parquet.write(
        folder / "logits.parquet",
        pa.table([*keys, pa.array(np.zeros(len(rows)), pa.float32()), *logits], schema=schema),
    )
    (folder / "labels.csv").write_text("name,aggregation,threshold\nSinus rhythm,mean,0.3\nInfarction,max,\n")
    names = np.array([name for name, _ in rows])
    return {
        name: values[names == name].mean(axis=0, dtype=np.float64).astype(np.float32)
        for name in dict.fromkeys(names.tolist())
    }


def head(folder: Path, *names: str, seed: int = 1) -> tuple[Path, Head]:
    random = np.random.default_rng(seed)
    space = heads.describe_space(pq.read_schema(folder / "embeddings.parquet"))
    weight = random.standard_normal((len(names), WIDTH)).astype(np.float32)
    mean, scale, bias = (random.random(size).astype(np.float32) + 0.5 for size in (WIDTH, WIDTH, len(names)))
    made = Head(names, mean, scale, weight, bias, {"space": space})
    path = folder / f"{'-'.join(names)}.safetensors"
    heads.save_head(path, made)
    return path, made


def aggregate(folder: Path, *options: str) -> int:
    files = [
        text
        for option, name in {"logits": "logits.parquet", "labels": "labels.csv", "predictions": "out.parquet"}.items()
        for text in (f"--{option}", str(folder / name))
    ]
    return main(["aggregate", *files, *options])


def test_a_head_is_what_it_was_when_it_is_read_again(tmp_path: Path) -> None:
    embeddings(tmp_path)
    path, made = head(tmp_path, "A", "B, with a comma")
    read = heads.load_head(path)
    assert read.labels == made.labels
    assert read.facts == made.facts
    for name in heads.TENSORS:
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))


def test_labels_of_heads_follow_those_of_the_model_by_name_and_record(tmp_path: Path) -> None:
    means = embeddings(tmp_path)
    (one, first), (two, second) = head(tmp_path, "A", "B"), head(tmp_path, "C", seed=2)
    options = ["--embeddings", str(tmp_path / "embeddings.parquet"), "--heads", str(one), str(two)]
    assert aggregate(tmp_path) == 0
    without = pq.read_table(tmp_path / "out.parquet")
    assert aggregate(tmp_path, *options) == 0
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.column_names == ["record_id", "n_segments", *MODEL, "A", "B", "C"]
    assert made.select(without.column_names).equals(without)
    assert all(made.schema.field(name).type == pa.float64() for name in ("A", "B", "C"))
    for row in made.to_pylist():
        for given in (first, second):
            standard = (means[row["record_id"]].astype(float) - given.mean) / given.scale
            for number, name in enumerate(given.labels):
                expected = expit(standard @ given.weight[number].astype(float) + given.bias[number])
                assert row[name] == pytest.approx(expected, abs=1e-12)


def test_what_reads_predictions_knows_which_labels_are_heads(tmp_path: Path) -> None:
    embeddings(tmp_path)
    path, _ = head(tmp_path, "A")
    assert aggregate(tmp_path, "--embeddings", str(tmp_path / "embeddings.parquet"), "--heads", str(path)) == 0
    file = tmp_path / "out.parquet"
    given = labels.read_for(tmp_path / "labels.csv", pq.read_schema(file).names, file)
    assert labels.thresholds_by_name(given) == {"Sinus rhythm": 0.3, "Infarction": 0.5, "A": 0.5}
    assert labels.read_head_labels(file) == ["A"]
    # Integrated gradients follow outputs of the model.
    assert {label for _, label in attribute.choose_strongest([file], MODEL)} == set(MODEL)
    assert attribute.choose_strongest([file], []) == []


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({**FACTS, "checkpoint_sha256": "cd" * 32}, "of another checkpoint"),
        ({**FACTS, "preprocess": {"segment_s": 10}}, "of other settings of preprocess"),
        ({"checkpoint_sha256": "cd" * 32, "preprocess": {}}, "of another checkpoint and other settings of preprocess"),
    ],
)
def test_a_head_of_other_embeddings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: dict[str, Any], message: str
) -> None:
    embeddings(tmp_path)
    path, _ = head(tmp_path, "A")
    embeddings(tmp_path, facts)
    assert aggregate(tmp_path, "--embeddings", str(tmp_path / "embeddings.parquet"), "--heads", str(path)) == 2
    assert f"was trained on embeddings {message}, so it does not fit this run" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("meaning", ["preprocess", "infer"])
def test_a_head_of_a_version_that_computes_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, meaning: str
) -> None:
    embeddings(tmp_path)
    path, _ = head(tmp_path, "A")
    monkeypatch.setitem(provenance.MEANING if meaning == "infer" else MEANING, meaning, 2)
    embeddings(tmp_path)
    assert aggregate(tmp_path, "--embeddings", str(tmp_path / "embeddings.parquet"), "--heads", str(path)) == 2
    assert "a version of ecgpipe that computes something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["A", "A"], "'A' of {folder}/A.safetensors is a label of {folder}/A.safetensors too"),
    ],
)
def test_a_name_that_is_taken_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    embeddings(tmp_path)
    paths = [str(head(tmp_path, name)[0]) for name in names]
    assert aggregate(tmp_path, "--embeddings", str(tmp_path / "embeddings.parquet"), "--heads", *paths) == 2
    assert message.format(folder=tmp_path) in capsys.readouterr().err


def test_a_label_of_the_model_too_is_called_a_heads(tmp_path: Path) -> None:
    means = embeddings(tmp_path)
    path, made = head(tmp_path, "Infarction", "A")
    options = ["--embeddings", str(tmp_path / "embeddings.parquet"), "--heads"]
    assert aggregate(tmp_path, *options, str(path)) == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names[2:] == [*MODEL, "Infarction (head)", "A"]
    told = provenance.read_origin(table.schema)["heads"]
    assert {name: one["label"] for name, one in told.items()} == {"Infarction (head)": "Infarction", "A": "A"}
    for row in table.to_pylist():
        expected = made.probability(means[row["record_id"]][None])[0]
        assert [row["Infarction (head)"], row["A"]] == pytest.approx(expected.tolist())
        assert row["Infarction"] != pytest.approx(row["Infarction (head)"], abs=1e-6)
    # What is true of the label is true of both.
    parquet.write(tmp_path / "shard-00000.parquet", pa.table({"record_id": list(means), "infarction": [1, 0] * 20}))
    source = Source(None, {"infarction": "Infarction"})
    found = ground_truth.read_truth([tmp_path / "out.parquet"], [tmp_path / "shard-00000.parquet"], source)
    assert found.names == ("Infarction", "Infarction (head)")
    np.testing.assert_array_equal(found.true[:, 0], found.true[:, 1])
    np.testing.assert_array_equal(found.probability[:, 1], table["Infarction (head)"].to_numpy())


def test_the_settings_know_the_labels_of_heads(tmp_path: Path) -> None:
    embeddings(tmp_path)
    path, _ = head(tmp_path, "A")
    (tmp_path / "x.pt").touch()
    given = {"input": str(tmp_path), "checkpoint": str(tmp_path / "x.pt"), "labels": str(tmp_path / "labels.csv")}
    given_mapping = {"evaluation": {"mapping": {"a": "A"}}}
    assert validate.load({**given, **given_mapping, "heads": [str(path)]}, tmp_path).heads == [str(path)]
    with pytest.raises(EcgpipeError, match="'A' is not a label"):
        validate.load({**given, **given_mapping}, tmp_path)
    with pytest.raises(EcgpipeError, match="heads: 'nowhere' is not a file"):
        validate.load({**given, "heads": ["nowhere"]}, tmp_path)


def test_a_file_that_is_no_head_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings(tmp_path)
    given = ["--embeddings", str(tmp_path / "embeddings.parquet"), "--heads"]
    (tmp_path / "x").write_bytes(b"not a head")
    assert aggregate(tmp_path, *given, str(tmp_path / "x")) == 2
    assert "is not a head that ecgpipe's probe wrote" in capsys.readouterr().err
    assert aggregate(tmp_path, *given, str(tmp_path / "nowhere")) == 2
    assert "cannot read" in capsys.readouterr().err
    path, made = head(tmp_path, "A")
    heads.save_head(path, Head(made.labels, made.mean[:-1], made.scale, made.weight, made.bias, made.facts))
    assert aggregate(tmp_path, *given, str(path)) == 2
    assert "is damaged: scale, weight" in capsys.readouterr().err
    assert aggregate(tmp_path, "--heads", str(path)) == 2
    assert "give the same part's --embeddings" in capsys.readouterr().err
