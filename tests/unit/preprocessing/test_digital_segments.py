"""Segments as whole numbers: they have the very bits of the segments that are computed, or there are none."""

import tempfile
from pathlib import Path
from typing import Literal
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.core.digital import DIVIDE, MULTIPLY, SUBTRACT, Digital, decode
from ecgpipe.core.model_input import (
    Butterworth,
    Center,
    Cut,
    Fourier,
    JoinLeads,
    Linear,
    MinMax,
    ModelInput,
    Pad,
    ReplaceNan,
    Scale,
    Standardize,
    Step,
)
from ecgpipe.core.stored_segments import read_segments
from ecgpipe.preprocessing import preprocess, segment_writer
from ecgpipe.preprocessing.segments import Prepared, UnusableError, Windows, prepare, windows_of
from ecgpipe.readers import LEADS, Assumed, Recording

RATE = 100

# What a declaration may do to samples, and whether whole numbers stay.
STEPS: dict[str, tuple[tuple[Step, ...], bool]] = {
    "ECG-FM's": ((Center(), Linear(RATE), Standardize(epsilon=1e-8), Cut(), Pad(masked=True)), True),
    "each window by itself": ((Linear(RATE), Cut(), Standardize()), True),
    "all leads together": ((Linear(RATE), Cut(), Standardize("all", 0.0, 1)), True),
    "no epsilon": ((Linear(RATE), Standardize(epsilon=0.0), Cut()), True),
    "to a range": ((Linear(RATE), Cut(), MinMax("lead", -1, 1)), True),
    "all to a range": ((ReplaceNan("mean"), Linear(RATE), MinMax("all", 0, 2), Cut()), True),
    "scaled twice": ((Scale(1000.0), Linear(RATE, ends="grid"), Cut(), Scale(0.3), Center()), True),
    "joined": ((Linear(RATE), Cut(), Scale(3.0), JoinLeads(), Standardize()), True),
    "as it is": ((Fourier(RATE), Cut()), True),
    "filtered": ((Linear(RATE), Butterworth(2, (1.0, 20.0)), Standardize(), Cut()), False),
    "through another rate": ((Linear(2 * RATE), Linear(RATE), Standardize(), Cut()), False),
    "more steps than are kept": ((Linear(RATE), *[Scale(1.5)] * 9, Cut()), False),
}


def recording_of(numbers: np.ndarray, baseline: np.ndarray, gain: np.ndarray, rate: float = RATE) -> Recording:
    """A recording as a reader of WFDB makes it."""
    signal = (numbers.astype(np.float64) - baseline[:, None]) / gain[:, None] * np.full((12, 1), 1e-3)
    steps = ((SUBTRACT, baseline), (DIVIDE, gain), (MULTIPLY, np.full(12, 1e-3)))
    return Recording(signal, rate, LEADS, "mV", digital=Digital(numbers, steps))


def declared(steps: tuple[Step, ...], leads: tuple[str, ...] = LEADS) -> Windows:
    short: Literal["pad", "skip"] = "pad" if any(isinstance(step, Pad) for step in steps) else "skip"
    return windows_of(ModelInput(leads=leads, rate=RATE, window_s=2, steps=steps, short=short))._replace(
        tail="overlap", short=short
    )


def noise(samples: int = 5 * RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3000, 3000, (12, samples)).astype(np.int16)


def made_of(recording: Recording, windows: Windows) -> Prepared:
    return prepare(recording, windows, {})


def decoded(made: Prepared) -> np.ndarray:
    assert made.digital is not None
    values = [decode(each.numbers, each.kinds, each.constants).astype(np.float32) for each in made.digital]
    return np.stack(values)


def assert_same_bits(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_array_equal(one.view(np.int32), other.view(np.int32))


@pytest.mark.parametrize("name", STEPS)
@given(
    seed=st.integers(0, 2**32 - 1),
    lead=st.integers(0, 11),
    kind=st.sampled_from(["noise", "flat", "constant", "extreme", "spike", "zero"]),
    baseline=st.integers(-40_000, 40_000),
    gain=st.floats(0.01, 1e5),
    extra=st.integers(0, 3 * RATE),
)
@settings(deadline=None, max_examples=25)
def test_whole_numbers_give_the_bits_of_the_segments(
    name: str, seed: int, lead: int, kind: str, baseline: int, gain: float, extra: int
) -> None:
    steps, stays = STEPS[name]
    numbers = noise(2 * RATE + extra, seed)
    row = numbers[lead]
    match kind:
        case "flat":
            row[: len(row) // 2] = 5
        case "constant":
            row[:] = -7
        case "extreme":
            row[::7], row[::5] = -32768, 32767
        case "spike":
            row[:], row[3] = 0, 32767
        case "zero":
            numbers[[i for i in range(12) if i != lead]] = 0
    gains, baselines = np.full(12, gain), np.full(12, float(baseline))
    gains[lead], baselines[lead] = -gain / 3, -7.0  # of its own, and upside down
    try:
        made = made_of(recording_of(numbers, baselines, gains), declared(steps))
    except UnusableError:
        return
    assert (made.digital is not None) == stays
    if stays:
        assert_same_bits(decoded(made), made.segments)


def test_leads_are_found_by_name() -> None:
    seed = 3
    straight = recording_of(noise(seed=seed), np.arange(12.0), np.arange(100.0, 112.0))
    order = np.random.default_rng(seed).permutation(12).tolist()
    assert straight.digital is not None
    mixed = straight._replace(
        signal=straight.signal[order], leads=tuple(LEADS[i] for i in order), digital=straight.digital.of_leads(order)
    )
    for leads in (LEADS, ("V5", "I", "aVF")):
        windows = declared(STEPS["ECG-FM's"][0], leads)
        made, expected = made_of(mixed, windows), made_of(straight, windows)
        assert_same_bits(decoded(made), expected.segments)
        assert made.digital is not None
        rows = [LEADS.index(lead) for lead in leads]
        np.testing.assert_array_equal(made.digital[0].numbers, straight.digital.numbers[rows, :200])


def test_derived_leads_padding_and_other_rates_have_values_alone() -> None:
    recording, windows = recording_of(noise(), np.zeros(12), np.full(12, 200.0)), declared(STEPS["ECG-FM's"][0])
    assert recording.digital is not None
    without = [i for i, lead in enumerate(LEADS) if lead != "III"]
    derived = recording._replace(
        signal=recording.signal[without],
        leads=tuple(LEADS[i] for i in without),
        digital=recording.digital.of_leads(without),
    )
    assert made_of(derived, windows).digital is None
    assert made_of(recording._replace(sample_rate=2.0 * RATE), windows).digital is None
    short = recording._replace(signal=recording.signal[:, :150], digital=recording.digital.between(0, 150))
    assert made_of(short, windows).digital is None
    assert made_of(recording._replace(digital=None), windows).digital is None
    assert made_of(recording, windows).digital is not None


def test_the_signal_of_a_recording_may_be_overwritten() -> None:
    recording, windows = recording_of(noise(), np.ones(12), np.full(12, 200.0)), declared(STEPS["ECG-FM's"][0])
    kept = made_of(recording, windows)
    overwritten = prepare(recording, windows, {}, overwrite=True)
    assert_same_bits(decoded(overwritten), kept.segments)


@given(kinds=st.lists(st.booleans(), max_size=9), batch=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_a_shard_holds_both_forms_in_any_order(kinds: list[bool], batch: int) -> None:
    windows = declared(STEPS["ECG-FM's"][0])
    expected, numbers_bytes = [], 0
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(segment_writer, "BATCH_SEGMENTS", batch):
        path = Path(folder, "x.arrow")
        schema = preprocess._segments_schema({"preprocess": preprocess._facts(windows, Assumed())}, path)
        with segment_writer.SegmentWriter(path, schema, 12, 200) as writer:
            for number, is_digital in enumerate(kinds):
                recording = recording_of(noise(200, number), np.ones(12), np.full(12, 200.0))
                made = made_of(recording if is_digital else recording._replace(digital=None), windows)
                digital = made.digital[0] if made.digital else None
                writer.add([segment_writer.Segment(f"r{number}", 0, 0.0, 200, digital, made.segments[0])])
                expected.append(made.segments[0])
                numbers_bytes += (2 if is_digital else 4) * 12 * 200
        keys, values = read_segments(path)
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
            assert table["numbers"].is_valid().to_pylist() == kinds
            assert table["signal"].is_null().to_pylist() == kinds
        assert path.stat().st_size < numbers_bytes + 5000 + 2500 * len(kinds)
    assert keys["record_id"].to_pylist() == [f"r{number}" for number in range(len(kinds))]
    assert_same_bits(values, np.array(expected, np.float32).reshape(-1, 12, 200))
