"""The benchmarks: the tutorial's stand-in computes what ecgpipe does; the table, the JSON and the plots come out."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import forked_python
import pytest
import safetensors.torch
from torch import Tensor, nn

from benchmarks import authors_forward, ecg_fm, families, model_drift, model_speed, sides, stand_in
from ecgpipe.models.description import Architecture
from ecgpipe.models.ecg_fm import network as ecg_fm_network

ROOT = Path(__file__).parents[3]


def rows(device: str) -> list[sides.Row]:
    """What plots need: the model at two batch sizes, the stage over two numbers of segments."""
    found = []
    for size in (1, 8):
        found.append(
            sides.Row("model alone", device, "float32", size, "a batch", 5.0, "segments/s", 0.9, "torch.matmul")
        )
        for what in ("infer, first to last", "infer, whole command"):
            found.append(sides.Row(what, device, "float32", size, "segments", 4.0, "segments/s", 0.8, "model alone"))
    return found


def test_the_tutorials_stand_in_computes_what_the_network_does(tmp_path: Path) -> None:
    ecg_fm.write(tmp_path, tiny=True)
    assert stand_in.check(tmp_path) < stand_in.AGREE


def test_a_stand_in_that_computes_something_else_is_noticed(tmp_path: Path) -> None:
    ecg_fm.write(tmp_path, tiny=True)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    other = stand_in.StandIn(ecg_fm.TINY, {**weights, "layers.0.qkv.weight": 1.5 * weights["layers.0.qkv.weight"]})
    assert stand_in.apart(ecg_fm_network.load(ecg_fm.TINY, tmp_path / "model.safetensors"), other) > stand_in.AGREE


class Forgetful(authors_forward.Hubert):
    """Without its last layer."""

    def __init__(self, arch: Architecture, state: Mapping[str, Tensor]) -> None:
        super().__init__(arch, state)
        self.layers[-1] = nn.Identity()


@pytest.fixture(scope="module")
def tiny_families() -> dict[str, model_speed.Family]:
    return model_speed.list_families(tiny=True)


def test_every_family_has_a_stand_in_for_its_authors_forward_pass_that_computes_the_same(
    tiny_families: dict[str, model_speed.Family],
) -> None:
    found = authors_forward.check(tiny=True)
    assert found.keys() == tiny_families.keys()
    assert max(found.values()) < 1e-6  # far below what a weight that is off by half makes, below


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("ecg-fm", "layers.0.qkv.weight"),
        ("deepecg-ssl", "position.conv.weight"),
        ("ecg-jepa", "positions"),
        ("ecgfounder", "stages.1.0.squeeze.weight"),
        ("hubert-ecg", "layers.1.qkv.weight"),
    ],
)
def test_a_stand_in_for_authors_that_computes_something_else_is_noticed(
    tiny_families: dict[str, model_speed.Family], name: str, weight: str
) -> None:
    family = tiny_families[name]
    weights = model_speed.draw_weights(family)
    other = authors_forward.FORWARD[name](family.arch, {**weights, weight: 1.5 * weights[weight]}).eval()
    assert authors_forward.apart(family.build(), other, family.window) > authors_forward.AGREE


def test_nothing_is_measured_beside_a_stand_in_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(authors_forward.FORWARD, "hubert-ecg", Forgetful)
    with pytest.raises(RuntimeError, match="hubert-ecg's authors differs from ecgpipe's network by"):
        authors_forward.check(tiny=True)


def test_half_precision_is_compared_with_float32_on_real_recordings(reference: Path, tmp_path: Path) -> None:
    found = model_drift.measure(reference, "ecgfounder", small=True, most=1, folder=tmp_path)
    assert (found["windows"], found["labels"]) == (1, 7)
    for key in ("probability", "embedding"):  # bfloat16 has three bits less
        assert 0 < found["float16"][key] < found["bfloat16"][key] < 0.01


def test_a_segment_of_ecg_fm_takes_29_gflop() -> None:
    assert round(ecg_fm.flops(ecg_fm.ECG_FM, ecg_fm.SAMPLES) / 1e9, 1) == 29.2


def test_a_command_that_fails_gives_the_reason() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        sides.run([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_the_process_that_compares_stays_small() -> None:
    # Or else what it holds would count as every command's and side's peak memory.
    loaded = "import sys, benchmarks.run; print(sorted({'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", loaded], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_plots_are_small_and_the_same_for_the_same_figures(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    machine = {"cpu": "Some(R) CPU", "cores": 2, "gpus": [{"name": "Some GPU"}]}
    sides.save(path, rows("cpu") + rows("cuda"), machine=machine)
    drawn = []
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.plots", path, "--outdir", tmp_path], check=True, cwd=ROOT, stdout=-3
        )
        drawn.append([(tmp_path / f"performance-{name}.svg").read_text() for name in ("batch", "segments")])
    assert drawn[0] == drawn[1]
    assert all(len(svg) < 60_000 and "Some CPU, 2 cores, float32" in svg and "Some GPU" in svg for svg in drawn[0])


def run_benchmark(name: str, *options: str, python: Path | None = None) -> str:
    """What a benchmark prints as a command.

    What it starts of ecgpipe is, unless with `python`, forked from a process that has PyTorch loaded.
    """
    return subprocess.run(
        as_if(python or forked_python.program(), f"benchmarks.{name}", *options),
        check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip


def as_if(python: Path, module: str, *options: str) -> list[str]:
    """The command that runs a module in a real process, which takes another program for the Python to start others."""
    code = f"import runpy, sys; sys.executable = {str(python)!r}; runpy.run_module({module!r}, None, '__main__', True)"
    return [sys.executable, "-c", code, *options]


@pytest.mark.slow
def test_the_stage_without_its_network_is_reported_with_its_parts() -> None:
    said = run_benchmark("ceiling", "--tiny", "--repeats", "1", "--batch-sizes", "16")
    head, *lines = said.splitlines()
    assert "ratio" in head
    parts = ["stage", "copying the bytes", "reading", "computing nothing", "writing"]
    assert [line.partition("  ")[0] for line in lines] == parts
    assert all("segments/s" in line and "cpu" in line for line in lines)


@pytest.mark.slow
def test_everything_runs_and_is_reported_in_one_table_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "results" / "this.json"
    sizes = ["--batch-sizes", "1", "4", "--segments", "4", "8", "--recordings", "2", "--files", "2"]
    short = ["--tiny", "--repeats", "1", "--round-s", "0.02", "--precisions", "float32", "--devices", "cpu"]
    said = run_benchmark("run", *sizes, *short, "--json", str(path))
    content = json.loads(path.read_text())
    assert [line for line in content["missing"] if not line.startswith("cuda")] == []
    assert "cuda is missing" in said
    measured = {row["what"] for row in content["rows"]}
    assert measured >= {"torch.matmul", "model alone", "the tutorial's loop", "infer, first to last", "import torch"}
    assert measured >= {f"network of {name}" for name in ("deepecg-ssl", "ecg-jepa", "ecgfounder", "hubert-ecg")}
    beside = {row["what"] for row in content["rows"] if row["of"] == families.AUTHORS}
    assert beside == {f"network of {name}" for name in authors_forward.FORWARD}
    assert all(row["what"] in said for row in content["rows"])
    # What comes beyond the import is a difference of two processes, which a busy machine can turn round.
    assert all(row["value"] > 0 for row in content["rows"] if row["what"] != "the same beyond import torch")
    peaks = {row["what"]: row["peak_mb"] for row in content["rows"]}
    assert peaks["the tutorial's, mat"] < peaks["import torch"]  # nothing large was inherited


@pytest.mark.slow
def test_a_run_with_a_stand_in_for_the_stages_takes_part_after_part(tmp_path: Path) -> None:
    path, python = tmp_path / "scale.json", tmp_path / "python3"
    # Of Snakemake itself, which is watched, there is a real process; its jobs are forked from one that has its modules.
    snakemake = shlex.join(as_if(python, "snakemake"))
    python.write_text(
        f'#!/bin/sh\n[ "$2" = snakemake ] || exec {forked_python.program()} "$@"\nshift 2\nexec {snakemake} "$@"\n'
    )
    python.chmod(0o755)
    size = ["--shards", "12", "--per-part", "3", "--cores", "2", "--gpus", "1", "--device", "cpu"]
    run_benchmark("scale", *size, "--folder", str(tmp_path), "--json", str(path), python=python)
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["shards"], row["parts"]) == (12, 4)
    # The checkpoint, the scan, the precision, all; shards, parts and their predictions; the map, the examples, the
    # attribution, the summary, the figures, the report, the verdict.
    assert row["jobs"] == 3 + 1 + 12 + 2 * 4 + 7
    assert row["most_segments"] < 1  # the first part's segments were gone before the last part's were there
    assert row["peak_mb"] > 0
