"""`ecgpipe doctor`: each thing that keeps a run from working is found before it, with the line that fixes it."""

import importlib.util
import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hub_server import Hub, hub_of_client
from huggingface_hub import constants

from ecgpipe.cli import main
from ecgpipe.core.user_settings import Config
from ecgpipe.inference import devices
from ecgpipe.models import registry
from ecgpipe.readers import LEADS, packages
from ecgpipe.workflow import doctor, estimate
from ecgpipe.workflow.doctor import Finding

REPO, FILE = "wanglab/ecg-fm", "tiny.pt"
URI = f"hf://{REPO}/{FILE}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback with one checkpoint; nobody is logged in and the cache is empty."""
    with hub_of_client(tmp_path, monkeypatch) as server:
        server.publish(REPO, FILE, bytes(3_000_000))
        yield server


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(bytes(2_000_000))
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder of three recordings."""
    folder = tmp_path / "ecgs"
    folder.mkdir()
    for name in "abc":
        np.savez(folder / f"{name}.npz", signal=np.zeros((12, 5000)), sample_rate=500, leads=LEADS)
    return folder


# The command


def test_each_line_is_a_level_and_what_was_found_and_all_is_well_ends_with_0(
    recordings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(recordings), "--checkpoint", str(checkpoint), "--outdir", str(tmp_path / "out")]
    assert main(["doctor", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line[:9].strip() in ("ok", "warning", "problem", "") for line in lines)
    assert f"ok       checkpoint {checkpoint}: 2 MB" in lines
    assert "ok       input: 3 numpy" in lines
    assert not (tmp_path / "out").exists()


def test_a_problem_ends_with_1_and_json_has_the_same_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["doctor", "--checkpoint", "nowhere.pt", "--outdir", str(tmp_path)]
    assert main(given) == 1
    text = capsys.readouterr().out
    assert "problem  checkpoint: nowhere.pt is not a file that can be read\n         fix: check the path\n" in text
    assert main([*given, "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    expected = {"level": "problem", "what": "checkpoint: nowhere.pt is not a file that can be read"}
    assert expected | {"fix": "check the path"} in findings
    assert [finding["what"] for finding in findings if finding["level"] == "problem"] == [expected["what"]]


# The checkpoint


def test_a_checkpoint_of_the_hub_can_be_fetched_and_is_not_fetched(hub: Hub) -> None:
    found = doctor.check_checkpoint(URI)
    assert found == Finding("ok", f"checkpoint {URI} can be fetched from the hub (3 MB)")
    assert hub.downloads == []


def test_a_gated_repository_without_a_token_is_a_problem_whose_fix_is_to_ask_for_access(hub: Hub) -> None:
    hub.token, hub.gated = "hf_secret", True
    found = doctor.check_checkpoint(URI)
    assert found.level == "problem"
    assert found.what == f"checkpoint: the hub refused access to {REPO} (401): it is gated"
    assert found.fix == "ask for access on its page, then set HF_TOKEN to a token of that account"


def test_a_private_repository_needs_a_token_and_is_found_with_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"  # noqa: S105, of the hub in this file
    found = doctor.check_checkpoint(URI)
    assert found.level == "problem"
    assert "set HF_TOKEN to a token that may read it" in f"{found.what} {found.fix}"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert doctor.check_checkpoint(URI).level == "ok"


def test_a_file_that_the_hub_does_not_have_is_a_problem(hub: Hub) -> None:
    found = doctor.check_checkpoint(f"hf://{REPO}/other.pt")
    assert found.level == "problem"
    assert "the hub has no file other.pt" in found.what
    assert hub.downloads == []


@pytest.mark.usefixtures("hub")
def test_offline_only_the_cache_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = doctor.check_checkpoint(URI)
    assert found.level == "problem"
    assert found.what.startswith(f"checkpoint: HF_HUB_OFFLINE is set, and {FILE} of {REPO}")
    assert found.fix == "unset it, or set HF_HOME to the cache that has the file"


def test_a_cached_checkpoint_needs_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, FILE)
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor.check_checkpoint(URI) == Finding("ok", f"checkpoint {URI} is in the cache")
    assert len(hub.requests) == asked


def test_an_invalid_uri_is_a_problem() -> None:
    assert doctor.check_checkpoint("hf://wanglab").level == "problem"


# The models


def find_model(name: str) -> str:
    [found] = [found for found in doctor.check_models() if found.what.startswith(f"model {name}: ")]
    assert found.level == "ok"
    return found.what


def test_of_each_family_it_says_where_its_weights_are_and_their_licence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [found.what.split(":")[0].removeprefix("model ") for found in doctor.check_models()] == [
        *registry.list_families()
    ]
    assert "not in the cache; a run fetches hf://Edoardo-BS/" in find_model("hubert-ecg")
    assert find_model("hubert-ecg").endswith("licence of the weights: CC BY-NC 4.0 (no commercial use)")
    assert "to be downloaded by you (https://drive.google.com" in find_model("ecg-jepa")
    assert "gated: ask for access on the page of hf://heartwise/WCR_77_Classes; set HF_TOKEN" in find_model(
        "deepecg-ssl"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert find_model("deepecg-ssl").split(";")[1] == " a token is set"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "repo", "file"),
    [
        ("hubert-ecg", "Edoardo-BS/hubert-ecg-small", "model.safetensors"),
        ("deepecg-ssl", "heartwise/WCR_77_Classes", "any.pt"),
    ],
)
def test_a_familys_checkpoint_in_the_cache_is_found(name: str, repo: str, file: str, hub: Hub) -> None:
    from huggingface_hub import hf_hub_download

    hub.publish(repo, file, bytes(10))
    hf_hub_download(repo, file)
    asked = len(hub.requests)
    assert f"in the cache: hf://{repo};" in find_model(name)
    assert len(hub.requests) == asked


# The inputs


def test_a_format_whose_package_is_not_installed_names_the_extra(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import h5py

    with h5py.File(recordings / "d.h5", "w") as file:
        file["tracings"] = np.zeros((2, 12, 5000))
        file["exam_id"] = np.arange(2)
    installed = packages.is_installed
    hidden = lambda name: name != "h5py" and installed(name)  # noqa: E731
    monkeypatch.setattr(packages, "is_installed", hidden)
    monkeypatch.setattr("ecgpipe.readers.is_installed", hidden)
    findings, _ = doctor.check_inputs([str(recordings)])
    assert Finding("ok", "input: 3 numpy") in findings
    [problem] = [found for found in findings if found.level == "problem"]
    expected = ("input: 1 hdf5: the package h5py is not installed", "pip install 'ecgpipe[hdf5]'")
    assert (problem.what, problem.fix) == expected


def test_a_file_that_cannot_be_read_is_a_warning_that_gives_the_reason(recordings: Path) -> None:
    (recordings / "d.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    findings, count = doctor.check_inputs([str(recordings)])
    assert count == 4
    assert Finding("ok", "input: 3 numpy") in findings
    [warning] = [found for found in findings if found.level == "warning"]
    assert warning.what.startswith("input: 1 file: ")


def test_inputs_that_are_not_there_or_empty_are_problems(tmp_path: Path) -> None:
    [gone], count = doctor.check_inputs([str(tmp_path / "gone")])
    assert (gone.level, count) == ("problem", 0)
    assert "is not a file or folder" in gone.what
    assert gone.fix == "check the path"
    [empty], count = doctor.check_inputs([str(tmp_path)])
    assert (empty.level, count) == ("problem", 0)
    assert empty.fix is not None


# The disk


class Usage(NamedTuple):
    """As of `shutil.disk_usage`."""

    total: int
    used: int
    free: int


NEEDS = estimate.estimate_run(Config(input="", outdir="results"), 1000, None, has_gpu=False)


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (NEEDS.result_bytes + NEEDS.scratch_bytes, "ok"),
        (NEEDS.result_bytes + NEEDS.scratch_bytes - 1, "warning"),
        (NEEDS.result_bytes - 1, "problem"),
    ],
)
def test_the_disk_must_hold_the_results_and_should_hold_the_segments(
    free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free))
    found = doctor.check_disk(tmp_path / "not" / "there", 1000)
    assert found.level == level
    assert f"free in {tmp_path}; 1,000 recordings" in found.what
    assert (found.fix is None) == (level == "ok")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; run as another user")
def test_a_folder_that_may_not_be_written_to_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert doctor.check_disk(tmp_path / "out", None).level == "problem"


# PyTorch and GPUs


def gpu(free_gib: float, capability: tuple[int, int] = (9, 0)) -> devices.Gpu:
    return devices.Gpu(0, "GPU-1", "NVIDIA H200", capability, int(free_gib * 2**30), 140 * 2**30)


@pytest.mark.parametrize(
    ("card", "level", "words"),
    [
        (gpu(120), "ok", "140 GiB"),
        (gpu(1.5), "warning", "1.5 GiB of its memory are free"),
        (gpu(120, (3, 5)), "warning", "is not built for its compute capability 3.5"),
    ],
)
def test_a_gpu_has_kernels_and_free_memory_or_a_warning(
    card: devices.Gpu, level: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: [card])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    [found] = doctor.check_torch()
    assert found.level == level
    assert words in found.what
    assert (found.fix is None) == (level == "ok")


@pytest.mark.parametrize(("built", "words"), [(None, "is built without CUDA"), ("12.8", "sees no GPU")])
def test_a_card_that_pytorch_does_not_use_is_a_warning(
    built: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(devices, "list_gpus", list)
    [found] = doctor.check_torch()
    assert found.level == "warning"
    assert words in found.what
    assert found.fix


# The rest


def test_missing_packages_of_the_workflow_are_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("snakemake", "umap") else find_spec(name)
    )
    expected = Finding("problem", "not installed: snakemake, umap-learn", "pip install 'ecgpipe[workflow]'")
    assert list(doctor.check_packages()) == [expected]


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert doctor.check_open_files() == Finding("warning", "a process may open 256 files", "ulimit -n 1024")


@pytest.mark.parametrize(
    ("tools", "plugin", "level"),
    [
        ([], False, "ok"),
        (["sbatch", "squeue", "sinfo"], True, "ok"),
        (["sbatch", "squeue", "sinfo"], False, "warning"),
        (["sbatch"], True, "warning"),
    ],
)
def test_slurm_needs_its_commands_and_snakemakes_plugin(
    tools: list[str], plugin: bool, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in tools:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if plugin else None)
    found = doctor.check_slurm()
    assert found.level == level
    assert (found.fix is None) == (level == "ok")
