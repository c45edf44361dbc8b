"""`inference.backend: fairseq`: fairseq-signals computes a run, also with networks that ecgpipe has not."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from ecgpipe.cli import main
from ecgpipe.core import provenance
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import fairseq_forward, segment_files
from ecgpipe.models.description import describe
from ecgpipe.readers import LEADS
from ecgpipe.selftest import fixtures, synthetic_checkpoint
from ecgpipe.workflow import validate

MADE = Path(__file__).parents[2] / "helpers" / "fairseq_made.py"


def converted(folder: Path, *options: str) -> int:
    """Run the checkpoint stage on `folder/x.pt`."""
    (folder / "labels.csv").write_text(
        "name,aggregation\n" + "".join(f"{name},mean\n" for name in synthetic_checkpoint.LABELS)
    )
    files = ["--weights", str(folder / "model.safetensors"), "--description", str(folder / "model.json")]
    return main(
        ["checkpoint", "--source", str(folder / "x.pt"), "--labels", str(folder / "labels.csv"), *files, *options]
    )


def preprocessed(folder: Path) -> Path:
    """The recipe's recordings and one that is padded, as a shard."""
    (folder / "input").mkdir()
    fixtures.write_recordings(folder / "input")
    signal = fixtures._make_microvolts("short", 1_801, 500)
    np.savez(folder / "input/short.npz", signal=signal, sample_rate=500, leads=LEADS, unit="uV")
    assert main(["manifest", "--input", str(folder / "input"), "--outdir", str(folder / "manifest")]) == 0
    shard = folder / "segments.arrow"
    files = ["--segments", str(shard), "--records", str(folder / "records.parquet"), "--short", "pad"]
    assert main(["preprocess", "--shard", str(folder / "manifest/shard-00000.parquet"), *files]) == 0
    return shard


def inferred(
    folder: Path, out: str, *options: str, kinds: Sequence[str] = ("logits", "embeddings", "attention")
) -> int:
    """Run the infer stage on `folder/segments.arrow`."""
    files = [f"--{kind}={folder / out / kind}.parquet" for kind in kinds]
    files += ["--weights", str(folder / "model.safetensors"), "--description", str(folder / "model.json")]
    files += ["--segments", str(folder / "segments.arrow"), "--timing", str(folder / out / "timing.json")]
    return main(["infer", *files, "--device", "cpu", "--batch-size", "2", *options])


# The checkpoint


def convolutional(**cfg: object) -> dict[str, Any]:
    state = {"proj.weight": torch.zeros(5, 24), "proj.bias": torch.zeros(5)}
    return {"cfg": {"model": {"_name": "nejedly2021resnet_classifier", "in_d": 12, **cfg}}, "model": state}


def test_a_network_of_convolutions_is_described_without_weights(tmp_path: Path) -> None:
    torch.save(convolutional(), tmp_path / "x.pt")
    assert converted(tmp_path, "--backend", "fairseq") == 0
    assert safetensors.torch.load_file(tmp_path / "model.safetensors") == {}
    described = describe(tmp_path / "model.json")
    assert described.backend == "fairseq"
    assert described.labels == tuple(synthetic_checkpoint.LABELS)
    arch = described.architecture
    assert (arch.in_leads, arch.width, arch.labels, arch.layers) == (12, 24, 5, 0)


def test_without_the_backend_it_is_refused_and_the_backend_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(convolutional(), tmp_path / "x.pt")
    assert converted(tmp_path) == 2
    assert "nejedly2021resnet_classifier, se_wrn_classifier set inference.backend to fairseq" in capsys.readouterr().err


def test_a_network_that_gives_no_logits_of_a_segment_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(convolutional(_name="unet_segmentor"), tmp_path / "x.pt")
    assert converted(tmp_path, "--backend", "fairseq") == 2
    assert "cfg.model._name is 'unet_segmentor'; with inference.backend fairseq, give ecg_t" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[(256, 2, 2)] * 4", "[(1, 2, 2)] + [(3, 4, 5)]", "[15, 9]"])
def test_settings_that_are_numbers_are_let_through(text: str, tmp_path: Path) -> None:
    torch.save(convolutional(kernel_size=text), tmp_path / "x.pt")
    fairseq_forward.check(str(tmp_path / "x.pt"))


@pytest.mark.parametrize("key", fairseq_forward.EVALUATED)
@pytest.mark.parametrize("text", ["__import__('os').getpid()", "[1, 2] if 1 else 0", "9**9**9", "[" * 20_000])
def test_settings_that_fairseq_signals_would_run_as_code_are_refused(key: str, text: str, tmp_path: Path) -> None:
    torch.save(convolutional(**{key: text}), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"cfg\.model\.{key} of .*, which fairseq-signals would run as code; refused"):
        fairseq_forward.check(str(tmp_path / "x.pt"))


# Options that do not go together


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with a shard, and a checkpoint that is for the backend fairseq."""
    torch.save(convolutional(), tmp_path / "x.pt")
    assert converted(tmp_path, "--backend", "fairseq") == 0
    preprocessed(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "is for the backend fairseq; fairseq_python goes with fairseq, and with nothing else"),
        (["--fairseq-python", "p", "--precision", "bfloat16"], "fairseq computes in float32 alone"),
        (["--fairseq-python", "p", "--deterministic"], "is not told to be deterministic"),
        (["--fairseq-python", "p"], "has convolutions and no attention; set it to false"),
    ],
)
def test_infer_refuses_what_fairseq_signals_cannot(
    options: list[str], says: str, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inferred(foreign, "out", *options) == 2
    assert says in capsys.readouterr().err


def test_nothing_is_attributed_where_there_are_no_gradients(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--weights", str(foreign / "model.safetensors"), "--description", str(foreign / "model.json")]
    files += ["--manifest", str(foreign), "--records", str(foreign), "--record-ids", "x"]
    assert main(["attribute", *files, "--output", str(foreign / "a"), "--leads", str(foreign / "b")]) == 2
    assert "fairseq computed this run, which gives no gradients" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inference", "recordings", "says"),
    [
        ({}, 0, "inference.fairseq_python: missing, and inference.backend is fairseq; give the python of"),
        ({"fairseq_python": "p", "precision": "float16"}, 0, "inference.backend: fairseq computes in float32"),
        ({"fairseq_python": "p", "deterministic": True}, 0, "has no deterministic mode; leave"),
        ({"fairseq_python": "p"}, 4, "attribution.recordings: 4 is not possible with inference.backend fairseq"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    inference: dict[str, object], recordings: int, says: str, tmp_path: Path
) -> None:
    (tmp_path / "x.pt").touch()
    given = {"input": str(tmp_path), "checkpoint": str(tmp_path / "x.pt"), "attribution": {"recordings": recordings}}
    with pytest.raises(EcgpipeError, match=says.replace(".", r"\.")):
        validate.load({**given, "inference": {"backend": "fairseq", **inference}}, Path())


# The real one


@pytest.mark.parametrize("name", ["ecg_transformer_classifier", "wav2vec2_cmsc"])
@pytest.mark.slow
def test_both_backends_write_the_same_of_a_checkpoint_that_fairseq_signals_made(
    name: str, tmp_path: Path, fairseq_python: Path
) -> None:
    subprocess.run([fairseq_python, MADE, name, tmp_path / "x.pt"], check=True)
    preprocessed(tmp_path)
    assert converted(tmp_path) == 0
    assert inferred(tmp_path, "native") == 0
    assert converted(tmp_path, "--backend", "fairseq") == 0
    assert inferred(tmp_path, "fairseq", "--fairseq-python", str(fairseq_python)) == 0
    for kind, bound in {"logits": 1e-4, "embeddings": 1e-4, "attention": 1e-5}.items():
        ours, theirs = (pq.read_table(tmp_path / backend / f"{kind}.parquet") for backend in ("native", "fairseq"))
        assert ours.schema.remove_metadata() == theirs.schema.remove_metadata()
        origins = [provenance.read_origin(each.schema) for each in (ours, theirs)]
        assert [origin.pop("backend") for origin in origins] == ["native", "fairseq"]
        assert origins[0] == origins[1]
        for column in ours.column_names:
            a, b = (each[column].to_numpy() for each in (ours, theirs))
            if a.dtype == object and isinstance(a[0], np.ndarray):
                a, b = np.stack(a), np.stack(b)
            if a.dtype == np.float32:
                np.testing.assert_allclose(a, b, rtol=0, atol=bound)
            else:
                assert a.tolist() == b.tolist()
    assert json.loads((tmp_path / "fairseq/timing.json").read_text())["backend"] == "fairseq"


DIRECTLY = """
import sys, numpy as np, torch
from fairseq_signals.models import build_model_from_checkpoint
model = build_model_from_checkpoint(sys.argv[1]).eval()
with torch.no_grad():
    np.save(sys.argv[3], model(source=torch.from_numpy(np.load(sys.argv[2])))["out"].numpy())
"""


@pytest.mark.parametrize("name", ["nejedly2021resnet_classifier", "se_wrn_classifier"])
@pytest.mark.slow
def test_a_network_of_convolutions_gives_what_fairseq_signals_gives_by_itself(
    name: str, tmp_path: Path, fairseq_python: Path
) -> None:
    subprocess.run([fairseq_python, MADE, name, tmp_path / "x.pt"], check=True)
    shard = preprocessed(tmp_path)
    assert converted(tmp_path, "--backend", "fairseq") == 0
    options = ["--fairseq-python", str(fairseq_python)]
    assert inferred(tmp_path, "out", *options, kinds=("logits", "embeddings")) == 0
    keys, signals = next(segment_files.read_batches([shard], [torch.empty(10, 12, 2500)]))
    np.save(tmp_path / "signal.npy", signals.numpy())
    files = [tmp_path / file for file in ("x.pt", "signal.npy", "out.npy")]
    subprocess.run([fairseq_python, "-c", DIRECTLY, *files], check=True)
    logits = pq.read_table(tmp_path / "out/logits.parquet")
    assert logits["record_id"].to_pylist() == keys.record_ids
    ours = np.column_stack([logits[label].to_numpy() for label in synthetic_checkpoint.LABELS])
    np.testing.assert_allclose(ours, np.load(tmp_path / "out.npy"), rtol=0, atol=1e-4)
    assert len({tuple(row) for row in ours.round(3).tolist()}) == len(keys.record_ids)
