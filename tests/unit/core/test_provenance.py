"""What is written beside the numbers tells which code and which inputs made them."""

import hashlib
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from ecgpipe import cli
from ecgpipe.core import provenance


def in_a_copy(folder: Path, expression: str) -> str:
    """What an expression is to a copy of the package in another folder."""
    if not (folder / "ecgpipe").exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(provenance.__file__).parents[1], folder / "ecgpipe", ignore=ignored)
    command = [sys.executable, "-c", f"from ecgpipe.core import provenance; print({expression})"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_the_checksum_of_the_source_is_that_of_its_content_wherever_it_lies(tmp_path: Path) -> None:
    ours = provenance.hash_source()
    assert in_a_copy(tmp_path, "provenance.hash_source()") == ours
    (tmp_path / "ecgpipe" / "analysis" / "umap.py").open("a").write("# changed\n")
    assert in_a_copy(tmp_path, "provenance.hash_source()") != ours


def test_the_commit_is_that_of_the_clone_and_none_outside_of_one(tmp_path: Path) -> None:
    assert in_a_copy(tmp_path, "provenance.find_commit()") == "None"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "Another project"]):
        subprocess.run([*git, *command], check=True)
    assert in_a_copy(tmp_path, "provenance.find_commit()") == "None"  # a repository that has other things in it
    for command in (["add", "ecgpipe"], ["commit", "--quiet", "--message", "This one"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch("[0-9a-f]{40}", in_a_copy(tmp_path, "provenance.find_commit()"))


def test_several_checksums_are_one_as_sha256sum_would_have_it() -> None:
    lines = b"".join(one.encode() + b"\n" for one in ("a" * 64, "b" * 64))
    assert provenance.combine_sha256s(["a" * 64, "b" * 64]) == hashlib.sha256(lines).hexdigest()


@pytest.mark.parametrize("stage", provenance.MEANING)
def test_each_stage_with_a_meaning_is_a_stage(stage: str) -> None:
    assert stage in cli.COMMANDS
    assert importlib.util.find_spec(f"ecgpipe.{cli.COMMANDS[stage][0]}")


def test_the_origin_of_a_result_states_what_all_its_files_state() -> None:
    schemas = [
        provenance.add_origin(pa.schema([]), "infer", {"preprocess": 3}, checkpoint="x.pt", inputs_sha256=one * 64)
        for one in "ab"
    ]
    facts = provenance.inherit_facts(schemas)
    made_of_it = provenance.read_origin(provenance.add_origin(pa.schema([]), "umap", **facts))
    assert made_of_it["meaning"] == {"preprocess": 3, "infer": 1, "umap": 1}
    assert made_of_it["checkpoint"] == "x.pt"
    assert made_of_it["inputs_sha256"] == provenance.combine_sha256s(["a" * 64, "b" * 64])
    assert provenance.inherit_facts(schemas[:1])["inputs_sha256"] == "a" * 64
