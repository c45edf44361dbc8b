"""The manifest: every recording under the inputs once, under an id that tells it from the others, cut into shards."""

import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecgpipe import manifest, tables
from ecgpipe.__main__ import main
from ecgpipe.errors import EcgpipeError
from ecgpipe.readers import SUFFIXES


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def ids(*inputs: Path | str) -> list[str]:
    return [found.record_id for found in manifest.scan([str(given) for given in inputs], Counter())]


def ignored(*inputs: Path | str) -> Counter[str]:
    """The files that were found and are no recordings, by ending."""
    counter: Counter[str] = Counter()
    list(manifest.scan([str(given) for given in inputs], counter))
    return counter


def mistake(*inputs: Path | str) -> str:
    with pytest.raises(EcgpipeError) as caught:
        ids(*inputs)
    return str(caught.value)


def write(outdir: Path, *inputs: Path | str, shard_size: int = 1000) -> int:
    options = ["--outdir", str(outdir), "--shard-size", str(shard_size)]
    return main(["manifest", "--input", *map(str, inputs), *options])


# A folder


def test_ids_are_paths_below_the_input_folder_without_ending(tmp_path: Path) -> None:
    touch(tmp_path, "p1000/p10001725/s41420867/41420867.hea", "p1000/a.mat", "top.npz")
    assert ids(tmp_path) == ["p1000/a", "p1000/p10001725/s41420867/41420867", "top"]
    assert ids(tmp_path / "p1000") == ["a", "p10001725/s41420867/41420867"]


def test_a_recording_has_an_absolute_path_and_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.hea", "in/b.mat", "in/c.npy", "in/d.npz", "in/e.MAT")
    monkeypatch.chdir(tmp_path)
    found = list(manifest.scan(["in"], Counter()))
    assert [Path(recording.path) for recording in found] == sorted((tmp_path / "in").iterdir())
    assert [recording.format for recording in found] == ["wfdb", "mat", "numpy", "numpy", "mat"]


def test_the_order_is_that_of_the_names_whatever_the_disk_says(tmp_path: Path) -> None:
    names = ["b/2", "b/10", "a", "c", "B", "a b", "é"]
    touch(tmp_path, *(f"{name}.mat" for name in names))
    assert ids(tmp_path) == ["B", "a b", "a", "b/10", "b/2", "c", "é"]


def test_the_parts_of_a_wfdb_record_are_not_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.hea", "a.dat", "a.atr", "b.hea", "b.mat", "c.mat", "d.dat", "sub/a.mat")
    assert ids(tmp_path) == ["a", "b", "c", "sub/a"]
    assert ignored(tmp_path) == {".dat": 1}


def test_other_files_are_counted_by_their_ending(tmp_path: Path) -> None:
    touch(tmp_path, "a.mat", "README", "x.PDF", "y.pdf", "table.csv")
    assert ignored(tmp_path) == {"": 1, ".pdf": 2, ".csv": 1}


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ".a.mat", "._a.mat", ".cache/b.mat", "c.mat", ".mat")
    assert ids(tmp_path) == ["c"]
    assert not ignored(tmp_path)


@pytest.mark.parametrize(
    "name", ["two words", 'a "quoted" one', "it's", "two\nlines", "心电图", "ЭКГ", "a,b", "x.y.z", "*?["]
)
def test_odd_names_stay_as_they_are(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"in/{name}/{name}.npz")
    assert write(tmp_path / "out", tmp_path / "in") == 0
    row = pq.read_table(tmp_path / "out" / "shard-00000.parquet").to_pylist()[0]
    assert row["record_id"] == f"{name}/{name}"
    assert Path(row["path"]).is_file()


def test_a_name_that_is_not_utf_8_is_to_be_renamed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"M\xfcnchen.mat")).touch()
    assert "M\\xfcnchen.mat' is not UTF-8; rename it" in mistake(tmp_path)


def test_an_ending_that_is_not_utf_8_is_counted_and_can_be_written(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"x.\xfc")).touch()
    touch(tmp_path, "a.mat")
    assert write(tmp_path / "out", tmp_path) == 0
    assert "\\ud" not in (tmp_path / "out" / "manifest.json").read_text()


def test_links_are_followed_but_not_round_and_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "elsewhere/a.mat", "in/b.mat", "in/sub/c.mat")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "linked.mat").symlink_to(tmp_path / "elsewhere" / "a.mat")
    (tmp_path / "in" / "sub" / "loop").symlink_to(tmp_path / "in")
    with caplog.at_level(logging.WARNING):
        found = {recording.record_id: recording.path for recording in manifest.scan([str(tmp_path / "in")], Counter())}
    assert list(found) == ["b", "linked/a", "linked", "sub/c"]
    assert found["linked"] == str(tmp_path / "in" / "linked.mat")
    assert "leads back to a folder above it: not followed" in caplog.text


def test_a_link_to_nowhere_is_a_recording_to_account_for_and_one_to_itself_too(tmp_path: Path) -> None:
    (tmp_path / "gone.mat").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.mat").symlink_to(tmp_path / "self.mat")
    assert ids(tmp_path) == ["gone", "self"]


@pytest.fixture
def anybody() -> Iterator[Path]:
    """A folder that everybody may read, for the time of a test as a user who may not read everything."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = os.geteuid() == 0
        yield Path(name)
        if root:
            os.seteuid(0)


def test_a_folder_that_may_not_be_read_is_an_error_rather_than_left_out(anybody: Path) -> None:
    touch(anybody, "a.mat", "locked/b.mat")
    (anybody / "locked").chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)  # root may read everything
    said = mistake(anybody)
    assert said.startswith(f"input: cannot look into the folder '{anybody}/locked': Permission denied; see to it")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "no files at all; ecgpipe reads .hea, .mat, .npy, .npz"),
        (["a.pdf", "b.pdf", "README"], "3 files of other kinds (2 .pdf, 1 without ending); ecgpipe reads .hea"),
    ],
)
def test_a_folder_without_recordings_says_what_is_there(
    names: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    touch(tmp_path / "in", *names)
    assert write(tmp_path / "out", tmp_path / "in") == 2
    assert f"error: input: no recordings in '{tmp_path}/in', {says}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()


# Files, patterns, several inputs


def test_a_single_file_has_its_name_as_id(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.b.mat", "x.txt")
    assert ids(tmp_path / "sub" / "a.b.mat") == ["a.b"]
    assert ignored(tmp_path / "x.txt") == {".txt": 1}


def test_ids_of_a_pattern_are_relative_to_what_comes_before_its_first_wildcard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "d/p1/x/a.mat", "d/p1/b.npz", "d/p2/c.mat", "d/p1/notes.txt")
    assert ids(tmp_path / "d" / "p*" / "*.mat") == ["p2/c"]
    assert ids(tmp_path / "d" / "p1" / "*.npz") == ["b"]
    assert ids(tmp_path / "d" / "p*") == ["p1/b", "p1/x/a", "p2/c"]
    assert ids(tmp_path / "d" / "**") == ["p1/b", "p1/x/a", "p2/c"]
    assert ids(tmp_path / "d" / "**" / "*.mat") == ["p1/x/a", "p2/c"]
    assert ids(tmp_path / "d" / "p[2-9]" / "?.mat") == ["p2/c"]
    assert ignored(tmp_path / "d" / "**") == {".txt": 1}
    monkeypatch.chdir(tmp_path / "d")
    assert ids("p*/*.mat") == ids("./p*/*.mat") == ["p2/c"]
    assert ids("../d/p*/*.mat") == ["p2/c"]


def test_the_parts_of_a_wfdb_record_are_not_counted_in_a_pattern_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.hea", "a.mat", "b.hea", "b.dat", "sub/a.mat")
    assert ids(tmp_path / "*") == ["a", "b", "sub/a"]
    assert ids(tmp_path / "**") == ["a", "b", "sub/a"]
    assert not ignored(tmp_path / "**")
    monkeypatch.chdir(tmp_path)
    assert ids("./*") == ["a", "b", "sub/a"]


def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "data[1]/a.mat")
    assert ids(tmp_path / "data[1]") == ["a"]


@pytest.mark.parametrize("name", ["nowhere", "*.mat", "x.mat"])
def test_an_input_that_is_not_there(name: str, tmp_path: Path) -> None:
    says = f"input: '{tmp_path}/{name}' is not a file or folder, and no pattern that matches any; check the path"
    assert mistake(tmp_path / name) == says


def test_several_inputs_follow_one_another_in_the_order_given(tmp_path: Path) -> None:
    touch(tmp_path, "z/b.mat", "z/a.mat", "y/c.mat", "d.npz")
    pd.DataFrame({"path": ["y/c.mat"], "record_id": ["from the table"]}).to_csv(tmp_path / "t.csv")
    given = [tmp_path / "z", tmp_path / "y" / "*.mat", tmp_path / "d.npz", tmp_path / "t.csv"]
    assert ids(*given) == ["a", "b", "c", "d", "from the table"]


@pytest.mark.parametrize("inputs", [["a", "b"], ["a", "b/*.npz"], ["a", "a"], ["c"]])
def test_two_recordings_with_one_id_are_an_error_that_names_both(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "a/x.mat", "b/x.npz", "c/x.mat", "c/x.npz")
    assert write(tmp_path / "out", *(tmp_path / given for given in inputs)) == 2
    said = capsys.readouterr().err
    first, second = {"a": ("a/x.mat", "b/x.npz"), "c": ("c/x.mat", "c/x.npz")}[inputs[0]]
    second = first if inputs == ["a", "a"] else second
    assert f"two recordings have the id 'x': {tmp_path}/{first} and {tmp_path}/{second}; rename one" in said
    assert not (tmp_path / "out" / "manifest.json").exists()


# Tables


@pytest.mark.parametrize("ending", ["csv", "CSV", "parquet"])
@pytest.mark.parametrize("with_id", [True, False])
def test_a_table_lists_recordings_relative_to_itself(ending: str, with_id: bool, tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.hea", "b.npz")
    frame = pd.DataFrame({"age": [70, 71], "path": ["sub/a.hea", str(tmp_path / "b.npz")]})
    if with_id:
        frame["record_id"] = ["007", None]
    if ending == "parquet":
        frame.to_parquet(tmp_path / "t.parquet")
    else:
        frame.to_csv(tmp_path / f"t.{ending}", index=False)
    found = list(manifest.scan([str(tmp_path / f"t.{ending}")], Counter()))
    absolute = (tmp_path / "b").as_posix().lstrip("/")
    assert [recording.record_id for recording in found] == ["007" if with_id else "sub/a", absolute]
    assert [recording.path for recording in found] == [str(tmp_path / "sub" / "a.hea"), str(tmp_path / "b.npz")]
    assert [recording.format for recording in found] == ["wfdb", "numpy"]


def test_ids_of_a_table_stay_as_they_are_written(tmp_path: Path) -> None:
    written = ["007", "7", "12345678901234567890123", "1e5", "2024-01-01", "true", "NA", "two\nlines", 'a "b"', "é"]
    rows = ['"' + name.replace('"', '""') + f'",{number}.mat' for number, name in enumerate(written)]
    (tmp_path / "t.csv").write_text("\n".join(["record_id,path", *rows]), encoding="utf-8")
    assert ids(tmp_path / "t.csv") == written
    pd.DataFrame({"record_id": [7, 8], "path": ["a.mat", "b.mat"]}).to_parquet(tmp_path / "t.parquet")
    assert ids(tmp_path / "t.parquet") == ["7", "8"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as a table"),
        (b"file,age\na.mat,70\n", "has no column `path`, only file, age; rename the one with the files"),
        (b"path,age\na.mat,70\n,71\n", "row 2: `path` is empty"),
        (b"path\na.mat\nb.dcm\n", "row 2: 'b.dcm' is in no known format; known are .hea, .mat, .npy, .npz"),
        (b"path\na.mat\nM\xfcnchen.mat\n", "cannot be read as a table"),
        (b"path,M\xfcnchen\na.mat,1\n", "cannot be read as a table"),
        (b"path,path\na.mat,b.mat\n", "cannot be read as a table"),
        (b"path,age\na.mat\n", "cannot be read as a table"),
    ],
)
def test_a_table_with_a_mistake_names_the_row_and_the_mend(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    said = mistake(tmp_path / "t.csv")
    assert said.startswith(f"input: {tmp_path}/t.csv")
    assert says in said


def test_a_parquet_table_that_is_none_or_has_no_texts(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing more")
    assert "cannot be read as a table" in mistake(tmp_path / "t.parquet")
    pd.DataFrame({"path": [["a.mat"]]}).to_parquet(tmp_path / "t.parquet")
    assert "cannot be read as a table" in mistake(tmp_path / "t.parquet")


# Shards


@pytest.mark.parametrize(("shard_size", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (1000, [7])])
def test_shards_are_cut_in_order(shard_size: int, sizes: list[int], tmp_path: Path) -> None:
    touch(tmp_path, *(f"in/{number}.mat" for number in range(7)), "in/notes.txt")
    assert write(tmp_path / "out", tmp_path / "in", shard_size=shard_size) == 0
    shards = tables.numbered(tmp_path / "out", "shard", None)
    assert [path.name for path in shards] == [f"shard-{number:05d}.parquet" for number in range(len(sizes))]
    read = [pq.read_table(path) for path in shards]
    assert [len(table) for table in read] == sizes
    assert all(table.schema == tables.MANIFEST for table in read)
    assert [record_id for table in read for record_id in table["record_id"].to_pylist()] == list("0123456")
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert content == {"n_recordings": 7, "n_shards": len(sizes), "ignored": {".txt": 1}}


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"in/{number}.mat" for number in range(5)))
    for out in ("first", "second"):
        assert write(tmp_path / out, tmp_path / "in", shard_size=2) == 0
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("first", "second")
    )
    assert first == second


# Whatever a name is


NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=30).filter(
    lambda name: name not in (".", "..")
)


@given(folder=NAMES, name=NAMES, suffix=st.sampled_from([*sorted(SUFFIXES), ".MAT", ".dat", ""]))
@example(folder="a.hea", name="x", suffix=".mat")
@example(folder="-", name="--input", suffix=".npz")
@example(folder=" ", name=" .", suffix=".npy")
@settings(deadline=None, max_examples=100)
def test_any_name_is_found_once_or_hidden_or_counted(
    folder: str, name: str, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("names")
    touch(root, f"{folder}/{name}{suffix}")
    counter: Counter[str] = Counter()
    found = list(manifest.scan([str(root)], counter))
    hidden = folder.startswith(".") or name.startswith(".")
    assert len(found) + counter.total() == (0 if hidden else 1)
    for recording in found:
        assert Path(recording.path).read_bytes() == b""
        assert recording.record_id + Path(recording.path).suffix == f"{folder}/{name}{suffix}"


@given(content=st.binary(max_size=60), head=st.sampled_from([b"", b"path\n", b"path,record_id\na.mat,"]))
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_a_table_or_a_mistake(
    content: bytes, head: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(head + content)
    try:
        found = ids(path)
    except EcgpipeError:
        pass
    else:
        assert all(found)
