"""ECGFM: arrays in, tables out, and the numbers those of the workflow's stages, of fairseq-signals and of its docs."""

import doctest
import importlib
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
import yaml
from hub_server import Hub

from ecgpipe import ECGFM
from ecgpipe.cli import main
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import labels
from ecgpipe.models.description import Description
from ecgpipe.preprocessing.segments import Windows
from ecgpipe.readers import LEADS
from ecgpipe.selftest import synthetic_checkpoint
from ecgpipe.workflow.validate import load

ROOT = Path(__file__).parents[3]
MIMIC = [label.name for label in labels.read(ROOT / "config/labels/mimic_iv_ecg.csv")]


def noise(seconds: float, rate: float = 500, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((12, int(seconds * rate)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's checkpoint of 17 outputs, checkpoint.pt, and a recording, ecg.npz."""
    folder = tmp_path_factory.mktemp("api")
    torch.save(synthetic_checkpoint.demo(1), folder / "checkpoint.pt")
    np.savez(folder / "ecg.npz", signal=np.clip(noise(10), -4, 4), sample_rate=500, leads=LEADS)
    return folder


@pytest.fixture(scope="module")
def ecgfm(folder: Path) -> ECGFM:
    return ECGFM.from_checkpoint(folder / "checkpoint.pt", device="cpu", threads=1)


# Numbers


# Another lead order than the model's, lengths that leave a rest, and 23 segments, more than a batch.
ORDER = [3, 0, 7, 1, 2, 11, 10, 4, 5, 6, 8, 9]
NAMES = [LEADS[i] for i in ORDER]
GIVEN = {f"r{i:02d}": noise(s, 400, seed=i)[ORDER] for i, s in enumerate([10, 33.3, 5, 41, 12, 21])}


@pytest.fixture(scope="module")
def stages(folder: Path) -> dict[str, pd.DataFrame]:
    """What the workflow's stages make of `GIVEN`, run in this process with one thread, in `folder`/out."""
    out = folder / "out"
    (folder / "input").mkdir()
    for name, signal in GIVEN.items():
        np.savez(folder / f"input/{name}.npz", signal=signal, sample_rate=400, leads=NAMES)
    shard, segments, records = (str(out / name) for name in ("shard-00000.parquet", "s.arrow", "r.parquet"))
    csv = str(ROOT / "config/labels/mimic_iv_ecg.csv")
    model = ["--weights", str(out / "model.safetensors"), "--description", str(out / "model.json")]
    files = {name: out / f"{name}.parquet" for name in ("logits", "embeddings", "attention", "predictions")}
    vectors = [text for name in ("logits", "embeddings", "attention") for text in (f"--{name}", str(files[name]))]
    for command in [
        ["checkpoint", "--source", str(folder / "checkpoint.pt"), "--labels", csv, *model],
        ["manifest", "--input", str(folder / "input"), "--outdir", str(out)],
        ["preprocess", "--shard", shard, "--segments", segments, "--records", records],
        ["infer", *model, "--segments", segments, *vectors, "--timing", str(out / "t.json"), "--device", "cpu"],
        ["aggregate", "--logits", str(files["logits"]), "--labels", csv, "--predictions", str(files["predictions"])],
    ]:
        assert main(command) == 0
    return {name: pq.read_table(path).to_pandas() for name, path in files.items()}


def test_a_recording_gets_the_workflows_numbers_to_the_last_bit(
    stages: dict[str, pd.DataFrame], ecgfm: ECGFM, folder: Path
) -> None:
    signals = list(GIVEN.values())
    predicted = ecgfm.predict(signals, 400, NAMES)
    predictions = stages["predictions"]
    assert list(predictions["record_id"]) == list(GIVEN)
    assert list(predicted.columns) == MIMIC
    assert [predictions["n_segments"].sum(), len(predictions)] == [23, 6]
    for name in MIMIC:
        np.testing.assert_array_equal(predicted[name], predictions[name])
    logits = ecgfm.logits(signals, 400, NAMES)
    assert [list(GIVEN)[i] for i in logits.index.get_level_values("recording")] == list(stages["logits"]["record_id"])
    for level in ("segment", "start_s"):
        np.testing.assert_array_equal(logits.index.get_level_values(level), stages["logits"][level])
    for name in MIMIC:
        np.testing.assert_array_equal(logits[name], stages["logits"][name])
    for values, (name, column) in {
        "embed": ("embeddings", "embedding"),
        "attention": ("attention", "attention"),
    }.items():
        frame = getattr(ecgfm, values)(signals, 400, NAMES)
        np.testing.assert_array_equal(frame.to_numpy(), np.stack(list(stages[name][column])))
        assert frame.to_numpy().dtype == np.float32
    assert logits.to_numpy().dtype == np.float32
    assert predicted.to_numpy().dtype == np.float64
    from_files = ecgfm.predict(folder / "input").loc[list(GIVEN)]
    np.testing.assert_array_equal(from_files, predictions[MIMIC])


@pytest.mark.usefixtures("stages")
def test_a_runs_folder_gives_what_its_checkpoint_gives(folder: Path, ecgfm: ECGFM) -> None:
    other = ECGFM.from_checkpoint(folder / "out", device="cpu", threads=1)
    assert other.labels == ecgfm.labels == labels.read(ROOT / "config/labels/mimic_iv_ecg.csv")
    assert replace(other.description, uri=ecgfm.description.uri, settings={}) == ecgfm.description
    pd.testing.assert_frame_equal(other.predict(noise(10), 500, LEADS), ecgfm.predict(noise(10), 500, LEADS))


@pytest.fixture
def real(reference: Path) -> dict[str, np.ndarray]:
    """Ten real recordings by their file's name, float32 at 400 Hz."""
    files = sorted((reference / "code15").glob("*.mat"))
    return {path.stem: scipy.io.loadmat(path)["feats"] for path in files}


def of_reference(name: str, reference: Path, folder: Path) -> ECGFM:
    torch.save(runpy.run_path(str(reference / "make_checkpoint.py"))["state"](name), folder / "x.pt")
    return ECGFM.from_checkpoint(folder / "x.pt", device="cpu")


@pytest.mark.parametrize("name", ["tiny", pytest.param("base", marks=pytest.mark.slow)])
def test_ten_real_recordings_get_the_tutorials_predictions(
    name: str, real: dict[str, np.ndarray], reference: Path, tmp_path: Path
) -> None:
    ecgfm = of_reference(name, reference, tmp_path)
    predicted = ecgfm.predict(list(real.values()), 400, LEADS).set_axis(list(real))
    expected = pd.read_csv(reference / f"golden/predictions_{name}.csv", index_col="record")
    assert list(predicted.columns) == MIMIC
    for label in MIMIC:
        np.testing.assert_allclose(predicted[label], expected.loc[predicted.index, label], rtol=0, atol=1e-5)


def test_their_segments_get_fairseq_signals_numbers(
    real: dict[str, np.ndarray], reference: Path, tmp_path: Path
) -> None:
    ecgfm = of_reference("tiny", reference, tmp_path)
    golden = np.load(reference / "golden/tiny.npz")
    signals = list(real.values())
    logits = ecgfm.logits(signals, 400, LEADS)
    assert [list(real)[i] for i in logits.index.get_level_values("recording")] == list(golden["record"])
    np.testing.assert_allclose(logits[MIMIC], golden["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ecgfm.embed(signals, 400, LEADS), golden["embedding"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ecgfm.attention(signals, 400, LEADS), golden["attention"], rtol=0, atol=1e-5)


def test_a_recording_gets_the_same_alone_and_among_others(ecgfm: ECGFM) -> None:
    signals = [noise(seconds, seed=i) for i, seconds in enumerate([12, 31, 5, 7, 60])]
    together = ecgfm.predict(signals, 500, LEADS)
    for number, signal in enumerate(signals):
        alone = ecgfm.predict(signal, 500, LEADS)
        np.testing.assert_array_equal(alone.loc[0], together.loc[number])


def test_every_shape_that_holds_the_same_gives_the_same(ecgfm: ECGFM) -> None:
    signal = noise(10)
    expected = ecgfm.predict(signal, 500, LEADS)
    same: list[Any] = [[signal], signal[None], list(signal), (signal,), signal.tolist(), torch.from_numpy(signal)]
    same += [np.asfortranarray(signal), 1000 * signal]
    for given in same[:-1]:
        pd.testing.assert_frame_equal(ecgfm.predict(given, 500, list(LEADS)), expected, check_exact=True)
    pd.testing.assert_frame_equal(ecgfm.predict(signal, np.int64(500), LEADS), expected)  # type: ignore[arg-type]
    # In uV instead of mV: each lead is standardised.
    pd.testing.assert_frame_equal(ecgfm.predict(same[-1], 500.0, LEADS), expected, rtol=0, atol=1e-6)


def test_leads_are_told_by_name_and_those_of_the_limbs_derived(ecgfm: ECGFM) -> None:
    signal = noise(10)
    signal[2] = signal[1] - signal[0]
    signal[3], signal[4], signal[5] = -(signal[0] + signal[1]) / 2, signal[0] - signal[1] / 2, signal[1] - signal[0] / 2
    expected = ecgfm.predict(signal, 500, LEADS)
    order = [5, 11, 0, 2, 9, 1, 8, 3, 6, 4, 7, 10]
    pd.testing.assert_frame_equal(ecgfm.predict(signal[order], 500, [LEADS[i] for i in order]), expected)
    spelt = [f"MDC_ECG_LEAD_{lead.upper()}" for lead in LEADS]
    pd.testing.assert_frame_equal(ecgfm.predict(signal, 500, spelt), expected)
    eight = [0, 1, 6, 7, 8, 9, 10, 11]
    derived = ecgfm.predict(signal[eight], 500, [LEADS[i] for i in eight])
    pd.testing.assert_frame_equal(derived, expected, rtol=0, atol=1e-6)
    more = np.concatenate([signal, noise(10, seed=9)[:1]])
    pd.testing.assert_frame_equal(ecgfm.predict(more, 500, [*LEADS, "V3R"]), expected)


def test_the_given_arrays_stay_as_they_were(ecgfm: ECGFM) -> None:
    signal = noise(10)
    before = signal.copy()
    ecgfm.predict(signal, 500, LEADS)
    np.testing.assert_array_equal(signal, before)


def test_windows_are_those_of_the_settings(ecgfm: ECGFM) -> None:
    ten = ecgfm.logits(noise(25), 500, LEADS, Windows(segment_s=10, tail="overlap"))
    assert ten.index.tolist() == [(0, 0, 0.0), (0, 1, 10.0), (0, 2, 15.0)]
    assert ecgfm.attention(noise(10), 500, LEADS, Windows(segment_s=2.5)).shape == (4, 78)
    short = ecgfm.logits(noise(3), 500, LEADS, Windows(short="pad"))
    assert short.index.tolist() == [(0, 0, 0.0)]
    three = ecgfm.predict(noise(5)[:3], 500, ["V1", "V2", "V3"], Windows(missing_leads="zero"))
    assert three.notna().all(axis=None)


@pytest.mark.slow
def test_a_checkpoint_comes_from_the_hub_once_and_later_from_its_cache(
    folder: Path, ecgfm: ECGFM, tmp_path: Path
) -> None:
    code = (
        "import sys, numpy as np; from ecgpipe import ECGFM; from ecgpipe.readers import LEADS; "
        "ecgfm = ECGFM.from_checkpoint('hf://wanglab/ecg-fm/x.pt', device='cpu', threads=1); "
        "ecgfm.predict(np.load(sys.argv[1])['signal'], 500, LEADS).to_json(sys.argv[2], double_precision=15); "
        "print(ecgfm.description.revision)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
    expected = ecgfm.predict(np.load(folder / "ecg.npz")["signal"], 500, LEADS)

    def run(**more: str) -> str:
        command = [sys.executable, "-c", code, str(folder / "ecg.npz"), str(tmp_path / "out.json")]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        pd.testing.assert_frame_equal(
            pd.read_json(tmp_path / "out.json"), expected, check_names=False, check_index_type=False, rtol=0, atol=1e-12
        )
        return done.stdout.strip()

    with Hub() as hub:
        commit = hub.publish("wanglab/ecg-fm", "x.pt", (folder / "checkpoint.pt").read_bytes())
        assert run(HF_ENDPOINT=hub.endpoint) == commit
        assert len(hub.downloads) == 1
    assert run(HF_HUB_OFFLINE="1") == commit


# Labels


def saved(path: Path, content: object) -> Path:
    path.write_bytes(checkpoints.saved(content))
    return path


def test_a_model_of_other_outputs_has_them_named_by_number_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = saved(tmp_path / "x.pt", checkpoints.classifier())
    with caplog.at_level(logging.WARNING):
        ecgfm = ECGFM.from_checkpoint(source, device="cpu")
    assert "outputs are named by their number, output_00 to output_02: no label file says what they are" in caplog.text
    assert list(ecgfm.predict(noise(10), 500, LEADS).columns) == ["output_00", "output_01", "output_02"]


def test_a_label_file_names_them_and_says_how_they_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("name,aggregation,threshold\nWorst,max,0.3\nUsual,mean,\nOther,mean,\n")
    source = saved(tmp_path / "x.pt", checkpoints.classifier())
    ecgfm = ECGFM.from_checkpoint(source, tmp_path / "mine.csv", device="cpu")
    assert ecgfm.labels[0].threshold == 0.3
    signal = noise(30)
    probabilities = ecgfm.logits(signal, 500, LEADS).apply(lambda column: 1 / (1 + np.exp(-column.astype(float))))
    predicted = ecgfm.predict(signal, 500, LEADS)
    assert predicted.loc[0, "Worst"] == pytest.approx(probabilities["Worst"].max(), abs=1e-12)
    assert predicted.loc[0, "Usual"] == pytest.approx(probabilities["Usual"].mean(), abs=1e-12)


def test_a_label_file_of_another_length_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "x.pt", checkpoints.classifier())
    with pytest.raises(EcgpipeError, match=r"mimic_iv_ecg\.csv names 17 labels but the checkpoint has 3 outputs; give"):
        ECGFM.from_checkpoint(source, "config/labels/mimic_iv_ecg.csv")


def test_a_runs_names_stand_unless_they_are_numbers(
    tmp_path: Path, run: Callable[..., Description], caplog: pytest.LogCaptureFixture
) -> None:
    source = saved(tmp_path / "x.pt", checkpoints.classifier())
    csv = tmp_path / "labels.csv"
    csv.write_text("name,aggregation\nWorst,max\nUsual,mean\nOther,mean\n")
    another = tmp_path / "another.csv"
    another.write_text("name,aggregation\nOther,max\nWorst,mean\nUsual,mean\n")
    for name, given in {"named": str(csv), "numbered": "index"}.items():
        run(source, labels=given)
        (tmp_path / "out").rename(tmp_path / name)

    def of(folder: str, given: str | Path | None = None) -> list[tuple[str, str]]:
        caplog.clear()
        ecgfm = ECGFM.from_checkpoint(tmp_path / folder, given, device="cpu")
        assert list(ecgfm.predict(noise(5), 500, LEADS).columns) == [label.name for label in ecgfm.labels]
        return [(label.name, label.aggregation) for label in ecgfm.labels]

    numbers = [("output_00", "mean"), ("output_01", "mean"), ("output_02", "mean")]
    assert of("named") == [("Worst", "mean"), ("Usual", "mean"), ("Other", "mean")]
    assert "the mean over the segments is used for each label; give the run's own label CSV as labels=" in caplog.text
    assert of("named", another) == [("Worst", "mean"), ("Usual", "mean"), ("Other", "max")]  # joined by name
    assert of("named", "index") == of("numbered") == of("numbered", "index") == numbers
    assert labels.explain_numbers(3) in caplog.text
    assert of("numbered", another) == [("Other", "max"), ("Worst", "mean"), ("Usual", "mean")]  # in the model's order
    with pytest.raises(
        EcgpipeError, match=r"mimic_iv_ecg\.csv has no row for Worst, Usual, Other, which .*model\.json"
    ):
        of("named", "config/labels/mimic_iv_ecg.csv")


def test_label_files_of_the_clone_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = checkpoints.classifier(outputs=26)
    ecgfm = ECGFM.from_checkpoint(saved(tmp_path / "x.pt", content), "config/labels/physionet_2021.csv", device="cpu")
    assert [label.name for label in ecgfm.labels][-1] == "T wave inversion"


def test_a_pretrained_model_has_embeddings_and_no_labels(tmp_path: Path) -> None:
    ecgfm = ECGFM.from_checkpoint(saved(tmp_path / "x.pt", checkpoints.pretrained()), device="cpu")
    assert ecgfm.labels == ()
    assert ecgfm.embed(noise(10), 500, LEADS).shape == (2, 8)
    for method in (ecgfm.predict, ecgfm.logits):
        with pytest.raises(EcgpipeError, match="has no head and so no labels, as pretrained models have none; give a"):
            method(noise(10), 500, LEADS)


# Mistakes


@pytest.mark.parametrize(
    ("signal", "says"),
    [
        (noise(10).T, "signal: its shape is (5000, 12), which is (samples, leads); give its transpose"),
        (np.stack([noise(10).T] * 2), "signal: recording 0: its shape is (5000, 12), which is (samples, leads); give"),
        ([noise(10), noise(10).T], "signal: recording 1: its shape is (5000, 12), which is (samples, leads); give its"),
        (noise(10)[:11], "signal: its shape is (11, 5000), and there are 12 names of leads; give (leads, samples)"),
        (noise(10)[0], "signal: its shape is (5000,), and there are 12 names of leads; give (leads, samples)"),
        (np.zeros((2, 2, 12, 2500)), "signal: its shape is (2, 2, 12, 2500), and there are 12 names of leads; give"),
        ([[[1, 2], [1]]], "signal: the leads of a recording differ in length; give each as many samples"),
        ([[1, 2, 3], [1, 2]], "signal: recording 0: its shape is (3,), and there are 12 names of leads; give"),
        ([], "signal: it holds no recording; give (leads, samples), or several of these"),
        (np.zeros((0, 12, 2500)), "signal: it holds no recording; give (leads, samples)"),
        (noise(10).astype(complex), "signal: its values are complex128; give real numbers"),
        (np.full((12, 2500), "1"), "signal: its values are <U1; give real numbers"),
        (None, "signal: its values are object; give real numbers"),
        (noise(4), "signal: shorter than one segment of 5 s (4.000 s); give a longer recording, Windows"),
        ([noise(9), noise(2)], "signal: recording 1: shorter than one segment of 5 s (2.000 s); give a longer"),
        (np.where(noise(10) > 3, np.nan, 1) * noise(10), "signal: NaN or infinite samples (I"),
        (np.zeros((12, 5000)), "signal: no signal, every lead is constant; leave it out"),
        (np.zeros((12, 0)), "signal: the recording has no samples; leave it out"),
        (1e200 * noise(10), "signal: samples too large to be meant (I II III"),
    ],
)  # fmt: skip
def test_a_signal_that_cannot_be_meant_is_refused_with_the_mend(signal: npt.ArrayLike, says: str, ecgfm: ECGFM) -> None:
    with pytest.raises(EcgpipeError, match="^" + re.escape(says)) as raised:
        ecgfm.predict(signal, 500, LEADS)
    assert "; " in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rate", [0, -500, 5, 1e6, np.nan, np.inf, "500", True, [500], 500j])
def test_a_sample_rate_that_cannot_be_meant_is_refused(rate: Any, ecgfm: ECGFM) -> None:  # noqa: ANN401, anything
    says = f"sample_rate: {rate!r} is out of range; give a number of Hz from 20 to 50000"
    with pytest.raises(EcgpipeError, match=re.escape(says)):
        ecgfm.predict(noise(10), rate, LEADS)


@pytest.mark.parametrize(
    ("leads", "says"),
    [
        ([*LEADS[:-1], "V7"], "leads: 'V7' not known, and V6 missing; give the names of the rows in their"),
        ([str(i) for i in range(12)], "leads: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11' not known"),
        ("I II III aVR aVL aVF V1 V2 V3 V4 V5 V6", "leads: 'I II III aVR aVL aVF V1 V2 V3 V4 V5 V6' is not a list"),
        (None, "leads: missing; give the names of the arrays' rows"),
        (range(12), "leads: range(0, 12) is not a list of lead names; give one"),
        ([*LEADS[:-1], "V5"], "signal: a lead is there twice (V5); give each lead once"),
    ],
)
def test_leads_that_cannot_be_meant_are_refused(leads: Any, says: str, ecgfm: ECGFM) -> None:  # noqa: ANN401, anything
    with pytest.raises(EcgpipeError, match="^" + re.escape(says)):
        ecgfm.predict(noise(10), 500, leads)


def test_leads_that_are_missing_are_refused_with_the_mend(ecgfm: ECGFM) -> None:
    says = "signal: leads missing (V2 V3 V4 V5 V6); Windows(missing_leads='zero') takes zeros for them"
    with pytest.raises(EcgpipeError, match=re.escape(says)):
        ecgfm.predict(noise(10)[:7], 500, LEADS[:7])
    with pytest.raises(EcgpipeError, match=r"a single lead.*; Windows\(missing_leads='zero', min_leads=1\)"):
        ecgfm.predict(noise(10)[:1], 500, ["I"])


@pytest.mark.parametrize(
    ("windows", "says"),
    [
        (Windows(segment_s=0), "windows: segment_s is 0; Input should be greater than or equal to 0.1"),
        (Windows(short="padd"), "windows: short is 'padd'; Input should be 'skip' or 'pad'"),  # type: ignore[arg-type]
        (10, "windows: 10 is not valid; give e.g. ecgpipe.preprocessing.segments.Windows(segment_s=10)"),
        (Windows(min_leads=13), "windows: min_leads is 13; Input should be less than or equal to 12"),
    ],
)
def test_windows_are_checked_as_the_settings_are(windows: Windows, says: str, ecgfm: ECGFM) -> None:
    with pytest.raises(EcgpipeError, match=re.escape(says)):
        ecgfm.predict(noise(10), 500, LEADS, windows)


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "named.csv").write_text("name,aggregation\n" + "".join(f"L{i},mean\n" for i in range(17)))
    for source in ("~/checkpoint.pt", Path("~/checkpoint.pt")):
        loaded = ECGFM.from_checkpoint(source, "~/named.csv", device="cpu")
        assert [label.name for label in loaded.labels] == [f"L{i}" for i in range(17)]


def test_a_checkpoint_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    for given, says in {
        "nowhere.pt": "there is no file nowhere.pt; give the path of a .pt file, or hf://",
        "hf://nothing": "is not of the form hf://OWNER/REPO@REVISION/FILE",
        str(tmp_path): "run the checkpoint stage first",
    }.items():
        with pytest.raises(EcgpipeError, match=re.escape(says)):
            ECGFM.from_checkpoint(given)
    source = saved(tmp_path / "x.pt", checkpoints.classifier())
    with pytest.raises(EcgpipeError, match="precision: 'float64' is not valid; give float32, float16, bfloat16"):
        ECGFM.from_checkpoint(source, precision="float64")
    with pytest.raises(EcgpipeError, match="batch_size: 0 is out of range; give 1 or more"):
        ECGFM.from_checkpoint(source, batch_size=0)
    with pytest.raises(EcgpipeError, match=r"inference\.device: 'tpu' is not valid"):
        ECGFM.from_checkpoint(source, device="tpu")


# Import and documentation


@pytest.mark.slow
def test_the_package_alone_loads_no_torch() -> None:
    code = "import sys, ecgpipe; assert 'torch' not in sys.modules; ecgpipe.ECGFM; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'ecgpipe' has no attribute 'ECGFN'"):
        importlib.import_module("ecgpipe").ECGFN  # noqa: B018


@pytest.mark.parametrize("name", ["ecgpipe.api.ecgfm", "ecgpipe.models.hub"])
def test_the_examples_of_the_docstrings_run(
    name: str, folder: Path, ecgfm: ECGFM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    known = {"ecgfm": ecgfm, "signal": noise(10), "LEADS": LEADS}
    done = doctest.testmod(importlib.import_module(name), extraglobs=known, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 0
    assert done.failed == 0


def test_the_code_of_docs_python_runs_and_says_what_the_page_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    uri = '"hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt"'
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    assert uri in blocks[0]
    known: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block.replace(uri, '"checkpoint.pt"'), "docs/python.md", "exec"), known)  # noqa: S102, our own page
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("signal: ")]
    assert said == re.findall(r"^    (signal: .*)$", page, re.MULTILINE)


def test_the_run_of_docs_family_is_what_the_settings_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ecgs").mkdir()
    (tmp_path / "mine.pt").touch()
    (tmp_path / "mine.csv").write_text("name,aggregation\nA,mean\n")
    page = (ROOT / "docs/family.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("    snakemake")]
    assert len(commands) == 7
    for command in commands:
        pairs = [text.partition("=") for text in command[command.index("--config") + 1 :]]
        given = {key: yaml.safe_load(value) for key, _, value in pairs}
        given = {
            key: value.replace("/models/", "") if isinstance(value, str) else value for key, value in given.items()
        }
        settings = load(given | {"input": "ecgs"}, ROOT)
        assert Path(settings.labels).is_file() or settings.labels_by_index
