"""The table of files, from which all else that names them follows."""

from pathlib import PurePosixPath
from typing import get_args

import pytest

from ecgpipe.core import results, settings
from ecgpipe.core.run import Folder


def test_each_file_has_one_name_and_a_stage() -> None:
    paths = [file.path for file in results.FILES.values()]
    assert len(paths) == len(set(paths))
    assert {file.stage for file in results.FILES.values()} == settings.STAGES.keys() | {"verify"}


def test_each_stage_has_results_that_are_compared_with_its_settings() -> None:
    assert all(results.patterns_of(stage) for stage in settings.STAGES)
    assert results.patterns_of("preprocess") == ["segments/shard-*.arrow", "records/shard-*.parquet"]
    assert results.patterns_of("manifest") == ["manifest/manifest.json"]


def test_run_has_the_folders_of_numbered_files() -> None:
    assert get_args(Folder) == tuple(results.NUMBERED)


def test_a_numbered_folder_has_files_of_one_kind() -> None:
    numbered = [file.path for file in results.FILES.values() if "{" in file.path]
    assert len(numbered) == len(results.NUMBERED)
    assert {PurePosixPath(path).parts[0] for path in numbered} == results.NUMBERED.keys()


@pytest.mark.parametrize(("stage", "kind"), [("preprocess", "shard"), ("infer", "part"), ("manifest", None)])
def test_what_a_stage_has_a_job_for_each_of(stage: str, kind: str | None) -> None:
    assert results.kind_of(stage) == kind


def test_a_number_has_five_digits_at_least() -> None:
    assert results.path_of("logits", 7) == "logits/part-00007.parquet"
    assert results.path_of("logits", 123_456) == "logits/part-123456.parquet"
    assert results.parse_number("logits", "part-123456.parquet") == 123_456
