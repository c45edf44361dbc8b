"""The command for a GPU: it leaves what was measured whatever happens, and the page says what the JSON says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_page, plots
from benchmarks.gpu_worker import Setup, Worker, run_step

ROOT = Path(__file__).parents[3]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """A minute on the CPU at a tiny size, without the reference numbers."""
    return Setup(tmp_path / "scratch", "cpu", True, None, 1, time.time() + 60)


def step(status: str, **result: Any) -> dict[str, Any]:  # noqa: ANN401, whatever a step reports
    return {"status": status, "seconds": 1.0, "result": result}


def content(**steps: dict[str, Any]) -> dict[str, Any]:
    """What the JSON of a card could say."""
    model = {
        f"{precision} {size} {kind} attention": {"segments_per_s": rate * size, "share_of_matmul": 0.1, "peak_mb": 900}
        for precision, rate in (("float16", 90), ("float32", 10))
        for size in (1, 8)
        for kind in ("with", "without")
    }
    machine = {"torch": "2.11.0", "python": "3.12.3", "cores": 16, "cpu": "Some CPU"}
    known = {
        "facts": step("done", card="Some GPU", machine=machine, nvidia_smi={"driver_version": "580.1"}),
        "matmul": step("done", float16={"1 x 2 x 3": 700_000}, float32={"1 x 2 x 3": 50_000}, nvidia_smi={}),
        "parity": step("done", base={"logits": 3e-6, "embedding": 2e-6, "attention": 1e-7, "ok": True}),
        "drift": step("done", float16={"segments": 14, "largest": 0.002, "embedding": {"largest": 1e-5, "mean": 0}}),
        "model": step("done", **model, **{"float32 1024": {"out_of_memory": True}}),
        "stage": step(
            "done", first_to_last={"segments": 32768, "segments_per_s": 600.0}, share_of_model=0.93,
            model_alone={"segments_per_s": 645.0, "batch_size": 256},
        ),
        "host": step("done", host_ms_per_batch=1.5, ms_per_batch=30.0, batch_size=256, idle_share=0.02),
        "loop": step("done", segments_per_s=43.0, recordings=128),
        "profile": step(
            "done", batch_size=256, precision="float16", kernels=[{"name": "a|b", "share": 0.6, "calls": 3}]
        ),
    }  # fmt: skip
    return {
        "command": "", "began": "2026-11-27T00:00:00Z", "seconds": 400.0, "device": "cuda", "tiny": False,
        "steps": known | steps,
    }  # fmt: skip


@pytest.mark.slow
def test_a_step_that_fails_leaves_its_traceback_and_the_results_of_the_others(setup: Setup, tmp_path: Path) -> None:
    broken = tmp_path / "reference"
    (broken / "golden").mkdir(parents=True)
    (broken / "make_checkpoint.py").write_text("raise SystemExit('no such recipe')")
    setup = Setup(setup.folder, "cpu", True, broken, 1, setup.ends_at)
    setup.folder.mkdir()
    said: list[str] = []
    gpu.run(setup, tmp_path / "gpu.json", ["facts", "parity", "model"], said.append)
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {name: found["status"] for name, found in steps.items()} == {
        "facts": "done", "parity": "failed", "model": "done",
    }  # fmt: skip
    assert "Traceback" in steps["parity"]["why"]
    assert "no such recipe" in (tmp_path / "gpu.log").read_text()
    assert all(row["segments_per_s"] > 0 for key, row in steps["model"]["result"].items() if "attention" in key)
    assert len(said) == 3
    assert "failed" in said[1]


def test_a_process_that_dies_in_a_step_leaves_what_it_had_measured(setup: Setup, tmp_path: Path) -> None:
    worker, found = Worker(tmp_path / "said"), {}

    def report(key: str, value: object) -> None:
        found[key] = value
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGKILL)

    setup.folder.mkdir()
    try:
        assert run_step(worker, "model", setup, 60, report) == ("failed", "the process ended with -9")
    finally:
        worker.end()
    assert len(found) == 1


def test_a_step_that_takes_too_long_is_abandoned(setup: Setup, tmp_path: Path) -> None:
    worker = Worker(tmp_path / "said")
    try:
        assert run_step(worker, "model", setup, 0.01, lambda key, value: None) == ("cut", "not done after 0 s")
    finally:
        worker.end()
    assert not worker.process.is_alive()


def test_a_step_for_which_no_time_is_left_is_not_begun(setup: Setup, tmp_path: Path) -> None:
    setup = Setup(setup.folder, "cpu", True, None, 1, time.time() + 1)
    found = gpu.run(setup, tmp_path / "gpu.json", ["facts"], lambda said: None)
    assert found["steps"]["facts"]["status"] == "skipped"
    assert "of the budget were left" in found["steps"]["facts"]["why"]


def test_each_step_has_a_bound_and_each_bound_a_step() -> None:
    from benchmarks import gpu_steps  # loads PyTorch, which the command's own process does not

    assert list(gpu_steps.STEPS) == list(gpu.STEPS)


def test_the_page_states_what_was_measured_and_names_what_was_not() -> None:
    failed = {**step("failed"), "why": "Traceback\nValueError: a | b"}
    page = f"before\n{gpu_page.BEGIN}\nold\n{gpu_page.END}\nafter"
    made = gpu_page.insert(page, [content(loop=failed)])
    assert made.startswith(f"before\n{gpu_page.BEGIN}")
    assert made.endswith(f"{gpu_page.END}\nafter")
    assert "old" not in made
    assert "### Some GPU" in made
    assert "| logits in float32 against fairseq-signals' | at most 1e-4 | 3.0e-06 |" in made
    assert "| infer stage, of the model alone | at least 0.90 | 0.93 |" in made
    assert "| model alone, of the notebook's loop | at least 10 | not measured |" in made
    assert "| loop | failed | 1.0 | ValueError: a \\| b |" in made
    assert "| float16 | 8 | with | 720 | 0.10 | 900 |" in made
    assert "| float32 | 1024 |  | out of memory |  |  |" in made
    assert "1.5 ms for a batch of 256" in made
    assert gpu_page.insert(made, [content(loop=failed)]) == made


def test_without_a_measurement_the_page_reports_it() -> None:
    page = f"{gpu_page.BEGIN}{gpu_page.END}"
    assert "**Not measured.**" in gpu_page.insert(page, [])


def test_a_try_on_a_cpu_is_no_measurement_of_a_gpu(tmp_path: Path) -> None:
    for name, tiny, device in (("gpu-a", False, "cuda"), ("gpu-b", True, "cuda"), ("gpu-c", False, "cpu")):
        (tmp_path / f"{name}.json").write_text(json.dumps({**content(), "tiny": tiny, "device": device}))
    assert len(gpu_page.read(tmp_path)) == 1


def test_the_page_in_docs_is_the_one_that_the_results_give() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    assert gpu_page.insert(page, gpu_page.read(ROOT / "benchmarks" / "results")) == page


def test_figures_of_other_benchmarks_may_lie_beside_those_that_are_drawn(tmp_path: Path) -> None:
    row = dict.fromkeys(["what", "of", "device", "precision", "size", "value", "ratio"])
    contents = {"run": {"rows": [row]}, "preprocess": {"rows": [{"what": "x", "ratio": 2}]}, "whole": {"rules": {}}}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert plots.read_runs(sorted(tmp_path.glob("*.json"))) == [contents["run"]]


def test_plots_and_page_come_of_the_json(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "gpu-some.json").write_text(json.dumps(content()))
    (tmp_path / "performance.md").write_text(f"{gpu_page.BEGIN}\n{gpu_page.END}\n")
    command = [sys.executable, "-m", "benchmarks.plots", "--gpu", str(tmp_path / "results")]
    subprocess.run([*command, "--outdir", str(tmp_path)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert "### Some GPU" in (tmp_path / "performance.md").read_text()
    assert "Some GPU, float16" in (tmp_path / "performance-gpu.svg").read_text()
