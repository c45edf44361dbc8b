"""The manifest: every recording under the inputs once under its own id, and an account of every file there."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecgpipe import readers
from ecgpipe.cli import main
from ecgpipe.core import parquet, results, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inputs.scan import scan_inputs
from ecgpipe.readers.detect import SUFFIXES


def saved(bare: bool) -> bytes:
    """An .npy or an .npz file."""
    file = io.BytesIO()
    if bare:
        np.save(file, np.zeros((12, 1)))
    else:
        np.savez(file, signal=np.zeros((12, 1)))
    return file.getvalue()


# What these endings need to be recordings; of the others the ending is enough.
CONTENT = {".npy": saved(bare=True), ".npz": saved(bare=False)}
NPY = CONTENT[".npy"]
SIGNALS = "".join(f"{{0}}.dat 16 200/mV 16 0 0 0 0 {lead}\n" for lead in ("I", "II"))


def touch(folder: Path, *names: str) -> None:
    """Files that hold something only where their ending asks for it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CONTENT.get(Path(name).suffix, b""))


def header(folder: Path, name: str, signal_file: str | None = None, comments: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = SIGNALS.format(name).replace(f"{name}.dat", signal_file or f"{name}.dat")
    (folder / f"{name}.hea").write_text(f"{name} 2 500 5000\n{lines}{comments}")


def rows(*inputs: Path | str, ptbxl: str = "records500") -> list[dict[str, object]]:
    found: list[dict[str, object]] = scan_inputs([str(given) for given in inputs], ptbxl).recordings.to_pylist()
    return found


def ids(*inputs: Path | str) -> list[object]:
    return [row["record_id"] for row in rows(*inputs)]


def files(*inputs: Path | str) -> dict[str, tuple[str, str | None]]:
    """Each file's name below the first input, with its role and its recording or the reason."""
    listed = scan_inputs([str(given) for given in inputs]).files.to_pylist()
    assert len({row["path"] for row in listed}) == len(listed)
    root = f"{os.path.abspath(inputs[0])}/"  # noqa: PTH100
    return {row["path"].removeprefix(root): (row["role"], row["record_id"] or row["reason"]) for row in listed}


def ignored(*inputs: Path | str) -> dict[str, str | None]:
    return {path: reason for path, (role, reason) in files(*inputs).items() if role == "ignored"}


def problems(*inputs: Path | str) -> dict[object, object]:
    bad = [row for row in rows(*inputs) if row["problem"] is not None]
    assert all(row["format"] is None for row in bad)
    return {row["record_id"]: row["problem"] for row in bad}


def mistake(*inputs: Path | str) -> str:
    with pytest.raises(EcgpipeError) as caught:
        ids(*inputs)
    return str(caught.value)


def write(outdir: Path, *inputs: Path | str, shard_size: int = 1000) -> int:
    options = ["--outdir", str(outdir), "--shard-size", str(shard_size)]
    return main(["manifest", "--input", *map(str, inputs), *options])


# A folder


def test_ids_are_paths_below_the_input_folder_without_extension(tmp_path: Path) -> None:
    touch(tmp_path, "p1000/p10001725/s41420867/41420867.hea", "p1000/a.mat", "top.npz", "x.y.mat")
    assert ids(tmp_path) == ["p1000/a", "p1000/p10001725/s41420867/41420867", "top", "x.y"]
    assert ids(tmp_path / "p1000") == ["a", "p10001725/s41420867/41420867"]


def test_a_recording_has_an_absolute_path_and_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.hea", "in/b.mat", "in/c.npy", "in/d.npz", "in/e.MAT", "in/f.dcm", "in/g.edf", "in/h.scp")
    monkeypatch.chdir(tmp_path)
    found = rows("in")
    assert [row["path"] for row in found] == [str(path) for path in sorted((tmp_path / "in").iterdir())]
    formats = ["wfdb", "mat", "numpy", "numpy", "mat", "dicom", "edf", "scp-ecg"]
    assert [row["format"] for row in found] == formats
    assert all(row["row"] is row["problem"] is row["stated_leads"] is None for row in found)


def test_the_content_states_what_a_file_is_before_its_extension_does(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(NPY)
    (tmp_path / "b.xml").write_text("<?xml version='1.0'?><!-- x --><RestingECG><Waveform/></RestingECG>")
    (tmp_path / "c.xml").write_text("<html/>")
    (tmp_path / "d.csv").write_text("I,II,V1\n1,2,3\n")
    (tmp_path / "e.csv").write_text("patient,age\n1,2\n")
    pd.DataFrame({"I": [1.0], "II": [2.0]}).to_parquet(tmp_path / "f.parquet")
    pd.DataFrame({"age": [1.0], "sex": [2.0]}).to_parquet(tmp_path / "g.parquet")
    pd.DataFrame({"path": ["x"], "I": [2.0]}).to_parquet(tmp_path / "h.parquet")
    (tmp_path / "i").write_bytes(b"\0" * 128 + b"DICM")
    found = {row["record_id"]: row["format"] for row in rows(tmp_path)}
    assert found == {"a": "numpy", "b": "muse-xml", "d": "csv", "f": "parquet", "i": "dicom"}
    no_leads = "table without a column for each lead"
    assert ignored(tmp_path) == {
        "c.xml": "XML of another kind (html)",
        "e.csv": no_leads,
        "g.parquet": no_leads,
        "h.parquet": no_leads,
    }


def write_results(folder: Path) -> None:
    """As much of a folder of results as a scan may meet."""
    names = [f"{kind}/{what}-00000.{suffix}" for kind, (what, _, suffix) in results.NUMBERED.items()]
    names += [f"{kind}/{name}" for kind, some in results.FIXED.items() for name in some]
    touch(folder, *names, "logs/infer/part-00000.log", "benchmarks/manifest.tsv", ".lock", ".owner")
    (folder / results.RUNS).write_text("0123456789abcdef\n")


def test_results_in_the_inputs_are_left_out_and_a_users_files_beside_them_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top = tmp_path / "in"
    touch(top, "a.mat", "results/mine/b.mat", "results/records/c.mat", "results/d.mat", "no/logits/part-00000.parquet")
    write_results(top / "results")
    write_results(top / "old")
    (top / "old" / results.RUNS).unlink()  # copied without hidden files, but it has a run.json
    (top / "old/run.json").write_text(json.dumps({"ecgpipe": "0.1.0", "counts": {}}))
    write_results(tmp_path / "elsewhere")
    (top / "by-link").symlink_to(tmp_path / "elsewhere")
    assert ids(top) == ["a", "results/d", "results/mine/b", "results/records/c"]
    assert {path: why for path, why in ignored(top).items() if why and "results" in why} == {
        "by-link/": "folder of ecgpipe's results (by-link)",
        "old/": "folder of ecgpipe's results (old)",
        "results/": "folder of ecgpipe's results (results)",
    }
    capsys.readouterr()
    assert write(tmp_path / "out", top) == 0
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert content["ignored"]["folder of ecgpipe's results"] == 3
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said == [f"[manifest] left out ecgpipe's own results in {top}/by-link, {top}/old, {top}/results"]


def test_a_folder_of_results_may_be_the_input_itself_and_hold_the_recordings(tmp_path: Path) -> None:
    write_results(tmp_path)
    touch(tmp_path, "ecgs/a.mat", "logits/b.mat")
    assert ids(tmp_path) == ["ecgs/a", "logits/b"]
    assert ids(tmp_path / "ecgs") == ["a"]
    assert ids(f"{tmp_path}/**/*.mat") == ["ecgs/a", "logits/b"]
    assert ids(f"{tmp_path}/*/*") == ["ecgs/a", "logits/b"]


def test_the_order_is_that_of_the_names_whatever_the_disk_says(tmp_path: Path) -> None:
    names = ["b/2", "b/10", "a", "c", "B", "a b", "é"]
    touch(tmp_path, *(f"{name}.mat" for name in names))
    assert ids(tmp_path) == ["B", "a b", "a", "b/10", "b/2", "c", "é"]


def test_hidden_files_and_folders_are_left_out_and_reported_to_be(tmp_path: Path) -> None:
    touch(tmp_path, ".a.mat", "._a.mat", ".cache/b.mat", "c.mat", ".mat")
    assert ids(tmp_path) == ["c"]
    assert ignored(tmp_path) == dict.fromkeys([".a.mat", "._a.mat", ".cache/", ".mat"], "hidden")


@pytest.mark.parametrize(
    "name", ["two words", 'a "quoted" one', "it's", "two\nlines", "心电图", "ЭКГ", "a,b", "x.y.z", "*?["]
)
def test_odd_names_stay_as_they_are(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"in/{name}/{name}.npz")
    assert write(tmp_path / "out", tmp_path / "in") == 0
    row = pq.read_table(tmp_path / "out" / "shard-00000.parquet").to_pylist()[0]
    assert row["record_id"] == f"{name}/{name}"
    assert Path(row["path"]).is_file()


def test_a_folder_deeper_than_python_calls_go(tmp_path: Path) -> None:
    path, depth = f"{tmp_path}/in", 1100
    try:
        os.mkdir(path)  # noqa: PTH102, what makes parents calls itself
        for _ in range(depth):
            path += "/d"
            os.mkdir(path)  # noqa: PTH102
        Path(path, "a.mat").touch()
        assert ids(tmp_path / "in") == ["d/" * depth + "a"]
    finally:
        subprocess.run(["rm", "-r", f"{tmp_path}/in"], check=True)  # noqa: S607, pytest's own would not get through


# Files of many recordings


def test_each_recording_of_a_file_of_many_has_a_row(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "part.hdf5", "w") as file:
        file["tracings"] = np.ones((3, 4096, 12), np.float32)
        file["exam_id"] = np.array([30, 10, 20])
    np.save(tmp_path / "three.npy", np.zeros((2, 12, 5000)))
    np.save(tmp_path / "one.npy", np.zeros((12, 5000)))
    found = [(row["record_id"], row["format"], row["row"]) for row in rows(tmp_path)]
    assert found == [
        ("one", "numpy", None),
        ("part/30", "hdf5", 0),
        ("part/10", "hdf5", 1),
        ("part/20", "hdf5", 2),
        ("three/0", "numpy", 0),
        ("three/1", "numpy", 1),
    ]
    assert files(tmp_path) == {
        "one.npy": ("recording", "one"),
        "part.hdf5": ("recording", "part/"),
        "three.npy": ("recording", "three/"),
    }


def test_recordings_with_one_name_in_their_file_are_named_by_their_rows(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "part.hdf5", "w") as file:
        file["tracings"] = np.ones((2, 4096, 12), np.float32)
        file["exam_id"] = np.array([7, 7])
    assert ids(tmp_path) == ["part/0", "part/1"]


# Parts of WFDB records


def test_the_parts_of_a_wfdb_record_are_not_recordings(tmp_path: Path) -> None:
    touch(tmp_path, "a.hea", "a.dat", "a.atr", "b.hea", "b.mat", "sub/a.mat")
    assert ids(tmp_path) == ["a", "b", "sub/a"]
    assert files(tmp_path) == {
        "a.hea": ("recording", "a"),
        "a.dat": ("part", "a"),
        "a.atr": ("part", "a"),
        "b.hea": ("recording", "b"),
        "b.mat": ("part", "b"),
        "sub/a.mat": ("recording", "sub/a"),
    }


def test_headers_are_opened_where_names_do_not_show_whose_a_signal_file_is(tmp_path: Path) -> None:
    header(tmp_path / "s", "a", signal_file="a_1.dat")
    touch(tmp_path, "s/a_1.dat", "s/b.mat", "s/lost.dat")
    assert files(tmp_path / "s") == {
        "a.hea": ("recording", "a"),
        "a_1.dat": ("part", "a"),
        "b.mat": ("recording", "b"),
        "lost.dat": ("ignored", "empty file"),
    }


def test_the_segments_of_a_record_are_parts_of_it(tmp_path: Path) -> None:
    (tmp_path / "whole.hea").write_text("whole/3 2 500 10000\nseg_2 5000\n~ 100\nseg_1 5000\n")
    header(tmp_path, "seg_1")
    header(tmp_path, "seg_2", signal_file="signals.dat")
    touch(tmp_path, "seg_1.dat", "seg_1.atr", "signals.dat")
    assert ids(tmp_path) == ["whole"]
    parts = dict.fromkeys(("seg_1.hea", "seg_2.hea", "seg_1.dat", "seg_1.atr", "signals.dat"), "whole")
    assert files(tmp_path) == {"whole.hea": ("recording", "whole")} | {
        name: ("part", owner) for name, owner in parts.items()
    }


def test_headers_that_name_one_another_in_a_circle_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a.hea").write_text("a/1 2 500 10000\nb 5000\n")
    (tmp_path / "b.hea").write_text("b/1 2 500 10000\na 5000\n")
    (tmp_path / "c.hea").write_text("c/1 2 500 10000\nc 5000\n")
    assert ids(tmp_path) == ["a", "c"]
    assert files(tmp_path)["b.hea"] == ("part", "a")


def test_a_recording_of_another_format_beside_a_header_has_the_same_id(tmp_path: Path) -> None:
    touch(tmp_path, "a.hea", "a.dat", "a.npy")
    assert ids(tmp_path) == ["a", "a"]


# Links and what is no file


def test_links_are_followed_but_not_round_and_round(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.mat", "in/b.mat", "in/sub/c.mat")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "linked.mat").symlink_to(tmp_path / "elsewhere" / "a.mat")
    (tmp_path / "in" / "sub" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    found = {row["record_id"]: row["path"] for row in rows(tmp_path / "in")}
    assert list(found) == ["b", "linked/a", "linked", "sub/c"]
    assert found["linked"] == str(tmp_path / "in" / "linked.mat")
    assert ignored(tmp_path / "in") == dict.fromkeys(["linked/self/", "sub/loop/"], "a link back to a folder above it")


def test_no_folder_is_gone_through_twice(tmp_path: Path) -> None:
    touch(tmp_path, "in/v2/a.mat", "in/.store/d.mat", "out/x/b.mat", "out/y/c.mat")
    for name, target in {"current": "in/v2", "hidden": "in/.store", "l1": "out/x", "l2": "out/x", "l3": "out"}.items():
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    assert ids(tmp_path / "in") == ["hidden/d", "l1/b", "l3/y/c", "v2/a"]
    assert ignored(tmp_path / "in") == {
        ".store/": "hidden",
        "current/": f"a link to a folder that is gone through anyway ({tmp_path}/in/v2)",
        "l2/": f"a link to a folder that is gone through anyway ({tmp_path}/out/x)",
        "l3/x/": f"a folder that a link has led to already ({tmp_path}/out/x)",
        "up/": "a link back to a folder above it",
    }


def test_links_between_folders_do_not_multiply(tmp_path: Path) -> None:
    for n in range(12):
        touch(tmp_path, f"out/{n}/a.mat")
        for other in range(12):
            (tmp_path / "out" / str(n) / f"to{other}").symlink_to(tmp_path / "out" / str(other))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "first").symlink_to(tmp_path / "out" / "0")
    assert len(ids(tmp_path / "in")) == 12
    assert len(ids(tmp_path / "out")) == len(ids(tmp_path / "out" / "**")) == 12


def test_links_to_nowhere_pipes_sockets_and_devices_are_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone.mat").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.mat").symlink_to(tmp_path / "self.mat")
    (tmp_path / "zero.mat").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.hea")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mat")
    assert ids(tmp_path) == []
    assert ignored(tmp_path) == {
        "gone.mat": "a link to nothing",
        "self.mat": "a link that leads nowhere (Too many levels of symbolic links)",
        "zero.mat": "not a regular file (a device)",
        "pipe.hea": "not a regular file (a pipe)",
        "socket.mat": "not a regular file (a socket)",
    }


# Problems


def test_what_has_no_permission_is_a_row_with_the_problem(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        touch(root, "in/a.mat", "in/locked/b.mat", "in/c.mat", "in/d.hea", "in/notes.txt", "in/e.h5")
        (root / "in" / "to locked").symlink_to(root / "in" / "locked" / "b.mat")
        for secret in ("locked", "c.mat", "d.hea", "notes.txt", "e.h5"):
            (root / "in" / secret).chmod(0)
        # Whoever may not read the folder of Python itself may still use what is imported.
        code = (
            "import json, os, sys; from ecgpipe.inputs.scan import scan_inputs; import ecgpipe.readers.hdf5\n"
            "os.setgid(65534); os.setuid(65534); found = scan_inputs(sys.argv[1:])\n"
            "print(json.dumps([found.recordings.to_pylist(), found.files.to_pylist()]))"
        )
        done = subprocess.run([sys.executable, "-c", code, f"{root}/in"], capture_output=True, text=True, check=True)
        found, accounted = json.loads(done.stdout)
        assert {row["record_id"]: row["problem"] for row in found} == {
            "a": None,
            "c": "no permission to read a file (c.mat)",
            "d": None,  # headers are not opened; reading it will say the same
            "e": "no permission to read a file (e.h5)",
            "locked/": "no permission to look into a folder (locked)",
            "notes.txt": "no permission to read a file (notes.txt)",
            "to locked": "no permission to read a file (to locked)",
        }
        assert len(accounted) == 7
        assert {row["role"] for row in accounted} == {"recording"}
        done = subprocess.run(
            [sys.executable, "-c", code, f"{root}/in/locked"], capture_output=True, text=True, check=False
        )
        assert f"input: cannot read the folder '{root}/in/locked': Permission denied; check" in done.stderr


def test_a_name_that_is_not_utf_8_is_a_row_that_advises_to_rename_it(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"K\xf6ln")).mkdir()
    (tmp_path / os.fsdecode(b"K\xf6ln/a.npy")).write_bytes(NPY)
    (tmp_path / os.fsdecode(b"M\xfcnchen.mat")).touch()
    (tmp_path / os.fsdecode(b"x.\xfc")).write_text("?")
    assert problems(tmp_path) == {
        r"K\xf6ln/a": r"the name is not UTF-8; rename it (K\xf6ln/a)",
        r"M\xfcnchen": r"the name is not UTF-8; rename it (M\xfcnchen)",
    }
    assert ignored(tmp_path) == {r"x.\xfc": r"no known format, .\xfc"}
    assert write(tmp_path / "out", tmp_path) == 0


def test_a_container_that_cannot_be_opened_is_a_row_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    found = problems(tmp_path)
    assert list(found) == ["a", "b"]
    assert str(found["b"]).startswith("not a readable Parquet file (")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "no files at all; ecgpipe reads .bdf, .dcm"),
        (["a.pdf", "b.pdf", "README"], "3 other files (3 empty file); ecgpipe reads .bdf"),
    ],
)
def test_a_folder_without_recordings_states_what_is_there(
    names: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    touch(tmp_path / "in", *names)
    assert write(tmp_path / "out", tmp_path / "in") == 2
    assert f"error: input: no recordings in '{tmp_path}/in', {says}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# The account


def test_every_file_of_a_messy_folder_is_there_once(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    touch(
        inside, "a.mat", "b/c.npy", "b/d.txt", "b/e/f.hea", "b/e/f.dat", "b/e/f.atr", ".hidden", "g", "h.dcm", "i.csv"
    )
    header(inside / "seg", "s1")
    (inside / "seg" / "m.hea").write_text("m/1 2 500 5000\ns1 5000\n")
    touch(inside, "seg/s1.dat", "seg/lost.dat")
    np.save(inside / "many.npy", np.zeros((2, 12, 10)))
    (inside / "table.csv").write_text("path\nnowhere.mat\n")
    (inside / "bad.parquet").write_bytes(b"PAR1")
    (inside / "link.mat").symlink_to(inside / "a.mat")
    (inside / "link").symlink_to(inside)
    (inside / os.fsdecode(b"\xff.npy")).write_bytes(NPY)
    os.mkfifo(inside / "pipe")
    assert write(tmp_path / "out", inside) == 0
    found = pq.read_table(tmp_path / "out" / "files.parquet")
    assert found.schema == schemas.FILES
    walked = {str(Path(folder, name)) for folder, _, names in os.walk(inside) for name in names}
    walked = {os.fsencode(path).decode(errors="backslashreplace") for path in walked} | {f"{inside}/link/"}
    assert sorted(found["path"].to_pylist()) == sorted(walked)
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert content["files"] == dict(Counter(found["role"].to_pylist()))
    assert sum(content["files"].values()) == len(walked)
    assert sum(content["ignored"].values()) == content["files"]["ignored"]
    assert content["ignored"]["not a regular file"] == 1


def test_a_file_of_several_inputs_is_counted_once(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.mat")
    (tmp_path / "in" / "t.csv").write_text("path,record_id\na.mat,again\n")
    assert ids(tmp_path / "in", tmp_path / "in" / "t.csv") == ["a", "again"]
    assert files(tmp_path / "in", tmp_path / "in" / "t.csv") == {
        "a.mat": ("recording", "a"),
        "t.csv": ("ignored", "table without a column for each lead"),
    }


# Files, patterns, several inputs


def test_a_single_file_has_its_name_as_id(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.b.mat", "x.txt")
    (tmp_path / "c.csv").write_text("I,II\n1,2\n")
    assert ids(tmp_path / "sub" / "a.b.mat", tmp_path / "c.csv") == ["a.b", "c"]
    assert list(ignored(tmp_path / "x.txt").values()) == ["empty file"]


def test_ids_of_a_pattern_are_relative_to_what_comes_before_its_first_wildcard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "d/p1/x/a.mat", "d/p1/b.npz", "d/p2/c.mat", "d/p1/notes.txt")
    assert ids(tmp_path / "d" / "p*" / "*.mat") == ["p2/c"]
    assert ids(tmp_path / "d" / "p1" / "*.npz") == ["b"]
    assert ids(tmp_path / "d" / "p*") == ["p1/b", "p1/x/a", "p2/c"]
    assert ids(tmp_path / "d" / "**") == ["p1/b", "p1/x/a", "p2/c"]
    assert ids(tmp_path / "d" / "**" / "*.mat") == ["p1/x/a", "p2/c"]
    assert ids(tmp_path / "d" / "**" / "x") == ["p1/x/a"]
    assert ids(tmp_path / "d" / "p[2-9]" / "?.mat") == ["p2/c"]
    assert list(ignored(tmp_path / "d" / "**")) == [f"{tmp_path}/d/p1/notes.txt"]
    assert ignored(tmp_path / "d" / "**" / "*.mat") == {}
    monkeypatch.chdir(tmp_path / "d")
    assert ids("p*/*.mat") == ids("./p*/*.mat") == ids("**/c.mat") == ["p2/c"]
    assert ids("../d/p*/*.mat") == ["p2/c"]


def test_the_parts_of_a_wfdb_record_are_parts_in_a_pattern_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.hea", "a.mat", "b.hea", "b.dat", "sub/a.mat")
    assert ids(tmp_path / "*") == ["a", "b", "sub/a"]
    assert ids(tmp_path / "**") == ["a", "b", "sub/a"]
    assert not ignored(tmp_path / "**")
    assert len(files(tmp_path / "*")) == len(files(tmp_path / "**")) == 5
    monkeypatch.chdir(tmp_path)
    assert ids("./*") == ["a", "b", "sub/a"]


def test_a_pattern_ends_where_links_go_round(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/x.mat", "in/b/y.mat")
    for name in ("a", "b"):
        for number in range(4):
            (tmp_path / "in" / name / f"up{number}").symlink_to(tmp_path / "in")
            (tmp_path / "in" / name / f"side{number}").symlink_to(tmp_path / "in" / ("b" if name == "a" else "a"))
    assert ids(tmp_path / "in" / "**" / "*.mat") == ["a/x", "b/y"]


def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "data[1]/a.mat")
    assert ids(tmp_path / "data[1]") == ["a"]


@pytest.mark.parametrize("name", ["nowhere", "*.mat", "x.mat", "**/*.mat", "nowhere/**", "a\0b", "x" * 300])
def test_an_input_that_is_not_there(name: str, tmp_path: Path) -> None:
    says = f"input: {f'{tmp_path}/{name}'!r} is not a file or folder, and no pattern that matches any; check the path"
    assert mistake(f"{tmp_path}/{name}") == says


def test_several_inputs_follow_one_another_in_the_order_given(tmp_path: Path) -> None:
    touch(tmp_path, "z/b.mat", "z/a.mat", "y/c.mat", "d.npz")
    pd.DataFrame({"path": ["y/c.mat"], "record_id": ["from the table"]}).to_csv(tmp_path / "t.csv")
    inputs = [tmp_path / "z", tmp_path / "y" / "*.mat", tmp_path / "d.npz", tmp_path / "t.csv"]
    assert ids(*inputs) == ["a", "b", "c", "d", "from the table"]


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
    assert not (tmp_path / "out").exists()


def test_of_many_pairs_with_one_id_five_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, *(f"{n}.{ending}" for n in range(7) for ending in ("mat", "npz")))
    assert write(tmp_path / "out", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.count("two recordings have the id") == 5
    assert "; 7 ids in all; rename one" in said


# Tables


@pytest.mark.parametrize("ending", ["csv", "CSV", "parquet"])
@pytest.mark.parametrize("with_id", [True, False])
def test_a_table_lists_recordings_relative_to_itself(ending: str, with_id: bool, tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [70, 71], "path": ["./sub//a.hea", str(tmp_path / "b.npz")]})
    if with_id:
        frame["record_id"] = ["007", None]
    if ending == "parquet":
        frame.to_parquet(tmp_path / "t.parquet")
    else:
        frame.to_csv(tmp_path / f"t.{ending}", index=False)
    found = rows(tmp_path / f"t.{ending}")
    absolute = (tmp_path / "b").as_posix().lstrip("/")
    assert [row["record_id"] for row in found] == ["007" if with_id else "sub/a", absolute]
    assert [row["path"] for row in found] == [str(tmp_path / "sub" / "a.hea"), str(tmp_path / "b.npz")]
    assert [row["format"] for row in found] == ["wfdb", "numpy"]
    assert [row["age"] for row in found] == [70, 71]
    assert files(tmp_path / f"t.{ending}") == {
        str(tmp_path / "sub" / "a.hea"): ("recording", "007" if with_id else "sub/a"),
        str(tmp_path / "b.npz"): ("recording", absolute),
        str(tmp_path / f"t.{ending}"): ("ignored", "the table of the recordings"),
    }


def test_ids_of_a_table_stay_as_they_are_written(tmp_path: Path) -> None:
    written = ["007", "7", "12345678901234567890123", "1e5", "2024-01-01", "true", "NA", "two\nlines", 'a "b"', "é"]
    lines = ['"' + name.replace('"', '""') + f'",{number}.mat' for number, name in enumerate(written)]
    (tmp_path / "t.csv").write_text("\n".join(["record_id,path", *lines]), encoding="utf-8")
    assert ids(tmp_path / "t.csv") == written
    pd.DataFrame({"record_id": [7, 8], "path": ["a.mat", "b.mat"]}).to_parquet(tmp_path / "t.parquet")
    assert ids(tmp_path / "t.parquet") == ["7", "8"]


def test_a_table_states_what_its_files_leave_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "path,sample_rate,leads,unit\n"
        "a.npy,500,I II  V1,mV\n"
        'b.npy,250.5,"Lead I, Lead II",uV\n'
        "c.npy,,I;II,\n"
        "d.npy,NA,\"['I', 'II']\",\n"
        "e.npy,fast,,\n"
        "f.npy,0,,\n"
    )
    stated = [(row["stated_sample_rate"], row["stated_leads"], row["stated_unit"]) for row in rows(tmp_path / "t.csv")]
    assert stated == [
        (500.0, ["I", "II", "V1"], "mV"),
        (250.5, ["Lead I", "Lead II"], "uV"),
        (None, ["I", "II"], None),
        (None, ["I", "II"], None),
        (None, None, None),
        (None, None, None),
    ]
    says = "the table's sampling rate is not a positive number"
    assert problems(tmp_path / "t.csv") == {"e": f"{says} (fast)", "f": f"{says} (0)"}
    frame = pd.DataFrame({"path": ["a.npy", "b.npy"], "sample_rate": [500, 400], "leads": [["I", "II"], []]})
    frame.to_parquet(tmp_path / "t.parquet")
    found = rows(tmp_path / "t.parquet")
    assert [(row["stated_sample_rate"], row["stated_leads"]) for row in found] == [(500.0, ["I", "II"]), (400.0, None)]


def test_a_row_with_a_problem_is_kept_with_it(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "folder/a.mat", "no ending")
    (tmp_path / "t.csv").write_text("path,record_id\na.mat,\n,\n,mine\nnotes.txt,\ngone.pdf,\nfolder,\nx\0y.mat,\n")
    assert problems(tmp_path / "t.csv") == {
        "t/row 2": "the table's row has no path",
        "mine": "the table's row has no path",
        "notes": "empty file",
        "gone": "a file is missing, and its extension is of no known format (gone.pdf)",
        "folder": "a file cannot be opened (folder: Is a directory)",
        "x\0y": "the table's path is not valid (it has a NUL character)",
    }


def test_a_path_without_a_known_extension_is_looked_at_or_the_name_of_a_wfdb_record(tmp_path: Path) -> None:
    touch(tmp_path, "sub/b.1.hea")
    (tmp_path / "1.2.840").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "t.csv").write_text("path\np1/s1/40689238\nsub/b.1\n1.2.840\n")
    found = [(row["record_id"], row["path"], row["format"]) for row in rows(tmp_path / "t.csv")]
    assert found == [
        ("p1/s1/40689238", f"{tmp_path}/p1/s1/40689238.hea", "wfdb"),
        ("sub/b.1", f"{tmp_path}/sub/b.1.hea", "wfdb"),
        ("1.2", f"{tmp_path}/1.2.840", "dicom"),
    ]


def test_further_columns_are_carried_along_with_their_types(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(
        b"\xef\xbb\xbfpath;age;code;number;when;day;paced;note;format;empty;\n"
        b"a.mat;70;007;12345678901234567890;2180-07-23 08:44:00;2024-01-02;True;x, y;pdf;;1\n"
        b"b.mat;NA;8;1;;;False;NA;;;2\n"
    )
    found = scan_inputs([str(tmp_path / "t.csv")]).recordings.drop_columns(schemas.MANIFEST.names)
    assert dict(zip(found.schema.names, found.schema.types, strict=True)) == {
        "age": pa.int64(),
        "code": pa.string(),
        "number": pa.string(),
        "when": pa.timestamp("s"),
        "day": pa.date32(),
        "paced": pa.bool_(),
        "note": pa.string(),
        "input_format": pa.string(),
        "empty": pa.string(),
        "column_11": pa.int64(),
    }
    assert found["age"].to_pylist() == [70, None]
    assert found["code"].to_pylist() == ["007", "8"]
    assert found["note"].to_pylist() == ["x, y", "NA"]


def test_columns_of_several_inputs_are_put_under_one_another(tmp_path: Path) -> None:
    touch(tmp_path, "in/z.mat")
    (tmp_path / "a.csv").write_text("path,age,sex,id\na.mat,70,1,9007199254740993\n")
    (tmp_path / "b.csv").write_text("path,sex,age,id\nb.mat,m,70.5,0.5\n")
    frame = pd.DataFrame({"path": ["c.mat"], "codes": [["x", "y"]], "sex": pd.Categorical(["f"])})
    frame.to_parquet(tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text("path,codes\nd.mat,x\n")
    found = scan_inputs([str(tmp_path / name) for name in ("in", "a.csv", "b.csv", "c.parquet", "d.csv")]).recordings
    columns = {name: found[name].to_pylist() for name in ("age", "sex", "id", "codes")}
    assert columns == {
        "age": [None, "70", "70.5", None, None],
        "sex": [None, "1", "m", "f", None],
        "id": [None, "9007199254740993", "0.5", None, None],
        "codes": [None, None, None, "['x', 'y']", "x"],
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"path\na.mat\nM\xfcnchen.mat\n", "cannot be read as a table"),
        (b"path,M\xfcnchen\na.mat,1\n", "cannot be read as a table"),
        (b"path,path\na.mat,b.mat\n", "it has two columns 'path'; rename one"),
        (b"path,age\na.mat\n", "cannot be read as a table"),
    ],
)
def test_an_invalid_table_is_a_mistake(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    said = mistake(tmp_path / "t.csv")
    assert said.startswith(f"input: {tmp_path}/t.csv")
    assert says in said


def test_an_invalid_parquet_table_or_one_without_texts(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing more")
    assert str(problems(tmp_path / "t.parquet")["t"]).startswith("not a readable Parquet file (")
    pd.DataFrame({"path": [["a.mat"]]}).to_parquet(tmp_path / "t.parquet")
    assert "its column 'path' holds no texts" in mistake(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"", "it is of another kind (empty file)"),
        (
            "t.csv",
            b"file,age\na.mat,70\n",
            "it looks like a table with the columns file, age, and no limb lead is among ",
        ),
        (
            "t.tsv",
            b"onset\tlabel\n0.5\tN\n",
            "it looks like a table with the columns onset, label, and no limb lead is ",
        ),
        ("t.csv", b"Name\nLead,Lead I\nUnit,uV\n\n0,1\n-0,2\n", "it looks like a text that begins with 'Name'"),
        ("t.txt", b"\nSome notes, and more.\n", "it looks like a text that begins with 'Some notes, and more.'"),
        ("t.csv", b"path,age\n", "it is a table of recordings without a row"),
        ("t.xml", b"<note>", "it is of another kind (XML of another kind (note))"),
        ("t.bin", bytes(99), "it is of another kind (no known format, .bin)"),
    ],
)
def test_a_file_that_is_neither_recording_nor_table_states_what_it_looks_like(
    name: str, content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert ids(path) == []
    assert write(tmp_path / "out", path) == 2
    said = capsys.readouterr().err
    assert f"error: input: '{path}' holds no recordings: {says}" in said
    assert "ecgpipe reads .bdf" in said
    assert "table of recordings by its column `path`" in said


def test_a_parquet_file_of_something_else_states_its_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({f"c{number}": [1.0] for number in range(12)}).to_parquet(tmp_path / "t.parquet")
    assert write(tmp_path / "out", tmp_path / "t.parquet") == 2
    assert (
        "a table with the columns c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ..., and no limb" in capsys.readouterr().err
    )


def test_a_file_that_is_a_recording_is_one_whatever_its_columns_are_called(tmp_path: Path) -> None:
    rows_of_numbers = "1,1,1,2,3,4,5,6\n" * 3
    (tmp_path / "numbers.csv").write_text(rows_of_numbers)
    (tmp_path / "preamble.csv").write_text("# a\n\ntime,I,II\n0,1,2\n")
    pd.DataFrame({"I": [1.0], "II": [2.0]}).to_parquet(tmp_path / "signals.parquet")
    for name in ("numbers.csv", "preamble.csv", "signals.parquet"):
        [row] = rows(tmp_path / name)
        assert (row["record_id"], row["format"]) == (Path(name).stem, Path(name).suffix[1:])


def test_a_given_file_that_is_ignored_beside_recordings_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "in/a.mat")
    (tmp_path / "t.csv").write_text("file\nin/a.mat\n")
    (tmp_path / "u.csv").write_text("path\nin/a.mat\n")
    assert write(tmp_path / "out", tmp_path / "in", tmp_path / "t.csv") == 0
    assert f"input: {tmp_path}/t.csv is ignored: table without a column for each lead" in capsys.readouterr().err
    assert write(tmp_path / "out", tmp_path / "u.csv") == 0
    assert "is ignored" not in capsys.readouterr().err


def test_an_empty_table_has_no_recordings(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,leads,sample_rate,age\n")
    assert ids(tmp_path / "t.csv") == []


def test_a_table_as_excel_saves_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path\tname\na.mat\tJosé\n".encode("utf-16"))
    assert [(row["record_id"], row["name"]) for row in rows(tmp_path / "t.csv")] == [("a", "José")]


# Shards


@pytest.mark.parametrize(("shard_size", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (1000, [7])])
def test_shards_are_cut_in_order(shard_size: int, sizes: list[int], tmp_path: Path) -> None:
    touch(tmp_path, *(f"in/{number}.mat" for number in range(7)), "in/notes.txt")
    assert write(tmp_path / "out", tmp_path / "in", shard_size=shard_size) == 0
    shards = parquet.numbered(tmp_path / "out", "shard", None)
    assert [path.name for path in shards] == [f"shard-{number:05d}.parquet" for number in range(len(sizes))]
    read = [pq.read_table(path) for path in shards]
    assert [len(table) for table in read] == sizes
    assert all(table.schema == schemas.MANIFEST for table in read)
    assert [record_id for table in read for record_id in table["record_id"].to_pylist()] == list("0123456")
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    sha256s = "".join(hashlib.sha256(path.read_bytes()).hexdigest() + "\n" for path in shards)
    assert content.pop("settings").keys() == {"manifest"}
    assert content == {
        "n_recordings": 7,
        "n_shards": len(sizes),
        "shard_size": shard_size,
        "files": {"recording": 7, "part": 0, "ignored": 1},
        "ignored": {"empty file": 1},
        "layouts": [],
        "metadata": [],
        "not_on_disk": 0,
        "scans": [{"recordings": 7, "added": 7, "changed": 0, "removed": 0}],
        "sha256": hashlib.sha256(sha256s.encode()).hexdigest(),
    }


def test_every_shard_has_the_same_columns(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.mat", "in/b.mat")
    (tmp_path / "t.csv").write_text("path,age\nc.mat,70\n")
    assert write(tmp_path / "out", tmp_path / "in", tmp_path / "t.csv", shard_size=1) == 0
    found = [pq.read_schema(path) for path in parquet.numbered(tmp_path / "out", "shard", 3)]
    assert found == [schemas.MANIFEST.append(pa.field("age", pa.int64()))] * 3


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"in/{number}.mat" for number in range(5)), "in/x.txt")
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


@given(below=NAMES, name=NAMES, suffix=st.sampled_from([*sorted(SUFFIXES), ".MAT", ".dat", ""]))
@example(below="a.hea", name="x", suffix=".mat")
@example(below="-", name="--input", suffix=".npz")
@example(below=" ", name=" .", suffix=".npy")
@settings(deadline=None, max_examples=100)
def test_any_name_is_counted_once(below: str, name: str, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("names")
    touch(root, f"{below}/{name}{suffix}")
    accounted = files(root)
    assert list(accounted) == [f"{below}/" if below.startswith(".") else f"{below}/{name}{suffix}"]
    for row in rows(root):
        assert Path(str(row["path"])).is_file()
        if row["problem"] is None:
            assert str(row["record_id"]) + Path(str(row["path"])).suffix == f"{below}/{name}{suffix}"


@example(content=b"/", head=b"path\n")  # no name is left of it for an id
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


# Packages that are not installed


def test_files_whose_package_is_missing_say_which_and_are_changed_ones_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.npz").write_bytes(CONTENT[".npz"])
    (folder / "b.edf").write_bytes(b"0".ljust(256))
    with h5py.File(folder / "c.h5", "w") as file:
        file["x"] = np.zeros((2, 12, 9))
    (tmp_path / "table.csv").write_text("path,record_id\nin/a.npz,A\nin/b.edf,B\n")
    monkeypatch.setattr(readers, "is_installed", lambda package: package not in ("edfio", "h5py"))
    says = {
        name: f"reading {name} takes the package {package}, which is not installed; install it with: "
        f"pip install 'ecgpipe[{extra}]'"
        for name, package, extra in (("edf", "edfio", "edf"), ("hdf5", "h5py", "hdf5"))
    }
    assert {row["record_id"]: row["problem"] for row in rows(folder)} == {
        "a": None, "b": says["edf"], "c": says["hdf5"],
    }  # fmt: skip
    assert {row["record_id"]: row["problem"] for row in rows(tmp_path / "table.csv")} == {"A": None, "B": says["edf"]}

    assert main(["manifest", "--input", str(folder), "--outdir", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert f"2 of the recordings cannot be read: 1 {says['edf']}, 1 {says['hdf5']}" in said
    monkeypatch.undo()
    assert main(["manifest", "--input", str(folder), "--outdir", str(tmp_path / "out")]) == 0
    assert "changed since the last run: 1 (b)" in capsys.readouterr().err
    shards = [pq.read_table(path).to_pylist() for path in sorted((tmp_path / "out").glob("shard-*.parquet"))]
    assert {row["record_id"]: row["format"] for shard in shards for row in shard} == {
        "a": "numpy", "b": "edf", "c/0": "hdf5", "c/1": "hdf5",
    }  # fmt: skip
