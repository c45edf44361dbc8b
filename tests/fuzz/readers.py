"""Coverage-guided fuzzing of the readers that parse by themselves: python tests/fuzz/readers.py TARGET [OPTION ...].

A target is `wfdb`, `detect`, `csv`, `mat`, `filling`, `cardiosoft` or `ishne`; the options are libFuzzer's. Whatever
the bytes, a reader gives a recording or an UnreadableError; anything else ends the fuzzing with the bytes in a file
named crash-*. `make fuzz` runs each target for a minute.
"""

import contextlib
import math
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePath

import atheris
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
import vendor_files

with atheris.instrument_imports(include=["ecgpipe"]):
    from ecgpipe import readers
    from ecgpipe.readers import Assumed, UnreadableError, detect, spell_leads
    from ecgpipe.readers import mat as mat_reader
    from ecgpipe.readers import wfdb as wfdb_reader

FOLDER = Path(tempfile.mkdtemp(prefix="ecgpipe-fuzz-"))


def wfdb(data: bytes) -> None:
    """A header, and 4 KB of signals beside it under the names that headers of the corpus use."""
    (FOLDER / "x.hea").write_bytes(data)
    if not (FOLDER / "x.dat").exists():
        (FOLDER / "x.dat").write_bytes(bytes(range(256)) * 16)
    names = wfdb_reader.parts(FOLDER / "x.hea")
    assert all("/" not in name and "\\" not in name for name in names), names
    wfdb_reader.comments(FOLDER / "x.hea")
    _read(FOLDER / "x.hea", "wfdb")


def detect_format(data: bytes) -> None:
    """The first bytes of a file."""
    for name in ("x", "x.xml", "x.csv"):
        found = detect.format_of(PurePath(name), data)
        assert found is None or found in readers.FORMATS
        assert found or detect.what_else(PurePath(name), data)
    spell_leads(detect.csv_columns(data))


def csv(data: bytes) -> None:
    """A recording as a CSV file."""
    _write_and_read("x.csv", data, "csv")


def cardiosoft(data: bytes) -> None:
    """A CardioSoft XML file."""
    _write_and_read("x.xml", data, "cardiosoft-xml")


def ishne(data: bytes) -> None:
    """An ISHNE file; without a checksum, which would end every attempt."""
    _write_and_read("x.ecg", data[:8] + b"\0\0" + data[10:], "ishne")


def _write_and_read(name: str, data: bytes, format_name: str) -> None:
    (FOLDER / name).write_bytes(data)
    _read(FOLDER / name, format_name)


def _read(path: Path, format_name: str) -> None:
    with contextlib.suppress(UnreadableError):
        recording = readers.read(path, format_name, Assumed(500.0, None, None))
        assert recording.signal.shape[0] == len(recording.leads)
        assert recording.signal.dtype == "float64"
        assert recording.sample_rate > 0
        assert math.isfinite(recording.sample_rate)
        assert recording.stripped_s >= 0


LEADS = "I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6"
SEEDS: dict[str, list[str | bytes]] = {
    "wfdb": [
        "x 12 500 170\n" + "".join(f"x.dat 16 200/mV 16 0 0 0 0 {lead}\n" for lead in LEADS.split(",")) + "# Age: 74\n",
        "x 2 250 100\nx.dat 212 100(5)/uV 12 0 0 0 0 I\nx.dat 212 100(5)/uV 12 0 0 0 0 II\n",
        "x/2 2 250 200\nx_1 100\n~ 100\n",
    ],
    "detect": ["<?xml version='1.0'?><!-- a --><RestingECG>", LEADS + "\n1,2", "x 12 500 5000\n"],
    "mat": [
        # feats, 2 x 3 of int16: matrix, flags, shape, name, values.
        struct.pack("<2I 4I 2I2i 2I8s 2I6h4x", 14, 72, 6, 8, 10, 0, 5, 8, 2, 3, 1, 5, b"feats", 3, 12, *range(6)),
        struct.pack("<2I 4I 2I2i I4s Id4x", 14, 56, 6, 8, 6, 0, 5, 8, 1, 1, 2 << 16 | 1, b"fs", 9, 500.0),
    ],
    "csv": [
        "time," + LEADS + "\n" + "".join(f"{i / 500},{i}" + ",1.5" * 11 + "\n" for i in range(4)),
        "I (mV);II\n1,5;2\n",
        "# a\n\ntime,I,II\ns,mV,mV\n" + "".join(f"10:00:00.{i:03d},{i},0\n" for i in range(0, 8, 2)),
        "#I,II\n1,2\n3,\n",
    ],
    "filling": [struct.pack("<2B24d", 2, 3, *range(24)), struct.pack("<2B24d", 12, 0, *[0.0] * 12, *range(12))],
}


def of_vendor(write: Callable[[Path, np.ndarray, int, tuple[str, ...]], object], leads: int) -> bytes:
    """A small file as the vendor's software would write it."""
    write(FOLDER / "seed", np.arange(4.0 * leads).reshape(leads, 4) / 10, 500, tuple(LEADS.split(",")[:leads]))
    return (FOLDER / "seed").read_bytes()


SEEDS["cardiosoft"] = [of_vendor(vendor_files.cardiosoft_xml, leads) for leads in (12, 1)]
SEEDS["ishne"] = [of_vendor(vendor_files.ishne, leads) for leads in (12, 1)]


def mat(data: bytes) -> None:
    """The matrices of an uncompressed MATLAB file; scipy is not asked, which crashes on some."""
    for array in (mat_reader._plain(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + data) or {}).values():
        assert array.nbytes <= len(data)


def filling(data: bytes) -> None:
    """Any samples: the number of leads, how often each value is repeated, then the values, by sample."""
    if len(data) < 2:
        return
    leads, times = data[0] % 12 + 1, data[1] + 1
    values = np.frombuffer(data[2 : 2 + (len(data) - 2) // 8 * 8], "<f8")
    signal = np.repeat(values[: len(values) // leads * leads].reshape(-1, leads).T, times, axis=1)
    limits = np.tile([-32.768, 32.767], (leads, 1))
    names = tuple(LEADS.split(",")[:leads])
    for stated in (None, limits):
        found = readers.without_filling(readers.Recording(signal, 500.0, names, "mV", limits=stated))
        left = round(found.stripped_s * 500)
        assert found.signal.shape == (leads, signal.shape[1] - left)
        assert found.signal.shape[1] > 0 or signal.shape[1] == 0


TARGETS = {
    "wfdb": wfdb, "detect": detect_format, "csv": csv, "mat": mat, "filling": filling, "cardiosoft": cardiosoft,
    "ishne": ishne,
}  # fmt: skip

if __name__ == "__main__":
    chosen = sys.argv.pop(1)
    seeds = FOLDER / "seeds"
    seeds.mkdir()
    for number, seed in enumerate(SEEDS[chosen]):
        (seeds / str(number)).write_bytes(seed if isinstance(seed, bytes) else seed.encode())
    atheris.Setup([*sys.argv, str(seeds)], TARGETS[chosen])
    atheris.Fuzz()
