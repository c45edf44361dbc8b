"""The settings of each stage: every setting of a run has its place in them, and only what counts makes a difference."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import every_setting
import pytest

from ecgpipe.core import settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config, Section
from ecgpipe.workflow import stage_settings, validate


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files that settings name."""
    monkeypatch.chdir(tmp_path)
    every_setting.write_files(tmp_path)
    return tmp_path


def stages(given: Mapping[str, Any]) -> dict[str, Section]:
    loaded = validate.load(given, Path())
    certain = loaded.inference.precision == "float32" or loaded.inference.device == "cpu"
    return stage_settings.derive_stages(loaded, stage_settings.identify_checkpoint(loaded, Path("out")), certain)


def hashes(given: Mapping[str, Any]) -> dict[str, str]:
    return {name: settings.hash_section(name, stage) for name, stage in stages(given).items()}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_every_setting_has_an_entry() -> None:
    assert set(every_setting.leaves()) == every_setting.CHANGES.keys()


@pytest.mark.parametrize("key", every_setting.CHANGES)
def test_a_setting_changes_the_settings_of_the_stages_that_depend_on_it_and_of_no_other(files: Path, key: str) -> None:
    value, stages = every_setting.CHANGES[key]
    before = hashes(every_setting.base())
    assert changed(before, hashes(every_setting.base(key, value))) == stages


def test_files_that_are_settings_count_by_their_content_not_by_path_or_time(files: Path) -> None:
    before = hashes(every_setting.base())
    for key, name in {"labels": "labels.csv", "checkpoint": "x.pt", "evaluation.truth": "truth.csv"}.items():
        (files / "elsewhere").mkdir(exist_ok=True)
        copy = files / "elsewhere" / name
        copy.write_bytes((files / name).read_bytes())
        assert hashes(every_setting.base(key, str(copy))) == before
        os.utime(files / name, (1, 1))
        assert hashes(every_setting.base()) == before


def test_other_content_of_an_older_time_counts(files: Path) -> None:
    before = hashes(every_setting.base())
    (files / "x.pt").write_bytes(b"another checkpoint")
    os.utime(files / "x.pt", (1, 1))
    assert changed(before, hashes(every_setting.base())) == {"checkpoint"}
    (files / "truth.csv").write_text("record_id,First\na,1\n")
    os.utime(files / "truth.csv", (1, 1))
    assert changed(before, hashes(every_setting.base())) == {"checkpoint", "evaluate", "summary"}


@pytest.mark.parametrize(
    ("old", "new", "stages"),
    [
        ("First", "Foremost", {"checkpoint", "aggregate", "examples", "evaluate", "summary", "figures", "report"}),
        ("max", "mean", {"aggregate", "evaluate", "summary", "figures", "report"}),
        ("0.5", "0.7", {"examples", "evaluate", "summary", "figures", "report"}),
    ],
)
def test_of_the_label_file_each_stage_depends_on_what_it_reads(
    files: Path, old: str, new: str, stages: set[str]
) -> None:
    before = hashes(every_setting.base())
    path = files / "labels.csv"
    path.write_text(path.read_text().replace(old, new))
    assert changed(before, hashes(every_setting.base())) == stages


def test_a_local_checkpoint_is_read_again_only_if_its_path_size_or_time_is_another(files: Path) -> None:
    given = validate.load(every_setting.base(), Path())
    found = stage_settings.identify_checkpoint(given, files / "out")
    stage_settings.remember_checkpoint(given, files / "out", found)
    status = (files / "x.pt").stat()
    (files / "x.pt").write_bytes(bytes(status.st_size))
    os.utime(files / "x.pt", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert stage_settings.identify_checkpoint(given, files / "out") == found
    os.utime(files / "x.pt", (1, 1))
    assert stage_settings.identify_checkpoint(given, files / "out") != found


def test_a_local_checkpoint_that_is_not_the_expected_one_is_refused_before_any_job(files: Path) -> None:
    given = validate.load(every_setting.base("sha256", "0" * 64), Path())
    with pytest.raises(EcgpipeError, match=r"checkpoint: x\.pt has the sha256 [0-9a-f]{64}, not 0{64}"):
        stage_settings.identify_checkpoint(given, files / "out")


def test_a_sha256_that_the_fetched_checkpoint_has_makes_no_difference(files: Path) -> None:
    def identity(**given: str) -> str:
        return stage_settings.identify_checkpoint(Config(input=".", **given), files / "out")

    address = Config(input=".").checkpoint
    assert identity() == address
    (files / "out" / "settings").mkdir(parents=True)
    (files / "out" / "checkpoint").mkdir()
    (files / "out" / "settings" / "checkpoint.json").write_text(json.dumps({"content": address}))
    (files / "out" / "checkpoint" / "model.json").write_text(
        json.dumps({"source": {"uri": address, "sha256": "a" * 64}})
    )
    assert identity(sha256="A" * 64) == address
    assert identity(sha256="b" * 64) == f"{address} {'b' * 64}"
    assert identity(checkpoint="hf://wanglab/ecg-fm/other.pt") == "hf://wanglab/ecg-fm/other.pt"


def test_what_is_written_is_read_again_and_only_what_differs_is_written(files: Path) -> None:
    made = stages(every_setting.base())
    assert settings.write_sections(files / "settings", made) == list(made)
    times = {path: path.stat().st_mtime_ns for path in (files / "settings").iterdir()}
    assert settings.write_sections(files / "settings", made) == []
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for name, stage in made.items():
        assert settings.read_section(name, type(stage), files / "settings" / f"{name}.json") == stage
    faster = stages(every_setting.base("inference.batch_size", 3))
    assert settings.write_sections(files / "settings", faster) == []
    assert settings.read_section("infer", settings.Infer, files / "settings/infer.json").batch_size == 3
    assert settings.write_sections(files / "settings", stages(every_setting.base("umap.neighbors", 4))) == [
        "umap",
        "summary",
    ]


def test_settings_of_another_stage_and_torn_ones_are_refused(files: Path) -> None:
    settings.write_sections(files / "settings", stages(every_setting.base()))
    with pytest.raises(
        EcgpipeError, match=r"cannot read .*umap.json as the settings of infer: it is for the stage umap"
    ):
        settings.read_section("infer", settings.Infer, files / "settings" / "umap.json")
    (files / "settings" / "umap.json").write_text("{")
    with pytest.raises(EcgpipeError, match=r"cannot read .*umap.json as the settings of umap"):
        settings.read_section("umap", settings.Umap, files / "settings" / "umap.json")
