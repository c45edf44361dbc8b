"""What the tests of a converted checkpoint share."""

import argparse
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest

from ecgpipe.models import checkpoint
from ecgpipe.models.description import Description, describe


@pytest.fixture
def labels_csv(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("name,aggregation\nPoor data quality,max\nSinus rhythm,mean\nÉlectrode,mean\n", encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path, labels_csv: Path) -> Callable[..., Description]:
    """Run the stage in this process; the results are in tmp_path / "out"."""

    def run_stage(source: str | Path, labels: Path | str = labels_csv, sha256: str | None = None) -> Description:
        weights, description = tmp_path / "out" / "model.safetensors", tmp_path / "out" / "model.json"
        parser = argparse.ArgumentParser()
        checkpoint.add_arguments(parser)
        given = ["--source", str(source), "--labels", str(labels), *(["--sha256", sha256] if sha256 else [])]
        checkpoint.run(parser.parse_args([*given, "--weights", str(weights), "--description", str(description)]))
        return describe(description)

    return run_stage


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save a checkpoint to tmp_path / "x.pt"."""

    def save_file(content: object, **options: bool) -> Path:
        path = tmp_path / "x.pt"
        path.write_bytes(checkpoints.saved(content, **options))
        return path

    return save_file


@pytest.fixture
def converted(tmp_path: Path, run: Callable[..., Description], save: Callable[..., Path]) -> Path:
    """The folder of a small converted checkpoint."""
    run(save(checkpoints.classifier()))
    return tmp_path / "out"
