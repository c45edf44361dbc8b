"""What a machine or a file server lacks for a moment is not taken for a fault of the file; what lasts is."""

import contextlib
import errno
import os
import resource
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from never_ending import compute, wait
from vendor_files import cardiosoft_xml

from ecgpipe import readers
from ecgpipe.cli import main
from ecgpipe.core import parquet, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inputs import incremental
from ecgpipe.inputs.scan import scan_inputs
from ecgpipe.preprocessing import preprocess
from ecgpipe.readers import (
    FORMATS,
    LEADS,
    Assumed,
    UnavailableError,
    UnreadableError,
    isolation,
    reading_process,
    temporary_errors,
    wfdb,
)
from ecgpipe.readers.detect import SUFFIXES
from ecgpipe.readers.temporary_errors import momentary, patiently

ENDINGS = {name: suffix for suffix, name in SUFFIXES.items()} | {"csv": ".csv", "parquet": ".parquet"}

# A regular file, as the system says, whose reading ends with EIO.
BROKEN = Path("/proc/self/mem")
linux = pytest.mark.skipif(not BROKEN.exists(), reason=f"there is no {BROKEN}")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary_errors, "PAUSES_S", (0.0, 0.0))


def cause_of(error: Exception, why: Exception) -> Exception:
    """The first error, raised because of the second."""
    try:
        raise error from why
    except type(error) as caught:
        return caught


def test_errors_of_the_moment_are_those_of_networks_disks_and_limits() -> None:
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EAGAIN", "EMFILE", "ENFILE", "ENOTCONN", "ECONNRESET"):
        assert momentary(OSError(getattr(errno, name), "x")), name
    assert momentary(TimeoutError("x"))
    for name in ("ENOENT", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "EINVAL", "ENOSPC"):
        assert momentary(OSError(getattr(errno, name), "x")) is None, name
    assert momentary(ValueError("x")) is None


def test_what_an_error_was_caused_by_counts() -> None:
    why = OSError(errno.EIO, "x")
    assert momentary(cause_of(UnreadableError("not a readable file"), why)) is why
    assert momentary(cause_of(UnreadableError("x"), cause_of(ValueError("y"), why))) is why
    assert momentary(cause_of(UnreadableError("x"), ValueError("y"))) is None


def test_an_error_of_the_moment_is_waited_for_and_another_not() -> None:
    left = [OSError(errno.EIO, "x"), cause_of(UnreadableError("x"), OSError(errno.ESTALE, "x"))]

    def work() -> str:
        if left:
            raise left.pop()
        return "read"

    assert patiently(work, "a.xml") == "read"
    left[:] = [OSError(errno.EIO, "Input/output error")] * 3
    with pytest.raises(UnavailableError) as caught:
        patiently(work, "/data/a.xml")
    assert str(caught.value) == "a file cannot be read at the moment (/data/a.xml: Input/output error)"
    for error in (FileNotFoundError(errno.ENOENT, "x"), UnreadableError("damaged"), ValueError("x")):
        left[:] = [OSError(errno.EIO, "would come next"), error]
        with pytest.raises(type(error)) as other:
            patiently(work, "a.xml")
        assert other.value is error


# Readers


@contextlib.contextmanager
def no_file_can_be_opened(format_name: str) -> Iterator[None]:
    """This process has as many files open as it may have; where another one reads, that one."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if format_name == "hdf5":
        helper = reading_process._helpers[os.getpid()].process.pid
        resource.prlimit(helper, resource.RLIMIT_NOFILE, (3, limits[1]))
        yield
        resource.prlimit(helper, resource.RLIMIT_NOFILE, limits)
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no prlimit")
@pytest.mark.parametrize("format_name", FORMATS)
def test_no_reader_takes_it_for_a_fault_of_the_file_that_no_more_files_can_be_opened(
    format_name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x{ENDINGS.get(format_name, '.xml')}"
    path.write_bytes(bytes(600))

    def said() -> str:
        with pytest.raises(UnreadableError) as caught:
            readers.read(path, format_name, Assumed(500.0, LEADS))
        assert not isinstance(caught.value, UnavailableError)
        return str(caught.value)

    before = said()  # what the reader imports is imported now
    with no_file_can_be_opened(format_name), pytest.raises(UnavailableError) as caught:
        readers.read(path, format_name, Assumed(500.0, LEADS))
    assert str(path) in str(caught.value)
    assert said() == before


# A shard


def recordings(folder: Path) -> Path:
    """A shard of three recordings, of which the second cannot be read now."""
    signal = np.cumsum(np.random.default_rng(0).normal(0, 0.02, (12, 2500)), axis=1)
    for name in "ac":
        cardiosoft_xml(folder / f"{name}.xml", signal, 500, LEADS)
    cardiosoft_xml(folder / "sound", signal, 500, LEADS)
    (folder / "b.xml").symlink_to(BROKEN)
    rows = [{"record_id": name, "path": str(folder / f"{name}.xml"), "format": "cardiosoft-xml"} for name in "abc"]
    parquet.write(folder / "shard-00000.parquet", schemas.MANIFEST.empty_table().from_pylist(rows, schemas.MANIFEST))
    return folder / "b.xml"


def heal(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "sound")


def preprocessed(folder: Path) -> int:
    written = ["--segments", str(folder / "out" / "x.arrow"), "--records", str(folder / "out" / "x.parquet")]
    return main(["preprocess", "--shard", str(folder / "shard-00000.parquet"), *written])


def statuses(folder: Path) -> list[str]:
    found: list[str] = pq.read_table(folder / "out" / "x.parquet")["status"].to_pylist()
    return found


@linux
def test_of_a_shard_with_a_file_that_cannot_be_read_now_nothing_is_recorded_and_the_next_run_reads_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recordings(tmp_path)
    assert preprocessed(tmp_path) == 2
    assert not any((tmp_path / "out").iterdir())
    says = f"error: input: a file cannot be read at the moment ({path}: Input/output error); nothing is recorded of"
    assert says in capfd.readouterr().err
    heal(path)
    assert preprocessed(tmp_path) == 0
    assert statuses(tmp_path) == ["ok", "ok", "ok"]


@linux
def test_a_file_that_can_be_read_after_a_pause_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recordings(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _: heal(path))
    assert preprocessed(tmp_path) == 0
    assert statuses(tmp_path) == ["ok", "ok", "ok"]


@linux
def test_so_many_files_are_waited_for_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recordings(tmp_path)
    monkeypatch.setattr(preprocess, "MOST_UNAVAILABLE", 2)
    for name in "ac":
        (tmp_path / f"{name}.xml").unlink()
        (tmp_path / f"{name}.xml").symlink_to(BROKEN)
    assert preprocessed(tmp_path) == 2
    said = capfd.readouterr().err
    assert "a.xml: Input/output error), and 1 more of shard-00000; nothing" in said
    assert "c.xml" not in said


def test_a_file_that_is_waited_for_in_vain_ends_the_shard_and_one_that_is_computed_for_ever_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recordings(tmp_path)
    heal(path)
    monkeypatch.setattr(isolation, "crashes", partial(isolation.crashes, cpu_s=1.5, wall_s=3))
    read = readers.read
    bad = wait

    def slow(found: Path, *arguments: object) -> readers.Recording:
        if found == path:
            bad()
        return read(found, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(readers, "read", slow)
    assert preprocessed(tmp_path) == 2
    assert f"error: input: {path} was waited for 2 times for 3 s: its disk or file server" in capfd.readouterr().err
    assert not any((tmp_path / "out").iterdir())
    bad = compute
    monkeypatch.setattr(isolation, "crashes", partial(isolation.crashes, wall_s=60))
    assert preprocessed(tmp_path) == 0
    assert statuses(tmp_path) == ["ok", "failed", "ok"]
    assert pq.read_table(tmp_path / "out" / "x.parquet")["reason"][1].as_py() == (
        "reading it took longer than 1.5 s of computing"
    )


@linux
def test_inspect_says_that_a_file_cannot_be_read_now(tmp_path: Path) -> None:
    from ecgpipe.api.inspect import describe
    from ecgpipe.preprocessing.segments import Windows

    path = recordings(tmp_path)
    row = dict.fromkeys(schemas.MANIFEST.names) | {
        "record_id": "b", "path": str(path), "format": "cardiosoft-xml",
    }  # fmt: skip
    assert describe(row, Windows(), Assumed()) == [
        f"b: not available, a file cannot be read at the moment ({path}: Input/output error)"
    ]


# The scan


@linux
@pytest.mark.parametrize("table", [False, True])
def test_a_scan_that_cannot_look_at_a_file_now_ends_and_says_so(table: bool, tmp_path: Path) -> None:
    path = recordings(tmp_path)
    given = tmp_path
    if table:
        given = tmp_path / "table.csv"
        given.write_text(f"path\n{path}\n")
    with pytest.raises(EcgpipeError) as caught:
        scan_inputs([str(given)])
    assert str(caught.value).startswith(
        f"input: a file cannot be read at the moment ({path}: Input/output error); noth"
    )


def test_a_scan_that_cannot_look_into_a_folder_now_ends_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    scandir = os.scandir

    def lost(path: str) -> object:
        if path.endswith("/b"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", lost)
    with pytest.raises(EcgpipeError, match=r"cannot be read at the moment \(.*/a/b: "):
        scan_inputs([str(tmp_path)])


def test_a_header_that_cannot_be_read_now_is_not_taken_for_one_that_names_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.hea").write_text("x 1 500 10\ny.dat 16 200 16 0 0 0 0 I\n")
    (tmp_path / "y.dat").write_bytes(bytes(20))
    assert wfdb.parts(tmp_path / "x.hea") == ["y.dat"]

    def lost(*_: object) -> bytes:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    monkeypatch.setattr(wfdb, "read_bytes", lost)
    with pytest.raises(EcgpipeError, match=r"cannot be read at the moment \(.*x.hea: Connection timed out"):
        scan_inputs([str(tmp_path)])


def test_a_file_that_cannot_be_looked_at_now_has_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.npy").touch()
    assert incremental._read_stamp(str(tmp_path / "x.npy"))[0] == 0
    assert incremental._read_stamp(str(tmp_path / "y.npy")) == (-1, -1)

    stat = os.stat

    def lost(path: str, **options: bool) -> object:
        if str(path).endswith("x.npy"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", lost)
    with pytest.raises(UnavailableError):
        incremental._read_stamp(str(tmp_path / "x.npy"))
