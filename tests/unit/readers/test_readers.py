"""The readers behind one interface: what they all do with what is no file, or no file of theirs."""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe import readers
from ecgpipe.readers import FORMATS, LEADS, Assumed, UnreadableError
from ecgpipe.readers.detect import SUFFIXES

ASSUMED = Assumed(500.0, LEADS)
SIGNAL = np.random.default_rng(0).standard_normal((12, 50))  # mV, in the order of LEADS
ENDINGS = {name: suffix for suffix, name in SUFFIXES.items()} | {"csv": ".csv", "parquet": ".parquet"}


def says(path: Path, format_name: str) -> str:
    with pytest.raises(UnreadableError) as caught:
        readers.read(path, format_name, ASSUMED)
    return str(caught.value)


def path_of(folder: Path, format_name: str) -> Path:
    return folder / f"x{ENDINGS.get(format_name, '.xml')}"


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_that_has_gone_is_told_by_name(format_name: str, tmp_path: Path) -> None:
    path = path_of(tmp_path, format_name)
    assert says(path, format_name) == f"a file is not there ({path.name})"
    if FORMATS[format_name].many:
        with pytest.raises(UnreadableError, match="a file is not there"):
            readers.contents(path, format_name)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_that_nobody_may_read_is_told_by_name(format_name: str) -> None:
    user = os.geteuid()
    if user == 0 and format_name == "hdf5":
        pytest.skip("root may read everything, and another user cannot start the process that reads HDF5")
    with tempfile.TemporaryDirectory() as folder:
        path = path_of(Path(folder), format_name)
        path.touch()
        assert says(path, format_name)  # what the reader imports is imported now
        path.chmod(0)
        Path(folder).chmod(0o755)
        try:
            if user == 0:
                os.seteuid(65534)
            assert says(path, format_name) == f"no permission to read a file ({path.name})"
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_folder_is_unreadable(format_name: str, tmp_path: Path) -> None:
    path = path_of(tmp_path, format_name)
    path.mkdir()
    assert says(path, format_name)


@pytest.mark.parametrize("format_name", ["wfdb", "mat", "numpy", "csv", "parquet"])
def test_pipes_devices_and_links_in_a_loop_are_not_opened(format_name: str, tmp_path: Path) -> None:
    path = path_of(tmp_path, format_name)
    os.mkfifo(path)
    assert says(path, format_name).startswith("not a file that holds anything (")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert says(path, format_name).startswith("not a file that holds anything (")
    path.unlink()
    path.symlink_to(path.name)
    assert says(path, format_name).startswith("not a file that can be opened (")


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\0", bytes(10_000), b"one line of text\n", b"\xff" * 300])
def test_a_file_of_something_else_is_unreadable(format_name: str, content: bytes, tmp_path: Path) -> None:
    path = path_of(tmp_path, format_name)
    path.write_bytes(content)
    assert says(path, format_name)


class Missing:
    """Makes an import fail as it does without the package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("format_name", [name for name, form in FORMATS.items() if form.needs])
def test_a_package_that_is_missing_is_named_with_its_extra(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMATS[format_name]
    readers_of = {f"ecgpipe.readers.{other.module}" for other in FORMATS.values() if other.needs == form.needs}
    # And what these share, which imports the package too.
    readers_of |= {f"ecgpipe.readers.{name}" for name in ("hdf5_file", "vendor_rates", "vendor_xml")}
    for module in list(sys.modules):
        if module in readers_of or module.startswith(f"{form.needs}."):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, str(form.needs), raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(str(form.needs)), *sys.meta_path])
    (tmp_path / "x").touch()
    reason = says(tmp_path / "x", format_name)
    assert f"the package {form.needs}, which is not installed" in reason
    assert reason.endswith(f"pip install 'ecgpipe[{form.extra}]'")


# Whatever is in it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Valid files by name; small.hea belongs to small.dat, which stands beside it."""
    made = tmp_path_factory.mktemp("valid")
    np.save(made / "bare.npy", SIGNAL)
    np.save(made / "many.npy", SIGNAL[None])
    np.savez(made / "plain.npz", signal=SIGNAL, sample_rate=500, leads=LEADS)
    np.savez_compressed(made / "packed.npz", signal=SIGNAL, sample_rate=500, leads=LEADS, unit="mV")
    content = {"feats": SIGNAL, "curr_sample_rate": 500}
    scipy.io.savemat(made / "plain.mat", content)
    scipy.io.savemat(made / "packed.mat", content, do_compression=True)
    scipy.io.savemat(made / "four.mat", content, format="4")
    names = {"sig_name": list(LEADS), "units": ["mV"] * 12, "fmt": ["16"] * 12}
    wfdb.wrsamp("small", fs=500, p_signal=SIGNAL.T, write_dir=str(made), **names)
    return {path.name: path.read_bytes() for path in made.iterdir()}


def assert_read_or_unreadable(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    format_name = SUFFIXES[path.suffix]
    try:
        recording = readers.read(path, format_name, ASSUMED)
        if FORMATS[format_name].many:
            readers.contents(path, format_name)
    except UnreadableError:
        pass
    else:
        assert recording.signal.dtype == np.float64
        assert recording.signal.shape[0] == len(recording.leads)


# scipy's MAT reader is left out: a damaged type number in a file of version 5 ends the whole process.
MAGIC = [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"x 12 500 300\n"]


@given(magic=st.sampled_from(MAGIC), content=st.binary(max_size=300), suffix=st.sampled_from([".hea", ".npy", ".npz"]))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_read_or_unreadable(magic: bytes, content: bytes, suffix: str, folder: Path) -> None:
    assert_read_or_unreadable(folder / f"x{suffix}", magic + content)


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_any_cut_off_file_is_read_or_unreadable(data: st.DataObject, valid: dict[str, bytes], folder: Path) -> None:
    name = data.draw(st.sampled_from(sorted(valid)))
    content = valid[name][: data.draw(st.integers(0, len(valid[name]) - 1))]
    for other in ("small.hea", "small.dat"):
        (folder / other).write_bytes(valid[other])
    if name == "small.dat":
        (folder / name).write_bytes(content)
        name, content = "small.hea", valid["small.hea"]
    assert_read_or_unreadable(folder / name, content)


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_any_damaged_file_is_read_or_unreadable(data: st.DataObject, valid: dict[str, bytes], folder: Path) -> None:
    name = data.draw(st.sampled_from(["bare.npy", "many.npy", "plain.npz", "packed.npz", "small.hea"]))
    content = bytearray(valid[name])
    damage = st.tuples(st.integers(0, min(len(content), 700) - 1), st.integers(0, 255))
    for position, byte in data.draw(st.lists(damage, min_size=1, max_size=5)):
        content[position] = byte
    (folder / "small.dat").write_bytes(valid["small.dat"])
    assert_read_or_unreadable(folder / name, bytes(content))
