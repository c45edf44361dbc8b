"""A manifest that grows: whoever was known stays where he was, and what changed on disk is noticed."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.cli import main
from ecgpipe.core import schemas
from ecgpipe.inputs import incremental, manifest

NS = 1_700_000_000_000_000_000


def listed(stamps: dict[str, int]) -> pa.Table:
    """A manifest's rows, by their ids with how large each is."""
    rows = [{"record_id": name, "path": f"/{name}", "bytes": size} for name, size in stamps.items()]
    return pa.Table.from_pylist(rows, schema=schemas.MANIFEST)


def ids(shards: list[pa.Table]) -> list[list[str]]:
    return [shard["record_id"].to_pylist() for shard in shards]


STAMPS = st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(0, 2), max_size=12)


@settings(deadline=None)
@given(scans=st.lists(STAMPS, min_size=1, max_size=5), size=st.integers(1, 5))
def test_whatever_comes_and_goes_each_is_there_once_and_none_moves(scans: list[dict[str, int]], size: int) -> None:
    shards: list[pa.Table] = []
    before: dict[str, int] = {}
    for now in scans:
        was = ids(shards)
        cut = incremental.cut_into_shards(listed(now), shards, size)
        old = [*shards, *[None] * (len(cut.shards) - len(shards))]
        shards = [old[i] if shard is None else shard for i, shard in enumerate(cut.shards)]
        held = [row for shard in shards for row in shard.to_pylist()]
        assert {row["record_id"]: row["bytes"] for row in held} == now
        assert len(held) == len(now)
        # Those known stay in their shard, in their order; those new come after.
        for names, names_now in zip(was, ids(shards), strict=False):
            assert names_now == [name for name in names if name in now]
        new = [name for name in now if name not in before]
        assert [name for names in ids(shards)[len(was) :] for name in names] == new
        assert all(len(names) == size for names in ids(shards)[len(was) : -1])
        # A shard is written again only where something in it is not as it was.
        for names, shard in zip(was, cut.shards, strict=False):
            assert (shard is None) == all(name in now and now[name] == before[name] for name in names)
        changes = {row["record_id"]: row["change"] for row in cut.changes.to_pylist()}
        expected = {name: "removed" for name in before if name not in now}
        expected |= {name: "changed" for name in before if name in now and now[name] != before[name]}
        assert changes == expected
        before = now


def test_nan_and_null_are_no_change_and_another_type_of_a_column_is_none_either() -> None:
    def table(**columns: object) -> pa.Table:
        found = listed({"a": 1, "b": 1})
        for name, column in columns.items():
            found = found.append_column(name, column)
        return found

    same = {"x": pa.array([np.nan, None]), "leads": pa.array([["I"], None]), "t": pa.array(["1", "2"])}
    assert incremental.cut_into_shards(table(**same), [table(**same)], 2).shards == [None]
    other = incremental.cut_into_shards(table(n=pa.array([1.0, 2.0])), [table(n=pa.array([1, 2]))], 2)
    assert not len(other.changes)
    assert other.shards[0] is not None  # all shards are to have the same columns
    assert other.shards[0].schema.field("n").type == pa.float64()
    other = incremental.cut_into_shards(
        table(leads=pa.array([["I"], ["II"]])), [table(leads=pa.array([["I"], None]))], 2
    )
    assert other.changes["record_id"].to_pylist() == ["b"]
    other = incremental.cut_into_shards(table(n=pa.array(["1", "x"])), [table(n=pa.array([1, 2]))], 2)
    assert other.changes["record_id"].to_pylist() == ["b"]


# On disk


def scan(folder: Path, *inputs: Path, shard_size: int = 2) -> list[dict[str, object]]:
    """Scan, and return the rows."""
    given = [str(path) for path in inputs or [folder / "in"]]
    command = ["manifest", "--input", *given, "--outdir", str(folder / "out"), "--shard-size", str(shard_size)]
    assert main(command) == 0
    shards = sorted((folder / "out").glob("shard-*.parquet"))
    return [row for path in shards for row in pq.read_table(path).to_pylist()]


def touch(path: Path, size: int = 10, ns: int = NS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, ns=(ns, ns))


def changes(folder: Path) -> list[tuple[str, str]]:
    table = pq.read_table(folder / "out" / manifest.CHANGES)
    return [(row["change"], row["record_id"]) for row in table.to_pylist()]


def test_a_recording_is_as_large_as_its_files_and_as_new_as_the_newest(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines = ["a 2 500 100", "a.dat 16 200/mV 16 0 0 0 0 I", "a.dat 16 200/mV 16 0 0 0 0 II"]
    (tmp_path / "in" / "a.hea").write_text("\n".join(lines) + "\n")
    os.utime(tmp_path / "in" / "a.hea", ns=(NS, NS))
    touch(tmp_path / "in" / "a.dat", 400, NS + 5_000_000_000)
    touch(tmp_path / "in" / "b.mat", 7)
    header = (tmp_path / "in" / "a.hea").stat().st_size
    a, b = scan(tmp_path)
    assert (a["record_id"], a["bytes"]) == ("a", header + 400)
    assert (b["record_id"], b["bytes"]) == ("b", 7)
    assert [str(row["modified"]) for row in (a, b)] == ["2023-11-14 22:13:25+00:00", "2023-11-14 22:13:20+00:00"]
    (tmp_path / "t.csv").write_text("path,record_id\nin/a.hea,1\nin/a,2\nin/none.mat,3\n")
    of_a_table = scan(tmp_path, tmp_path / "t.csv", shard_size=5)
    assert [row["bytes"] for row in of_a_table] == [header + 400, header + 400, None]
    assert of_a_table[0]["stamp"] == of_a_table[1]["stamp"] == a["stamp"]


@pytest.mark.parametrize("name", ["a.hea", "a.dat"])
def test_a_changed_file_of_a_recording_is_noticed(tmp_path: Path, name: str) -> None:
    for part in ("a.hea", "a.dat", "b.mat"):
        touch(tmp_path / "in" / part)
    (tmp_path / "in" / "a.hea").write_text("a 1 500 100\na.dat 16 200/mV 16 0 0 0 0 I\n")
    scan(tmp_path)
    assert changes(tmp_path) == []
    os.utime(tmp_path / "in" / name, ns=(NS, NS + 1_000_000))
    scan(tmp_path)
    assert changes(tmp_path) == [("changed", "a")]


def test_a_scan_that_was_killed_between_two_shards_is_gone_on_with(tmp_path: Path) -> None:
    for i in range(5):
        touch(tmp_path / "in" / f"{i}.mat")
    whole = scan(tmp_path)
    undisturbed = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for name in ("shard-00001.parquet", "shard-00002.parquet", "files.parquet", "manifest.json", "scans.json"):
        (tmp_path / "out" / name).unlink()
    assert scan(tmp_path) == whole
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == undisturbed


def test_another_shard_size_cuts_all_anew_and_leaves_no_shard_too_many(tmp_path: Path) -> None:
    for i in range(5):
        touch(tmp_path / "in" / f"{i}.mat")
    rows = scan(tmp_path, shard_size=1)
    assert scan(tmp_path, shard_size=3) == rows
    assert sorted(path.name for path in (tmp_path / "out").glob("shard-*")) == [
        f"shard-0000{i}.parquet" for i in (0, 1)
    ]
    assert changes(tmp_path) == []


@pytest.mark.parametrize("left", [2, 3, 4])
def test_a_scan_that_was_killed_between_two_deletions_leaves_nothing_that_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    for i in range(5):
        touch(tmp_path / "in" / f"{i}.mat")
    scan(tmp_path, shard_size=1)
    deleted: list[Path] = []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".parquet" and 5 - len(deleted) == left:
            raise KeyboardInterrupt  # as far as the disk goes, as a kill
        deleted.append(path)
        os.unlink(path)  # noqa: PTH108, Path's own is replaced

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        command = ["manifest", "--input", str(tmp_path / "in"), "--outdir", str(tmp_path / "out"), "--shard-size", "5"]
        assert main(command) == 130 if left > 1 else 0
    # Whatever comes next, each recording is there once, in as many shards as are counted.
    for shard_size in (1, 2):
        (tmp_path / "in" / "4.mat").unlink(missing_ok=True)
        rows = scan(tmp_path, shard_size=shard_size)
        counted = json.loads((tmp_path / "out" / "manifest.json").read_text())["n_shards"]
        assert len(list((tmp_path / "out").glob("shard-*"))) == counted
        assert sorted(str(row["record_id"]) for row in rows) == ["0", "1", "2", "3"]


def test_stale_shards_beyond_a_gap_are_removed_and_a_users_file_is_not(tmp_path: Path) -> None:
    for i in range(5):
        touch(tmp_path / "in" / f"{i}.mat")
    rows = scan(tmp_path, shard_size=1)
    for number in (2, 3):
        (tmp_path / "out" / f"shard-0000{number}.parquet").unlink()
    mine = tmp_path / "out" / "shard-00007.parquet"
    mine.write_text("mine")
    command = ["manifest", "--input", str(tmp_path / "in"), "--outdir", str(tmp_path / "out"), "--shard-size", "3"]
    assert main(command) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("shard-*")) == [
        "shard-00000.parquet", "shard-00001.parquet", "shard-00007.parquet",
    ]  # fmt: skip
    assert mine.read_text() == "mine"
    assert [
        row for number in (0, 1) for row in pq.read_table(tmp_path / "out" / f"shard-0000{number}.parquet").to_pylist()
    ] == rows


def test_a_users_file_that_is_called_as_a_shard_to_be_written_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path / "in" / "a.mat")
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "shard-00000.parquet"
    mine.write_text("mine")
    command = ["manifest", "--input", str(tmp_path / "in"), "--outdir", str(tmp_path / "out")]
    assert main(command) == 2
    assert mine.read_text() == "mine"
    assert f"outdir: {mine} was not written by ecgpipe" in capsys.readouterr().err


def test_a_folder_that_is_missing_leaves_the_manifest_as_it_was(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.mat")
    scan(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "in").rename(tmp_path / "away")
    assert main(["manifest", "--input", str(tmp_path / "in"), "--outdir", str(tmp_path / "out")]) == 2
    (tmp_path / "in").mkdir()  # as a place to mount at
    assert main(["manifest", "--input", str(tmp_path / "in"), "--outdir", str(tmp_path / "out")]) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_one_of_several_folders_that_is_empty_now_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "in", tmp_path / "mounted"]
    for folder in folders:
        touch(folder / f"{folder.name}.mat")
    scan(tmp_path, *folders)
    (folders[1] / "mounted.mat").unlink()
    options = ["--outdir", str(tmp_path / "out"), "--shard-size", "2"]
    assert main(["manifest", "--input", *map(str, folders), *options]) == 2
    assert f"input: '{folders[1]}' has no recordings any more, and the last run found 1;" in capsys.readouterr().err
    assert main(["manifest", "--input", str(folders[0]), *options]) == 0
    assert changes(tmp_path) == [("removed", "mounted")]
