"""Each family's declaration gives its authors' input from ten real recordings, within the tolerances of its README."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import ModelInput
from ecgpipe.preprocessing.segments import Windows, prepare
from ecgpipe.preprocessing.transform import Transformed, transform
from ecgpipe.preprocessing.unusable import UnusableError
from ecgpipe.readers import Recording

RATE = 400


@pytest.fixture(scope="module")
def recordings(reference: Path) -> dict[str, np.ndarray]:
    """(12, samples) in mV at 400 Hz, by the name of the file."""
    paths = sorted((reference / "code15").glob("*.mat"))
    return {path.stem: scipy.io.loadmat(path)["feats"].astype(np.float64) for path in paths}


def read_golden(reference: Path, name: str) -> Mapping[str, np.ndarray]:
    golden: Mapping[str, np.ndarray] = np.load(reference / "models" / name / "golden.npz")
    return golden


def variants(name: str) -> Mapping[str, ModelInput]:
    declared: Mapping[str, ModelInput] = import_module(f"ecgpipe.models.{name}.family").VARIANTS
    return declared


def transform_all(recordings: Mapping[str, np.ndarray], model_input: ModelInput) -> dict[str, Transformed]:
    rows = list(model_input.lead_rows)
    return {name: transform(signal[rows], RATE, model_input) for name, signal in recordings.items()}


def stack(made: Mapping[str, Transformed]) -> tuple[list[str], np.ndarray]:
    """The name of the recording of each window, and all windows."""
    names = [name for name, one in made.items() for _ in one.windows]
    return names, np.concatenate([one.windows for one in made.values()])


def summarize(windows: np.ndarray) -> np.ndarray:
    """(windows, leads, 4) mean, standard deviation, minimum and maximum of each lead."""
    exact = windows.astype(np.float64)
    return np.stack([exact.mean(-1), exact.std(-1), exact.min(-1), exact.max(-1)], axis=-1)


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def test_ecg_fm_to_the_last_bit(recordings: Mapping[str, np.ndarray], reference: Path) -> None:
    made = transform_all(recordings, variants("ecg_fm")["default"])
    for name, signal in recordings.items():
        segments = prepare(Recording(signal, RATE, LEADS, "mV"), Windows(), {}).segments
        np.testing.assert_array_equal(made[name].windows, segments)
    golden = np.load(reference / "golden" / "segments.npz")
    names, windows = stack(made)
    assert names == list(golden["record"])
    assert_close(windows, golden["signal"], 1e-6)


@pytest.mark.parametrize(("name", "step"), [("filtered", 10), ("plain", 50)])
def test_ecgfounder(name: str, step: int, recordings: Mapping[str, np.ndarray], reference: Path) -> None:
    golden = read_golden(reference, "ecgfounder")
    names, windows = stack(transform_all(recordings, replace(variants("ecgfounder")[name], short="pad")))
    assert names == list(golden["record"])
    assert_close(windows[:2], golden[f"{name}_first2"], 2e-5)
    assert_close(windows[:, :, ::step], golden[f"{name}_every{step}"], 2e-5)
    assert_close(summarize(windows), golden[f"{name}_stats"], 2e-5)


def test_ecgfounder_with_lead_i_alone(recordings: Mapping[str, np.ndarray]) -> None:
    """The z-score is over lead I; before it, nothing differs from lead I of the twelve."""
    family = import_module("ecgpipe.models.ecgfounder.family")
    twelve = transform_all(recordings, replace(family.INPUT, short="pad"))
    for name, made in transform_all(recordings, replace(family.LEAD1_INPUT, short="pad")).items():
        assert made.windows.shape == (1, 1, 5000)
        lead = twelve[name].windows[0, :1].astype(np.float64)
        assert_close(made.windows[0], (lead - lead.mean()) / lead.std(), 1e-5)


def test_deepecg_ssl(recordings: Mapping[str, np.ndarray], reference: Path) -> None:
    golden = read_golden(reference, "deepecg_ssl")
    made = transform_all(recordings, replace(variants("deepecg_ssl")["masked"], short="pad"))
    names, windows = stack(made)
    assert names == list(golden["record"])
    assert [one.samples for one in made.values()] == list(golden["valid"])
    assert_close(windows[:2], golden["mv_first2"], 1e-6)
    assert_close(windows[:, :, ::20], golden["mv_every20"], 1e-6)
    assert_close(summarize(windows), golden["mv_stats"], 1e-6)


def test_hubert_ecg(recordings: Mapping[str, np.ndarray], reference: Path) -> None:
    golden = read_golden(reference, "hubert_ecg")
    names, windows = stack(transform_all(recordings, variants("hubert_ecg")["head"]))
    assert names == list(golden["record"])
    assert_close(windows[:, 0], golden["input"], 1e-6)
    _, older = stack(transform_all(recordings, variants("hubert_ecg")["2024"]))
    assert_close(older[:2, 0], golden["input_2024_first2"], 1e-6)
    assert_close(summarize(older.reshape(-1, 12, 500)), golden["stats_2024"], 1e-6)


def test_ecg_jepa(recordings: Mapping[str, np.ndarray], reference: Path) -> None:
    golden = read_golden(reference, "ecg_jepa")
    names, windows = stack(transform_all(recordings, replace(variants("ecg_jepa")["default"], short="pad")))
    assert names == list(golden["record"])
    assert_close(windows[:2], golden["first2"], 1e-5)
    assert_close(windows[:, :, ::10], golden["every10"], 1e-5)
    assert_close(summarize(windows), golden["stats"], 1e-5)


@pytest.mark.parametrize("name", ["ecgfounder", "deepecg_ssl", "ecg_jepa"])
def test_recordings_under_ten_seconds_are_skipped_unless_they_are_padded(
    name: str, recordings: Mapping[str, np.ndarray]
) -> None:
    for model_input in variants(name).values():
        for signal in recordings.values():
            rows = signal[list(model_input.lead_rows)]
            if signal.shape[1] >= 10 * RATE:
                assert len(transform(rows, RATE, model_input).windows) == 1
            else:
                with pytest.raises(UnusableError, match="shorter than one segment of 10 s"):
                    transform(rows, RATE, model_input)
