"""What a study was made from: the same for a copy, and another for other contents, whatever the times of files are."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.core import study_inputs


def write_run(outdir: Path, made_from: str) -> None:
    (outdir / "predictions").mkdir(parents=True)
    table = pa.table({"record_id": ["a"]}).replace_schema_metadata({"ecgpipe": made_from})
    pq.write_table(table, outdir / "predictions" / "part-00000.parquet")
    (outdir / "run.json").write_text("{}")


def test_a_copy_is_the_same_and_other_contents_are_not(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "x")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    os.utime(tmp_path / "copy" / "run.json", (1, 1))
    first = study_inputs.hash_inputs({"a": tmp_path / "a"})
    assert study_inputs.hash_inputs({"a": tmp_path / "copy"}) == first
    assert study_inputs.hash_inputs({"b": tmp_path / "a"}) != first  # another name
    (tmp_path / "copy" / "run.json").write_text("[]")
    assert study_inputs.hash_inputs({"a": tmp_path / "copy"}) != first
    write_run(tmp_path / "other", "y")  # as large, and of other recordings
    assert study_inputs.hash_inputs({"a": tmp_path / "other"}) != first
