"""The choice of a precision: what is compared, what is found by hand too, and when float32 is taken after all."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from processor import needs_bfloat16
from segment_files import signals, write_shard

from ecgpipe.cli import main
from ecgpipe.inference import engine, precision
from ecgpipe.inference.engine import Results
from ecgpipe.inference.segment_files import Keys

LABELS = ("Poor data quality", "Sinus rhythm", "Électrode")
Outputs = tuple[np.ndarray, np.ndarray]


def outputs(rows: int, labels: int = 3, seed: int = 0) -> Outputs:
    """Logits (rows, labels) and embeddings (rows, 8), float32."""
    random = np.random.default_rng(seed)
    logits = 3 * random.standard_normal((rows, labels), dtype=np.float32)
    return logits, random.standard_normal((rows, 8), dtype=np.float32)


def nearly(exact: Outputs, step: float = 1e-2) -> Outputs:
    """The same with noise."""
    random = np.random.default_rng(1)
    noisy = [array + step * random.standard_normal(array.shape, dtype=np.float32) for array in exact]
    return noisy[0], noisy[1]


# What was found


def test_the_drift_is_what_pandas_and_pytorch_find_label_by_label() -> None:
    exact = outputs(40)
    rounded = nearly(exact)
    found = precision.measure_drift(exact, rounded, LABELS)
    one, other = (
        pd.DataFrame(torch.from_numpy(logits).double().sigmoid(), columns=LABELS) for logits, _ in (exact, rounded)
    )
    away = (one - other).abs()
    assert found["segments"] == 40
    assert list(found["probability"]) == list(LABELS)
    for label in LABELS:
        assert found["probability"][label]["largest"] == pytest.approx(away[label].max(), rel=5e-3)  # three digits
        assert found["probability"][label]["mean"] == pytest.approx(away[label].mean(), rel=5e-3)
    cosine = torch.cosine_similarity(torch.from_numpy(exact[1]).double(), torch.from_numpy(rounded[1]).double())
    assert found["embedding"]["largest"] == pytest.approx(float(1 - cosine.min()), rel=5e-3)
    assert found["embedding"]["mean"] == pytest.approx(float(1 - cosine.mean()), rel=5e-3)
    assert found["largest"] == max(
        found["embedding"]["largest"], *(of["largest"] for of in found["probability"].values())
    )


def test_a_difference_belongs_to_its_label() -> None:
    exact = outputs(5)
    for column, label in enumerate(LABELS):
        logits = exact[0].copy()
        logits[3, column] = 0 if abs(logits[3, column]) > 1 else 9
        found = precision.measure_drift(exact, (logits, exact[1]), LABELS)
        assert [name for name, of in found["probability"].items() if of["largest"]] == [label]
        assert found["embedding"]["largest"] == pytest.approx(0, abs=1e-12)


def test_no_difference_is_none() -> None:
    exact = outputs(5)
    found = precision.measure_drift(exact, exact, LABELS)
    assert found["probability"] == {label: {"largest": 0, "mean": 0} for label in LABELS}
    assert found["largest"] == pytest.approx(0, abs=1e-12)


def test_a_turned_embedding_is_found_and_a_longer_one_is_none() -> None:
    logits, embeddings = outputs(3)
    turned = embeddings.copy()
    turned[1] = -turned[1]
    assert precision.measure_drift((logits, embeddings), (logits, turned), LABELS)["largest"] == 2
    longer = precision.measure_drift((logits, embeddings), (logits, 7 * embeddings), LABELS)
    assert longer["largest"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_none_and_valid_json(value: float) -> None:
    exact = outputs(5)
    embeddings = exact[1].copy()
    embeddings[2, 3] = value
    found = precision.measure_drift(exact, (exact[0], embeddings), LABELS)
    assert found["embedding"] == {"largest": None, "mean": None}
    assert found["largest"] is None
    logits = exact[0].copy()
    logits[4, 1] = np.nan
    found = precision.measure_drift(exact, (logits, exact[1]), LABELS)
    assert found["probability"][LABELS[1]] == {"largest": None, "mean": None}
    assert found["probability"][LABELS[0]]["largest"] == 0
    assert found["largest"] is None
    json.loads(json.dumps(found, allow_nan=False))


def test_without_a_head_the_embedding_alone_is_compared() -> None:
    exact = outputs(5, labels=0)
    found = precision.measure_drift(exact, nearly(exact), ())
    assert found["probability"] == {}
    assert found["largest"] == found["embedding"]["largest"] > 0


def test_without_segments_there_is_nothing_to_compare() -> None:
    nothing = np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
    found = precision.measure_drift(nothing, nothing, LABELS)
    assert (found["segments"], found["probability"]) == (0, {})


def stream(sizes: list[int], taken: list[int]) -> Iterator[tuple[Keys, Results]]:
    """Batches of so many segments, whose logits count them; `taken` says which were asked for."""
    done = 0
    for size in sizes:
        taken.append(size)
        rows = np.arange(done, done + size, dtype=np.float32)
        keys = Keys([""] * size, rows, rows, rows)
        yield keys, Results(np.stack([rows, -rows], axis=1), rows[:, None], None)
        done += size


@pytest.mark.parametrize(
    ("sizes", "most", "expected", "asked"),
    [([4, 4, 4], 6, 6, 2), ([4, 4, 4], 8, 8, 2), ([4, 4, 1], 256, 9, 3), ([5], 2, 2, 1), ([], 6, 0, 0)],
)
def test_no_more_than_the_first_segments_are_taken(sizes: list[int], most: int, expected: int, asked: int) -> None:
    taken: list[int] = []
    logits, embeddings = precision.take_first(stream(sizes, taken), most)
    assert logits.shape[0] == embeddings.shape[0] == expected
    if expected:
        np.testing.assert_array_equal(logits, np.stack([np.arange(expected), -np.arange(expected)], axis=1))
        np.testing.assert_array_equal(embeddings[:, 0], np.arange(expected))
    assert len(taken) == asked


# The decision


def found(wanted: str = "float16", segments: int = 256, largest: float | None = 0.001) -> dict[str, Any]:
    return {"used": wanted, "bound": 0.01, "segments": segments, "largest": largest}


WITHIN, BEYOND, ODD, NOTHING = found(), found(largest=0.02), found(largest=None), found(segments=0, largest=0.0)


@pytest.mark.parametrize(
    ("what", "asked", "used", "level", "said"),
    [
        (WITHIN, "auto", "float16", "INFO", "float16 differs from float32 by at most 0.001 over 256 segments"),
        (WITHIN, "float16", "float16", "INFO", "float16 differs from float32 by at most 0.001 over 256 segments"),
        (found(largest=0.01), "auto", "float16", "INFO", "by at most 0.01"),
        (
            BEYOND, "auto", "float32", "WARNING",
            "float32 instead of float16, whose difference from it is by 0.02 over 256 segments, and "
            "inference.max_drift is 0.01",
        ),
        (
            BEYOND, "float16", "float16", "WARNING",
            "float16, as the settings say, though its difference from float32 is by 0.02",
        ),
        (ODD, "auto", "float32", "WARNING", "by a number that is not finite over 256 segments"),
        (ODD, "float16", "float16", "WARNING", "float16, as the settings say"),
        (NOTHING, "auto", "float32", "WARNING", "unknown, as there are no segments to compare"),
        (NOTHING, "bfloat16", "float16", "WARNING", "unknown, as there are no segments to compare"),
    ],
)  # fmt: skip
def test_what_is_used_is_logged(
    what: dict[str, Any], asked: str, used: str, level: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert precision.decide_precision(what, asked) == used
    (record,) = caplog.records
    assert record.levelname == level
    assert said in record.getMessage()


@pytest.mark.parametrize("asked", ["auto", "float32"])
def test_float32_needs_no_comparison(asked: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert precision.decide_precision({"used": "float32"}, asked) == "float32"
    assert not caplog.records


def test_auto_falls_back_from_drift_that_was_really_found() -> None:
    exact = outputs(30)
    for step, used in ((1e-4, "float16"), (1.0, "float32"), (np.nan, "float32")):
        rounded = nearly(exact, step)
        assert precision.decide_precision(found() | precision.measure_drift(exact, rounded, LABELS), "auto") == used


# The command


def command(converted: Path, segments: int, *options: str) -> tuple[str, dict[str, Any]]:
    """Run the stage over two shards, and read what it wrote."""
    folder = converted.parent
    rows = [("a", number) for number in range(segments)]
    values = signals(segments, samples=80)
    half = segments // 2
    paths = [
        write_shard(folder / "shard-0.arrow", rows[:half], values[:half], batch=128),
        write_shard(folder / "shard-1.arrow", rows[half:], values[half:], batch=128),
    ]
    status = main(
        [
            *("precision", "--weights", str(converted / "model.safetensors")),
            *("--description", str(converted / "model.json"), "--segments", *map(str, paths)),
            *("--chosen", str(folder / "chosen.json"), "--drift", str(folder / "drift.json"), "--device", "cpu"),
            *options,
        ]
    )
    assert status == 0
    return (folder / "choice.txt").read_text().strip(), json.loads((folder / "drift.json").read_text())


@pytest.mark.parametrize("asked", ["auto", "float32"])
def test_on_a_cpu_auto_is_float32_without_a_comparison(
    asked: str, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(engine, "run")
    choice, drift = command(converted, 4, "--precision", asked)
    assert choice == "float32"
    assert drift["device"].startswith("CPU")
    assert {key: drift[key] for key in ("asked", "used")} == {"asked": asked, "used": "float32"}
    assert not {"compared", "probability", "largest"} & drift.keys()


def test_float16_on_a_cpu_becomes_float32_with_a_warning(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice, drift = command(converted, 4, "--precision", "float16")
    assert (choice, drift["asked"], drift["used"]) == ("float32", "float16", "float32")
    assert "inference.precision: float16 becomes float32: a CPU computes in float32 or bfloat16" in (
        capsys.readouterr().err
    )


@needs_bfloat16
@pytest.mark.parametrize(("segments", "compared"), [(300, 256), (10, 10)])
def test_bfloat16_on_a_cpu_is_compared_over_the_first_segments(
    segments: int, compared: int, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice, drift = command(converted, segments, "--precision", "bfloat16", "--max-drift", "3")
    assert choice == drift["used"] == drift["asked"] == drift["compared"] == "bfloat16"
    assert (drift["segments"], drift["bound"]) == (compared, 3)
    assert list(drift["probability"]) == list(LABELS)
    assert 0 < drift["embedding"]["mean"] < drift["embedding"]["largest"] <= drift["largest"]
    assert all(0 < of["mean"] < of["largest"] <= drift["largest"] for of in drift["probability"].values())
    assert f"bfloat16 differs from float32 by at most {drift['largest']:g} over {compared} segments" in (
        capsys.readouterr().err
    )


@needs_bfloat16
def test_bfloat16_beyond_the_bound_is_kept_where_it_was_asked_for_but_warned_of(
    converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice, drift = command(converted, 10, "--precision", "bfloat16", "--max-drift", "1e-9")
    assert choice == drift["used"] == "bfloat16"
    assert drift["largest"] > drift["bound"]
    said = f"bfloat16, as the settings say, though its difference from float32 is by {drift['largest']:g} over 10"
    assert said in capsys.readouterr().err


@needs_bfloat16
def test_where_auto_would_take_half_precision_it_falls_back_to_float32_beyond_the_bound(
    converted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As on a GPU, where auto takes float16: bfloat16 stands for it, as a CPU can compute in that.
    monkeypatch.setattr(engine, "usable", lambda precision, device: "bfloat16")
    choice, drift = command(converted, 10, "--max-drift", "1e-9")
    assert (choice, drift["used"], drift["asked"], drift["compared"]) == ("float32", "float32", "auto", "bfloat16")
    assert "float32 instead of bfloat16, whose difference from it is by" in capsys.readouterr().err
    choice, drift = command(converted, 10, "--max-drift", "3")
    assert (choice, drift["used"]) == ("bfloat16", "bfloat16")


@needs_bfloat16
@pytest.mark.parametrize(("asked", "used"), [("bfloat16", "bfloat16"), ("auto", "float32")])
def test_a_run_without_segments_states_that_nothing_could_be_compared(
    asked: str, used: str, converted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "usable", lambda precision, device: "bfloat16")
    choice, drift = command(converted, 0, "--precision", asked)
    assert (choice, drift["segments"]) == (used, 0)
    assert "unknown, as there are no segments to compare" in capsys.readouterr().err
