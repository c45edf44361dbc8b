"""What ECGFM takes: paths, Recordings, DataFrames, arrays, lists of them; and what it says of those it cannot use."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecgpipe import ECGFM, EcgpipeError, Recording, read
from ecgpipe.api import arrays, progress
from ecgpipe.preprocessing.segments import UnusableError, Windows, choose_leads
from ecgpipe.readers import LEADS, Assumed, without_filling
from ecgpipe.readers import csv as csv_reader
from ecgpipe.selftest import demo_model, simulator

EIGHT = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]


def heart(name: str, rate: int = 500, seed: int = 0) -> np.ndarray:
    """(12, samples) in mV."""
    return simulator.simulate(simulator.RHYTHMS[name], rate, np.random.default_rng(seed))


def frame_of(signal: np.ndarray, names: Sequence[Any] = LEADS) -> pd.DataFrame:
    return pd.DataFrame(signal.T, columns=list(names))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's checkpoint, three simulated hearts, and two files that cannot be used."""
    folder = tmp_path_factory.mktemp("sources")
    torch.save(demo_model.read_content(), folder / "demo.pt")
    (folder / "hearts").mkdir()
    for number, name in enumerate(["flutter", "premature", "sinus"]):
        signal = heart(name, seed=number)
        np.savez(folder / f"hearts/{name}.npz", signal=signal, sample_rate=500, leads=LEADS, unit="mV")
    np.savez(folder / "short.npz", signal=heart("sinus")[:, :1000], sample_rate=500, leads=LEADS, unit="mV")
    (folder / "damaged.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    np.save(folder / "bare.npy", heart("sinus"))
    return folder


@pytest.fixture(scope="module")
def ecgfm(folder: Path) -> ECGFM:
    return ECGFM.from_checkpoint(folder / "demo.pt", demo_model.FOLDER / "labels.csv", device="cpu", threads=1)


# Paths


def test_paths_in_every_form_give_the_numbers_of_the_arrays_in_them(folder: Path, ecgfm: ECGFM) -> None:
    signals = [heart(name, seed=number) for number, name in enumerate(["flutter", "premature", "sinus"])]
    expected = ecgfm.predict(signals, 500, LEADS, ids=["flutter", "premature", "sinus"])
    hearts = folder / "hearts"
    files = sorted(hearts.iterdir())
    for given_paths in (hearts, str(hearts), str(hearts / "*.npz"), files, list(map(str, files))):
        pd.testing.assert_frame_equal(ecgfm.predict(given_paths), expected, check_exact=True)
    one = ecgfm.embed(files[1])
    assert one.index.tolist() == [("premature", 0, 0.0), ("premature", 1, 5.0)]
    pd.testing.assert_frame_equal(one, ecgfm.embed(signals[1], 500, LEADS, ids=["premature"]), check_exact=True)


def test_files_of_one_name_are_told_apart_by_their_paths(folder: Path, ecgfm: ECGFM, tmp_path: Path) -> None:
    same = tmp_path / "sinus.npz"
    same.write_bytes((folder / "hearts/flutter.npz").read_bytes())
    predicted = ecgfm.predict([folder / "hearts/sinus.npz", same])
    assert predicted.index.tolist() == [str(folder / "hearts/sinus.npz"), str(same)]
    assert predicted["Atrial flutter"].iloc[0] < 0.5 < predicted["Atrial flutter"].iloc[1]


def test_what_a_file_does_not_state_is_taken_from_the_arguments(folder: Path, ecgfm: ECGFM) -> None:
    bare = folder / "bare.npy"
    with pytest.raises(EcgpipeError, match=r"bare\.npy: the file states no sampling rate; give sample_rate= if you"):
        ecgfm.predict(bare)
    with pytest.raises(EcgpipeError, match=r"the file names no leads; give leads= if you know their order"):
        ecgfm.predict(bare, 500)
    pd.testing.assert_frame_equal(
        ecgfm.predict(bare, 500, LEADS), ecgfm.predict(heart("sinus"), 500, LEADS, ids=["bare"]), check_exact=True
    )
    # A file's own word stands.
    pd.testing.assert_frame_equal(
        ecgfm.predict(folder / "hearts/sinus.npz", 250), ecgfm.predict(folder / "hearts/sinus.npz")
    )


# What cannot be used


def test_the_first_recording_that_cannot_be_used_is_raised_with_the_way_to_skip_it(folder: Path, ecgfm: ECGFM) -> None:
    with pytest.raises(EcgpipeError, match=r"damaged\.mat: .*; .*errors='skip' to leave out such recordings$"):
        ecgfm.predict([folder / "hearts", folder / "damaged.mat"])
    with pytest.raises(EcgpipeError, match=r"^signal: recording b: shorter than one segment .* or errors='skip'"):
        ecgfm.embed([heart("sinus"), heart("sinus")[:, :999]], 500, LEADS, ids=["a", "b"])
    with pytest.raises(EcgpipeError, match=r"nowhere\.xml"):
        ecgfm.predict(folder / "nowhere.xml")


def test_those_that_are_skipped_are_a_table_and_the_others_get_their_own_numbers(
    folder: Path, ecgfm: ECGFM, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = [folder / "hearts", folder / "damaged.mat", folder / "short.npz", folder / "nowhere.xml"]
    predicted = ecgfm.predict(mixed, errors="skip")
    pd.testing.assert_frame_equal(predicted, ecgfm.predict(folder / "hearts"), check_exact=True)
    assert ecgfm.skipped.empty  # of the last call
    ecgfm.predict(mixed, errors="skip")
    skipped = ecgfm.skipped
    assert list(skipped.columns) == ["path", "status", "reason"]
    assert skipped["status"].to_dict() == {"damaged": "failed", "short": "skipped", "nowhere.xml": "failed"}
    assert skipped.loc["short", "reason"] == "shorter than one segment of 5 s (2.000 s)"
    assert "3 of 6 recordings left out; `.skipped` says why" in caplog.text


def test_numbers_of_arrays_stay_when_one_is_skipped_and_none_may_be_left(ecgfm: ECGFM) -> None:
    signals = [heart("sinus"), heart("sinus").T, np.full((12, 5000), np.nan), heart("flutter")]
    predicted = ecgfm.predict(signals, 500, LEADS, errors="skip")
    assert predicted.index.tolist() == [0, 3]
    assert ecgfm.skipped.index.tolist() == [1, 2]
    assert "which is (samples, leads)" in ecgfm.skipped["reason"][1]
    assert ecgfm.predict(signals[1:3], 500, LEADS, errors="skip").shape == (0, 11)
    empty = ecgfm.embed(signals[1], 500, LEADS, errors="skip")
    assert (empty.shape, empty.index.names) == ((0, 64), ["recording", "segment", "start_s"])
    assert ecgfm.attention(signals[1], 500, LEADS, errors="skip").shape[0] == 0


# Lists


def test_recordings_of_a_list_have_ids_and_sampling_rates_of_their_own(ecgfm: ECGFM) -> None:
    slow, fast = heart("premature", 250, 4), heart("sinus", 500, 5)
    predicted = ecgfm.predict([slow, fast], [250, 500], LEADS, ids=["x", "y"])
    assert predicted.index.tolist() == ["x", "y"]
    for name, signal, rate in (("x", slow, 250), ("y", fast, 500)):
        np.testing.assert_array_equal(predicted.loc[name], ecgfm.predict(signal, rate, LEADS).loc[0])
    refused: dict[str, dict[str, Any]] = {
        "ids: 1 for 2 recordings": {"ids": ["x"]},
        "ids: 'x' is there twice": {"ids": ["x", "x"]},
        "ids: 1 is not a text": {"ids": ["x", 1]},
        "sample_rate: 3 numbers for 2 recordings": {"sample_rate": [250, 500, 500]},
        "sample_rate: 1 is out of range": {"sample_rate": [250, 1]},
        "errors: 'ignore' is not valid": {"errors": "ignore"},
    }
    for says, wrong in refused.items():
        with pytest.raises(EcgpipeError, match=says):
            ecgfm.predict([slow, fast], **{"sample_rate": 250, "leads": LEADS, **wrong})


def test_arguments_that_are_missing_or_mixed_are_refused(folder: Path, ecgfm: ECGFM) -> None:
    for arguments, says in (
        ((heart("sinus"),), "sample_rate: missing"),
        ((heart("sinus"), 500), "leads: missing"),
        (([heart("sinus"), "ecg.npz"], 500, LEADS), "give one kind a call"),
        ((folder / "bare.npy", 3), "sample_rate: 3 is out of range"),
        ((folder / "bare.npy", 500, LEADS, None, "inch"), "unit: 'inch' is not known"),
    ):
        with pytest.raises(EcgpipeError, match=says):
            ecgfm.predict(*arguments)
    with pytest.raises(EcgpipeError, match="ids: files have their own"):
        ecgfm.predict(folder / "hearts", ids=["a", "b", "c"])


# DataFrames


def test_a_frame_gives_what_its_array_gives_whatever_its_columns_order(ecgfm: ECGFM) -> None:
    signal = heart("premature")
    expected = ecgfm.predict(signal, 500, LEADS)
    shuffled = frame_of(signal)[list(reversed(LEADS))]
    timed = frame_of(signal, [f"{lead} (mV)" for lead in LEADS]).assign(time_s=np.arange(5000) / 500)
    for frame, rate in ((frame_of(signal), 500), (shuffled, 500), (timed, None)):
        pd.testing.assert_frame_equal(ecgfm.predict(frame, rate), expected, check_exact=True)
    both = ecgfm.predict([frame_of(signal), timed], [500, 500], ids=["a", "b"])
    np.testing.assert_array_equal(both.loc["a"], both.loc["b"])


def test_empty_rows_of_a_frame_are_filling_at_its_ends_and_refused_within(ecgfm: ECGFM) -> None:
    signal = heart("sinus")
    filled = frame_of(np.pad(signal, ((0, 0), (0, 700)), constant_values=np.nan))
    pd.testing.assert_frame_equal(ecgfm.predict(filled, 500), ecgfm.predict(signal, 500, LEADS), check_exact=True)
    holed = frame_of(signal)
    holed.loc[2000, "V1"] = np.nan
    with pytest.raises(EcgpipeError, match=r"signal: NaN or infinite samples \(V1\); cut them out or fill them in"):
        ecgfm.predict(holed, 500)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"columns": [*LEADS[:-1], "Vsix"]}, "not known: the columns 'Vsix'; rename those that are leads to I II"),
        ({"columns": [*LEADS[:-1], 11]}, "not known: the columns 11; rename"),
        ({"columns": ["I", "DI", *LEADS[2:]]}, "the columns 'I' and 'DI' are all lead I; keep one of them"),
        ({"columns": ["V1", *LEADS[1:]]}, "the columns 'V1' and 'V1' are all lead V1; keep one of them"),
        ({"columns": range(12)}, "no column is a lead (its columns: 0, 1, 2"),
        ({"rate": None}, "no sampling rate; give sample_rate=, or a column time_s or time_ms"),
        ({"kind": str}, "a lead's column holds something else than numbers (I: "),
        ({"columns": [f"{lead}" for lead in LEADS[:-1]] + ["time_s"], "rate": None}, "the times do not rise from row"),
    ],
)
def test_a_frame_that_is_not_clear_is_refused_with_the_fix(change: dict[str, Any], says: str, ecgfm: ECGFM) -> None:
    frame = frame_of(heart("sinus"), change.get("columns", LEADS)).astype(change.get("kind", float))
    with pytest.raises(EcgpipeError, match="^" + re.escape(f"signal: {says}")):
        ecgfm.predict(frame, change.get("rate", 500))


def test_a_model_that_needs_millivolts_asks_for_the_unit_of_a_frame() -> None:
    from ecgpipe.api.sources import open_source
    from ecgpipe.models.registry import find_family
    from ecgpipe.preprocessing.segments import windows_of

    needing = next(
        windows_of(declared)
        for declared in (find_family(name).choose_input({}) for name in ("ecgfounder", "hubert-ecg", "deepecg-ssl"))
        if declared.unit
    )
    signal = np.tile(heart("sinus"), 2)
    entries = [
        next(open_source(frame, 500, None, unit, None, Assumed()).entries(needing))
        for frame, unit in (
            (frame_of(signal), None),
            (frame_of(signal), "mV"),
            (frame_of(1000 * signal), "uV"),
            (frame_of(signal, [f"{lead} [mV]" for lead in LEADS]), None),
        )
    ]
    assert str(entries[0].error).startswith("signal: no unit, and the model needs millivolts; give unit=, or name")
    segments = [entry.prepared.segments for entry in entries[1:] if entry.prepared is not None]
    assert len(segments) == 3
    for other in segments[1:]:
        np.testing.assert_allclose(other, segments[0], rtol=0, atol=1e-5)


SPELLINGS = ["{}", "{} (mV)", "Lead {}", "MDC_ECG_LEAD_{}", "ecg {}", "{}_mv"]


@given(st.permutations(range(12)), st.lists(st.sampled_from(SPELLINGS), min_size=12, max_size=12))
def test_a_lead_is_found_by_its_name_wherever_its_column_stands(order: list[int], spellings: list[str]) -> None:
    signal = np.arange(12.0)[:, None] + np.arange(40.0)  # (12, samples), each lead another
    names = [spelling.format(LEADS[row]) for spelling, row in zip(spellings, order, strict=True)]
    recording = arrays.from_frame(frame_of(signal[order], names), 100, None)
    np.testing.assert_array_equal(choose_leads(recording, Windows()).signal, signal)


@given(
    st.lists(st.integers(0, 11), min_size=2, max_size=12, unique=True),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 11)), max_size=60),
    st.integers(0, 20),
)
def test_a_frame_is_read_as_the_same_table_in_a_csv_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], holes: list[tuple[int, int]], empty: int
) -> None:
    rng = np.random.default_rng(len(rows))
    frame = frame_of(rng.standard_normal((len(rows), 60)).round(3), [LEADS[row] for row in rows])
    for row, column in holes:
        frame.iloc[row, column % len(rows)] = np.nan
    frame.iloc[60 - empty :] = np.nan
    path = tmp_path_factory.getbasetemp() / "frame.csv"
    frame.to_csv(path, index=False)
    expected = without_filling(csv_reader.read(path, Assumed(100)))
    made = arrays.from_frame(frame, 100, None)
    np.testing.assert_array_equal(made.signal, expected.signal)
    assert made[1:4] == expected[1:4]


@given(st.lists(st.one_of(st.text(max_size=12), st.integers(), st.none(), st.sampled_from(LEADS)), max_size=14))
def test_any_names_of_columns_make_leads_or_a_refusal_with_a_fix(names: list[Any]) -> None:
    frame = pd.DataFrame(np.ones((30, len(names))), columns=pd.Index(names, dtype=object))
    try:
        recording = arrays.from_frame(frame, 100, None)
    except UnusableError as error:
        assert "; " in str(error)  # noqa: PT017, either of the two is right
    else:
        assert 0 < len(recording.leads) <= 12


# Recordings


def test_a_recording_that_was_read_gives_what_its_file_gives(folder: Path, ecgfm: ECGFM) -> None:
    path = folder / "hearts/premature.npz"
    recording = read(path)
    pd.testing.assert_frame_equal(ecgfm.predict(recording), ecgfm.predict(path), check_exact=True)
    other = Recording(heart("sinus", 250), 250, LEADS)
    assert ecgfm.predict([recording, other]).index.tolist() == [0, 1]  # one of them has no name
    with pytest.raises(EcgpipeError, match="sample_rate: 250, but the Recording has 500 Hz; leave sample_rate out"):
        ecgfm.predict(recording, 250)


# Progress


def test_a_bar_is_shown_where_it_is_asked_for_or_watched(
    ecgfm: ECGFM, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ecgfm.predict(heart("sinus"), 500, LEADS)
    assert capsys.readouterr().err == ""  # neither a terminal nor a notebook
    ecgfm.predict([heart("sinus")] * 3, 500, LEADS, progress=True)
    assert "3/3" in capsys.readouterr().err
    assert not progress.is_watched()
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert progress.is_watched()


# Devices, and what it says of itself


def test_apples_gpu_is_refused_where_there_is_none(folder: Path) -> None:
    with pytest.raises(EcgpipeError, match=r"device: 'mps' is not available: PyTorch .*; give auto or cpu"):
        ECGFM.from_checkpoint(folder / "demo.pt", demo_model.FOLDER / "labels.csv", device="mps")


def test_it_says_what_it_is(ecgfm: ECGFM, folder: Path) -> None:
    lines = [line.strip() for line in repr(ecgfm).splitlines()]
    assert lines[0] == "ECGFM: ECG-FM, 11 labels"
    assert lines[1] == f"checkpoint: {ecgfm.description.uri}, sha256 {ecgfm.description.sha256[:12]}"
    assert lines[2:4] == ["input: 12 leads, 5 s at 500 Hz", "device: cpu, float32, 16 segments at a time"]
    assert lines[4] == "Demo model, trained on simulated hearts. Not ECG-FM."
    assert ecgfm.thresholds["Atrial flutter"] == next(e.threshold for e in ecgfm.labels if e.name == "Atrial flutter")


# Attribution


def test_an_attribution_is_of_every_sample_of_every_lead_and_adds_up(folder: Path, ecgfm: ECGFM) -> None:
    names = ["Premature ventricular contraction", "Sinus rhythm"]
    samples, checks = ecgfm.attribute(folder / "hearts/premature.npz", label=names, steps=6)
    assert samples.shape == (2 * 2 * 12, 2500)
    assert samples.index.names == ["recording", "segment", "start_s", "label", "lead"]
    assert checks.index.tolist() == [("premature", s, 5.0 * s, name) for name in names for s in range(2)]
    sums = samples.sum(axis=1).groupby(["segment", "label"]).sum()
    expected = (checks["logit"] - checks["baseline_logit"] + checks["error"]).groupby(["segment", "label"]).sum()
    np.testing.assert_allclose(sums, expected, atol=1e-3)
    logits = ecgfm.logits(folder / "hearts/premature.npz")
    np.testing.assert_allclose(checks["logit"].xs(names[0], level="label"), logits[names[0]], atol=1e-4)
    with pytest.raises(EcgpipeError, match=r"label: 'Ectopy' is no label; give Poor data quality, Sinus rhythm"):
        ecgfm.attribute(heart("sinus"), 500, LEADS, label="Ectopy")
    with pytest.raises(EcgpipeError, match="steps: 0 is out of range; give 1 or more"):
        ecgfm.attribute(heart("sinus"), 500, LEADS, label="Sinus rhythm", steps=0)
