"""Recordings of any kind that Python has, one after the other, ready for the model; nothing here loads PyTorch."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ecgpipe import readers
from ecgpipe.api import arrays
from ecgpipe.api.recording import Recording
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.preprocessing.segments import Prepared, UnusableError, Windows, prepare
from ecgpipe.readers import Assumed

# What `ECGFM` takes: a path, a Recording, a DataFrame, an array, or a list of these. NumPy's ArrayLike alone would
# refuse lists of arrays.
Signal = Any

# How to fix a recording that cannot be used, by the beginning of the reason.
FIXES = {
    "shorter than one segment": "give a longer recording, Windows(short='pad') or a smaller segment_s",
    "too short to be padded": "give a longer recording, or a smaller segment_s",
    "the recording has no samples": "leave it out",
    "NaN or infinite samples": "cut them out or fill them in, as fits your study",
    "leads missing": "Windows(missing_leads='zero') takes zeros for them",
    "a single lead": "Windows(missing_leads='zero', min_leads=1) takes zeros for the others",
    "too few leads": "Windows(missing_leads='zero', min_leads=1) takes zeros for the others",
    "a lead is there twice": "give each lead once",
    "too long": "cut it into pieces",
    "the file states no sampling rate": "give sample_rate= if you know it",
    "the file names no leads": "give leads= if you know their order",
    "the file states no unit": "give unit= if you know it",
}


class Entry(NamedTuple):
    """A recording, ready for the model, or why it is not."""

    name: int | str  # its number among those given, or its id
    prepared: Prepared | None
    path: str | None = None
    status: str = "ok"  # or skipped, or failed
    reason: str | None = None
    where: str = "signal: "  # of messages

    @property
    def error(self) -> EcgpipeError:
        """The reason with the place and how to fix it."""
        reason = str(self.reason).partition("; set preprocess.")[0]  # a setting, which Python does not have
        fix = next((fix for start, fix in FIXES.items() if reason.startswith(start)), None)
        if fix is None and "; " not in reason:
            fix = "leave it out"
        return EcgpipeError(f"{self.where}{reason}" + (f"; {fix}" if fix else ""))


class Source(NamedTuple):
    """The recordings that were given."""

    total: int
    entries: Callable[[Windows], Iterator[Entry]]


def open_source(
    signal: Signal,
    sample_rate: float | Sequence[float] | None,
    leads: Sequence[str] | None,
    unit: str | None,
    ids: Sequence[str] | None,
    assumed: Assumed,
) -> Source:
    """Take recordings of any kind.

    Args:
        signal: A path, an array, a DataFrame, a `Recording`, or a list of one of these.
        sample_rate: In Hz: of arrays and DataFrames; of files that do not state it.
        leads: Names of the rows of arrays; of the leads of files that do not name them.
        unit: Of arrays and DataFrames; of files that do not state it.
        ids: Names of the recordings; None: numbers, and of files their ids.
        assumed: What is assumed of files where the arguments say nothing.

    Returns:
        The recordings. A file is read when its turn comes.

    Raises:
        EcgpipeError: An argument is not valid.
    """
    items = list(signal) if isinstance(signal, list | tuple) else [signal]
    if items and all(isinstance(item, str | os.PathLike) for item in items):
        if ids is not None:
            raise EcgpipeError("ids: files have their own; leave ids out")
        return _open_files([os.path.expanduser(item) for item in items], sample_rate, leads, unit, assumed)  # noqa: PTH111
    if items and all(_is_self_described(item) for item in items):
        return _open_described(items, items is not signal and isinstance(signal, list | tuple), sample_rate, unit, ids)
    if any(isinstance(item, str | os.PathLike) or _is_self_described(item) for item in items):
        raise EcgpipeError("signal: a list of paths, of Recordings and DataFrames, or of arrays; give one kind a call")
    values, is_several = arrays.split_recordings(signal)
    if sample_rate is None:
        raise EcgpipeError("sample_rate: missing; give the sampling rate of the arrays in Hz")
    rates = arrays.check_rates(sample_rate, len(values), is_several)
    if leads is None:
        raise EcgpipeError("leads: missing; give the names of the arrays' rows, such as ['I', 'II', 'V1']")
    names = arrays.check_leads(leads)
    makes = [partial(arrays.from_array, each, rate, names, unit) for each, rate in zip(values, rates, strict=True)]
    return _open_in_memory(makes, _check_ids(ids, len(values)), unit, needs_unit=True)


def _is_self_described(item: object) -> bool:
    """Whether an item names its own leads: a `Recording` or a pandas DataFrame."""
    return isinstance(item, Recording) or (hasattr(item, "columns") and hasattr(item, "iloc"))


def _open_described(
    items: Sequence[Any],
    is_several: bool,
    sample_rate: float | Sequence[float] | None,
    unit: str | None,
    ids: Sequence[str] | None,
) -> Source:
    """Take Recordings and DataFrames."""
    rates: list[float | None] = [None] * len(items)
    if sample_rate is not None:
        rates = [*arrays.check_rates(sample_rate, len(items), is_several)]
    makes: list[Callable[[], readers.Recording]] = []
    for item, rate in zip(items, rates, strict=True):
        if isinstance(item, Recording):
            if rate is not None and rate != item.sample_rate:
                raise EcgpipeError(
                    f"sample_rate: {rate:g}, but the Recording has {item.sample_rate:g} Hz; leave sample_rate out"
                )
            makes.append(partial(_from_recording, item, unit))
        else:
            makes.append(partial(arrays.from_frame, item, rate, unit))
    own = [item.name for item in items if isinstance(item, Recording)]
    if ids is None and len(own) == len(items) and len(set(own)) == len(own) and all(own):
        ids = own
    return _open_in_memory(makes, _check_ids(ids, len(items)), unit, needs_unit=False)


def _from_recording(recording: Recording, unit: str | None) -> readers.Recording:
    """As the readers have it, with a unit where it has none."""
    signal, own = recording.signal, recording.unit
    if own is None and unit is not None:
        signal, own = readers.recording.in_mv(signal, [unit] * len(signal))
    return readers.without_filling(readers.Recording(signal, recording.sample_rate, recording.leads, own))


def _open_in_memory(
    makes: Sequence[Callable[[], readers.Recording]], names: Sequence[int | str], unit: str | None, needs_unit: bool
) -> Source:
    """Take recordings that are in memory."""

    def entries(windows: Windows) -> Iterator[Entry]:
        if needs_unit or unit is not None:
            arrays.check_unit(unit, windows)
        for name, make in zip(names, makes, strict=True):
            where = f"signal: recording {name}: " if len(makes) > 1 else "signal: "
            try:
                recording = make()
                if recording.unit is None and windows.model_input.unit is not None:
                    raise UnusableError(
                        "no unit, and the model needs millivolts; give unit=, or name a DataFrame's columns 'V1 (mV)'"
                    )
                yield Entry(name, prepare(recording, windows, {}))
            except UnusableError as error:
                yield Entry(name, None, None, "skipped", str(error), where)

    return Source(len(makes), entries)


def _open_files(
    paths: Sequence[str],
    sample_rate: float | Sequence[float] | None,
    leads: Sequence[str] | None,
    unit: str | None,
    assumed: Assumed,
) -> Source:
    """Take files, folders, globs and tables."""
    from ecgpipe.api import files  # here, because pandas and the scan take a second

    if sample_rate is not None:
        assumed = assumed._replace(sample_rate=arrays.check_rate(sample_rate))
    if leads is not None:
        assumed = assumed._replace(leads=arrays.check_names(leads))
    if unit is not None:
        stated = {"mv": "mV", "uv": "uV", "v": "V", "nv": "nV"}.get(str(unit).lower())
        if stated is None:
            raise EcgpipeError(f"unit: {unit!r} is not known; give mV, uV, V or nV")
        assumed = assumed._replace(unit=stated)
    found = files.find_recordings(paths)
    rows = found.recordings
    names, places = files.name_recordings(rows), rows["path"].to_pylist()

    def entries(windows: Windows) -> Iterator[Entry]:
        for path, reason in found.unusable.items():
            yield Entry(Path(path).name or path, None, path, "failed", reason.removeprefix(f"{path}: "), f"{path}: ")
        each = files.prepare_files(rows, windows, assumed)
        for name, place, (prepared, status, why) in zip(names, places, each, strict=True):
            yield Entry(name, prepared, place, status, why, f"{place}: ")

    return Source(len(rows) + len(found.unusable), entries)


def _check_ids(ids: Sequence[str] | None, count: int) -> Sequence[int | str]:
    """The names of recordings: the ids if they are valid, or numbers from 0."""
    if ids is None:
        return range(count)
    names = [ids] if isinstance(ids, str) else list(ids)
    if len(names) != count:
        raise EcgpipeError(f"ids: {len(names)} for {count} recordings; give one for each")
    wrong = next((name for name in names if not isinstance(name, str) or not name), None)
    if wrong is not None:
        raise EcgpipeError(f"ids: {wrong!r} is not a text; give texts, as by list(map(str, ids))")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < count else None
    if twice is not None:
        raise EcgpipeError(f"ids: {twice!r} is there twice; give each recording an id of its own")
    return names
