"""`ecgpipe verify --against fairseq-signals`: a run's own numbers beside those of the real one, or why not."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from run_workflow import ROOT

from ecgpipe.cli import main
from ecgpipe.core import parquet
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run
from ecgpipe.inference import fairseq_backend, fairseq_forward, segment_files
from ecgpipe.readers import LEADS
from ecgpipe.selftest import fairseq_run, fixtures, synthetic_checkpoint
from ecgpipe.selftest.reference import OUTPUTS


def finish(folder: Path, content: object, *reading: str, short: str = "skip") -> Path:
    """Run the stages that verifying needs over `folder/input`, and return the outdir."""
    torch.save(content, folder / "x.pt")
    (folder / "labels.csv").write_text(
        "name,aggregation\n" + "".join(f"{name},mean\n" for name in synthetic_checkpoint.LABELS)
    )
    out = folder / "out"
    weights = ["--weights", str(out / "checkpoint/model.safetensors"), "--description", f"{out}/checkpoint/model.json"]
    files = [f"--{kind}={out}/{kind}/part-00000.parquet" for kind in ("logits", "embeddings", "attention")]
    segments = str(out / "segments/shard-00000.arrow")
    shard, records = str(out / "manifest/shard-00000.parquet"), str(out / "records/shard-00000.parquet")
    for command in (
        ["checkpoint", "--source", str(folder / "x.pt"), "--labels", str(folder / "labels.csv"), *weights],
        ["manifest", "--input", str(folder / "input"), "--outdir", str(out / "manifest")],
        ["preprocess", "--shard", shard, "--segments", segments, "--records", records, *reading],
        ["infer", *weights, "--segments", segments, *files, "--timing", str(folder / "t.json"), "--device", "cpu"],
    ):
        assert main(command) == 0
    settings = {"input": "input", "preprocess": {"short": short}, "inference": {}, "checkpoint": str(folder / "x.pt")}
    counts = {"recordings": 0, "ok": 0, "skipped": 0, "failed": 0, "segments": 0, "hours": 0.0}
    run = {"ecgpipe": "0.1.0", "finished": "2026-11-27T12:00:00+00:00", "counts": counts, "config": settings}
    run["checkpoint"] = {"uri": "x.pt", "revision": None, "sha256": "0" * 64, "random_weights": True, "labels": []}
    run["throughput"] = {"segments": 0, "seconds": 0.0, "segments_per_s": None}
    run["precision"], run["hardware"] = {"used": "float32"}, {"inference": ["CPU"]}
    (out / "run.json").write_text(json.dumps(run))
    return out


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The outdir of a run over the recipe's recordings, for which the real fairseq-signals' numbers are shipped."""
    (tmp_path / "input").mkdir()
    fixtures.write_recordings(tmp_path / "input")
    return finish(tmp_path, synthetic_checkpoint.reference())


def verified(outdir: Path, *options: str) -> int:
    return main(["verify", str(outdir), "--against", "fairseq-signals", "--device", "cpu", *options])


def answered(outdir: Path, change: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None) -> list[str]:
    """A sample of all segments, and the shipped answers of the real fairseq-signals to it, as options."""
    sample, answers = outdir.parent / "segments.frames", outdir.parent / "answers.frames"
    assert verified(outdir, "--segments", "1000", "--sample", str(sample)) == 0
    with np.load(OUTPUTS) as known, answers.open("wb") as file:
        drawn = fairseq_run.read_sample(sample)
        assert drawn.record_ids == list(known["record_id"])
        assert drawn.numbers.tolist() == list(known["segment"])
        arrays = {kind: known[kind].copy() for kind in fairseq_run.FOLDERS}
        change(arrays)
        fairseq_forward.write(file, about=known["about"])
        fairseq_forward.write(file, **arrays)
    return ["--sample", str(sample), "--answers", str(answers)]


# The numbers


def test_a_runs_numbers_are_those_of_fairseq_signals(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(finished, *answered(finished)) == 0
    said = capsys.readouterr().out
    assert said.count(" ok\n") == 8
    assert "4 segments of 3 recordings" in said
    found = json.loads((finished / "verify/fairseq_signals.json").read_text())
    assert found["ok"] is True
    kinds = ["logits", "probabilities", "embedding", "attention"]
    assert [each["what"] for each in found["checks"]] == [
        f"{kind}, {whose}" for whose in ("computed here", "written, float32") for kind in kinds
    ]
    assert all(each["largest"] <= each["allowed"] for each in found["checks"])
    assert found["segments"][1:3] == [{"record_id": "other_order", "segment": number} for number in (0, 1)]
    assert found["fairseq_signals"]["fairseq_signals"].startswith("1.0.0")


def test_a_result_file_with_two_labels_exchanged_is_caught(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / "logits/part-00000.parquet"
    logits = pq.read_table(path)
    names = list(logits.column_names)
    a, b = names.index("Rhythm A"), names.index("Rhythm B")
    names[a], names[b] = names[b], names[a]
    parquet.write(path, logits.rename_columns(names))
    assert verified(finished, *answered(finished)) == 2
    said = capsys.readouterr()
    assert "fairseq-signals': logits, written, float32 by" in said.err
    assert "computed here" not in said.err
    assert json.loads((finished / "verify/fairseq_signals.json").read_text())["ok"] is False


def test_a_result_of_another_recording_is_caught(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / "embeddings/part-00000.parquet"
    rows = pq.read_table(path)
    parquet.write(path, rows.set_column(2, rows.schema.field(2), rows["embedding"].take([3, 1, 2, 0])))
    assert verified(finished, *answered(finished)) == 2
    assert "fairseq-signals': embedding, written, float32 by" in capsys.readouterr().err


def test_other_answers_are_caught(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["attention"][2, 100] += 1e-3

    assert verified(finished, *answered(finished, change)) == 2
    assert "attention, computed here by 0.001 (allowed: 1e-05)" in capsys.readouterr().err


def test_answers_of_another_shape_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["logits"] = arrays["logits"][:, :4]

    assert verified(finished, *answered(finished, change)) == 2
    assert "logits, computed here, has the shape (4, 5), fairseq-signals' (4, 4)" in capsys.readouterr().err


# The sample


def test_the_segments_are_those_that_the_run_inferred(finished: Path) -> None:
    drawn = fairseq_run.draw_sample(Run(finished), 1000, 1)
    path = finished / "segments/shard-00000.arrow"
    keys, signals = next(segment_files.read_batches([path], [torch.empty(10, 12, 2500)]))
    assert drawn.record_ids == keys.record_ids
    assert drawn.numbers.tolist() == keys.numbers.tolist()
    np.testing.assert_array_equal(drawn.signal, signals.numpy())


def test_each_segment_has_the_same_chance(finished: Path) -> None:
    drawn: Counter[tuple[str, int]] = Counter()
    records = [finished / "records/shard-00000.parquet"]
    for seed in range(400):
        chosen = fairseq_run._choose(records, 2, seed)
        assert chosen == fairseq_run._choose(records, 2, seed)
        pairs = [(record_id, number) for record_id, numbers in chosen.items() for number in numbers]
        assert len(set(pairs)) == 2
        drawn.update(pairs)
    assert set(drawn) == {("constant_lead", 0), ("other_order", 0), ("other_order", 1), ("other_rate", 0)}
    assert all(abs(count - 200) < 60 for count in drawn.values()), drawn  # six standard deviations


def test_a_recording_that_has_changed_since_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished.parent / "input/constant_lead.npz"
    with np.load(path) as content:
        arrays = dict(content)
    np.savez(path, **{**arrays, "signal": arrays["signal"] + np.arange(1_400)})
    assert verified(finished, "--sample", str(finished / "s")) == 2
    said = capsys.readouterr().err
    assert f"{path} is not the recording that the run read: the file has changed since the run" in said
    assert not (finished / "s").exists()


def test_another_checkpoint_under_the_same_name_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({}, finished.parent / "x.pt")
    assert verified(finished, "--sample", str(finished / "s")) == 2
    assert "x.pt has the sha256" in capsys.readouterr().err


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(tmp_path) == 2
    assert f"there is no {tmp_path}/run.json; give the folder of a finished run's results" in capsys.readouterr().err


# The other side


def asked(outdir: Path, python: object) -> int:
    return verified(outdir, "--python", str(python))


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


MEND = "make the environment of workflow/envs/fairseq-signals.yaml"


def test_without_an_interpreter_it_states_how_to_make_one(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(finished) == 2
    assert f"--python: not given, so that there is no fairseq-signals to ask; {MEND}" in capsys.readouterr().err


def test_an_interpreter_that_is_not_there_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(finished, "/nowhere/python") == 2
    assert f"/nowhere/python cannot be run (No such file or directory); {MEND}" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interpreter_without_fairseq_signals_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that runs this test: its Python is too new to have it."""
    assert asked(finished, sys.executable) == 2
    said = capsys.readouterr().err
    assert f"fairseq_signals cannot be imported by {sys.executable}" in said
    assert MEND in said
    assert len(said.split("error: ")[1].splitlines()) == 1


def test_an_interpreter_without_torch_is_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(finished, script(tmp_path / "python", f'exec {sys.executable} -S -E "$@"')) == 2
    said = capsys.readouterr().err
    assert "has no numpy" in said
    assert MEND in said


def test_a_process_that_dies_is_reported_with_what_it_said_last(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(finished, script(tmp_path / "python", "echo out of luck >&2", "printf abc", "exit 7")) == 2
    assert "its process ended with status 7: out of luck; " in capsys.readouterr().err


def test_the_environment_is_the_one_that_the_reference_numbers_come_from() -> None:
    content = yaml.safe_load((ROOT / "workflow/envs/fairseq-signals.yaml").read_text())
    python, *_, packages = content["dependencies"]
    docs = (ROOT / "docs/verify.md").read_text()
    with np.load(OUTPUTS) as known:
        about = json.loads(str(known["about"]))
    assert about["python"].startswith(f"{python.split('=')[1]}.")
    exact = dict(package.split("==") for package in packages["pip"] if "==" in package)
    assert exact["torch"] == about["torch"].split("+")[0]
    assert exact["numpy"] == about["numpy"]
    commit = packages["pip"][-1].rpartition("@")[2]
    assert about["fairseq_signals"].endswith(f"+{commit[:7]}")
    assert commit in docs
    assert all(f"'{name}=={number}'" in docs for name, number in exact.items())


# The real one


@pytest.mark.slow
def test_the_real_fairseq_signals_agrees_also_where_segments_are_padded(
    tmp_path: Path, fairseq_python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "input").mkdir()
    fixtures.write_recordings(tmp_path / "input")
    for samples in (700, 1_801):
        signal = fixtures._make_microvolts(f"short {samples}", samples, 500)
        np.savez(tmp_path / f"input/short_{samples}.npz", signal=signal, sample_rate=500, leads=LEADS, unit="uV")
    out = finish(tmp_path, synthetic_checkpoint.reference(), "--short", "pad", short="pad")
    assert fairseq_run.draw_sample(Run(out), 100, 1).samples.tolist() == [2500, 2500, 2500, 2500, 1801, 700]
    assert asked(out, fairseq_python) == 0
    assert capsys.readouterr().out.count(" ok\n") == 8


@pytest.mark.slow
def test_the_real_fairseq_signals_agrees_on_a_pretrained_network_of_its_own(
    tmp_path: Path, fairseq_python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.pt"
    subprocess.run([fairseq_python, ROOT / "tests/helpers/fairseq_made.py", "wav2vec2_cmsc", made], check=True)
    (tmp_path / "input").mkdir()
    fixtures.write_recordings(tmp_path / "input")
    out = finish(tmp_path, torch.load(made, weights_only=True))
    assert asked(out, fairseq_python) == 0
    said = capsys.readouterr().out
    assert said.count(" ok\n") == 4
    assert "logits" not in said


@pytest.mark.slow
def test_the_real_fairseq_signals_refuses_a_checkpoint_that_is_none(tmp_path: Path, fairseq_python: Path) -> None:
    torch.save({"cfg": {"model": {"_name": "nothing"}}, "model": {}}, tmp_path / "x.pt")
    with (
        pytest.raises(
            EcgpipeError, match=r"cfg\.model\._name of .*x\.pt is 'nothing'; only ecg_transformer_classifier, "
        ),
        fairseq_backend.open_fairseq(fairseq_python, tmp_path / "x.pt"),
    ):
        pass


@pytest.mark.slow
def test_the_real_fairseq_signals_runs_no_code_of_a_checkpoint(tmp_path: Path, fairseq_python: Path) -> None:
    torch.save({"cfg": {}, "model": {}, "extra": eval}, tmp_path / "x.pt")
    with (
        pytest.raises(
            EcgpipeError, match=r"is no checkpoint of fairseq-signals: UnpicklingError: Weights only load failed"
        ),
        fairseq_backend.open_fairseq(fairseq_python, tmp_path / "x.pt"),
    ):
        pass
