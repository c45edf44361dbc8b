"""Show what a file or folder holds and how a run would use it, without writing anything."""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from ecgpipe.api.model_settings import for_model
from ecgpipe.core import options, schemas, settings
from ecgpipe.inputs import datasets
from ecgpipe.inputs.scan import Scanned, scan_inputs
from ecgpipe.models import registry
from ecgpipe.preprocessing import preprocess
from ecgpipe.preprocessing.segments import UnusableError, Windows, choose_leads
from ecgpipe.readers import LEADS, Assumed, UnavailableError, UnreadableError, isolation

# A picture of a lead is so many lines of text high.
PICTURE_LINES = 2

# The dots of a braille character, by (row, column), as bits above U+2800 (The Unicode Standard, Braille Patterns).
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe inspect`."""
    parser.add_argument(
        "path", nargs="+", type=os.path.expanduser, help="a file, folder, glob or table, as for the setting `input`"
    )
    parser.add_argument("--ptbxl", choices=datasets.PTBXL_FOLDERS, default="records500", help="(default %(default)s)")
    options.add(parser, "recordings", help="recordings of a folder to read as a trial (default %(default)s)")
    options.add(parser, "model", help="what a run with this model would do (default: ECG-FM)")
    options.add(parser, "model-options")
    parser.add_argument("--width", type=int, help="of the picture, in characters (default: the terminal's)")
    settings.add_arguments(parser, settings.Preprocess)


def run(args: argparse.Namespace) -> None:
    """Print what is there."""
    preprocess_settings = settings.parse_arguments("preprocess", settings.Preprocess, args)
    if args.model:
        family = registry.find_family(args.model)
        declared = family.choose_input(options.read_pairs(args.model_options, "model-options"))
        preprocess_settings = for_model(preprocess_settings, declared, family)
    windows, assumed = preprocess.reading_from_settings(preprocess_settings)
    scanned = scan_inputs(args.path, args.ptbxl)
    total = len(scanned.recordings)
    print("\n".join(overview(scanned)))
    if not total:
        return
    spread = np.unique(np.linspace(0, total - 1, min(total, max(args.recordings, 1))).astype(int))
    rows = scanned.recordings.take(spread).to_pylist()
    width = args.width or shutil.get_terminal_size((100, 24)).columns

    def work(crashed: dict[int, str], begin: Callable[[int], None]) -> None:
        lines: list[str] = []
        for number, row in enumerate(rows):
            begin(number)
            lines += describe(row, windows, assumed, width if total == 1 else None, crashed.get(number))
        begin(-1)
        print("\n".join(lines), flush=True)

    if len(rows) < total:
        print(f"\n{len(rows)} of them, evenly spread:")
    print(flush=True)  # before the process that goes on is forked
    isolation.crashes(work, called=lambda number: rows[number]["path"])


def overview(scanned: Scanned) -> list[str]:
    """Summarise a scan.

    Args:
        scanned: By `scan_inputs`.

    Returns:
        Lines of text.
    """
    formats = Counter(scanned.recordings["format"].to_pylist())
    lines = [_counted(len(scanned.recordings), "recording")]
    lines += [f"    {n:,} {name or 'with a problem that the scan sees'}" for name, n in formats.most_common()]
    lines += [f"recognised: {name}" for name in scanned.layouts]
    if scanned.not_on_disk:
        lines.append(f"{_counted(scanned.not_on_disk, 'recording')} of its table not on this disk")
    columns = [name for name in scanned.recordings.column_names if name not in schemas.MANIFEST.names]
    if columns:
        lines.append(f"further columns: {', '.join(columns)}")
    roles = Counter(scanned.files["role"].to_pylist())
    lines.append(
        f"{_counted(len(scanned.files), 'file')}: " + ", ".join(f"{roles[role]:,} {_ROLES[role]}" for role in _ROLES)
    )
    reasons = Counter(map(schemas.strip_particulars, scanned.files["reason"].drop_null().to_pylist()))
    lines += [f"    {n:,} {reason}" for reason, n in reasons.most_common()]
    return [printable(line) for line in lines]


_ROLES = {"recording": "with recordings", "part": "belonging to these", "ignored": "ignored"}


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def describe(
    row: dict[str, Any], windows: Windows, assumed: Assumed, width: int | None = None, crashed: str | None = None
) -> list[str]:
    """Describe one recording and what a run would do with it.

    Args:
        row: Of the manifest.
        windows: The settings of segments and leads.
        assumed: What is assumed of files that do not state it.
        width: Of a picture of the leads in characters; None for a single line without one.
        crashed: Why it must not be read; None if it may.

    Returns:
        Lines of text.
    """
    try:
        record, segments = preprocess.process_recording(row, windows, assumed, crashed)
    except UnavailableError as error:
        return [printable(f"{row['record_id']}: not available, {error}")]
    outcome = f"{_counted(len(segments), 'segment')} of {windows.segment_s:g} s" if segments else record["reason"]
    head = f"{record['record_id']}: {record['status']}, {outcome}"
    if width is None:
        return [printable(head)]
    lines = [head, f"    path      {record['path']}", f"    format    {record['format']}"]
    if "leads" in record:
        lines.append(f"    leads     {' '.join(record['leads'])}")
        rate, seconds = record["sample_rate"], record.get("duration_s")
        lines.append(
            f"    signal    {f'{seconds:g} s' if seconds else '?'} at {rate:g} Hz, unit {record['unit'] or '?'}"
        )
    lines += [f"    changed   {line}" for line in _changes(record, windows.model_input.rate)]
    lines += [f"    quality   {line}" for line in _quality(record)]
    return [*map(printable, lines), *_picture(row, windows, assumed, width)]


def printable(text: str) -> str:
    """A text without the characters that control a terminal, which file names can contain."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def drawing(values: np.ndarray, width: int, lines: int) -> list[str]:
    """Draw a lead in braille characters, two by four dots each.

    Args:
        values: (samples,) finite.
        width: In characters.
        lines: Of text.

    Returns:
        `lines` texts of `width` characters.
    """
    columns, height = 2 * width, 4 * lines
    edges = np.linspace(0, len(values), columns + 1).astype(int)
    least, extent = values.min(), np.ptp(values) or 1.0
    levels = np.round((values - least) / extent * (height - 1)).astype(int)
    cells = np.zeros((lines, width), int)
    for column in range(columns):
        piece = levels[edges[column] : max(edges[column + 1], edges[column] + 1)]
        if len(piece):
            for level in range(piece.min(), piece.max() + 1):
                row = height - 1 - level
                cells[row // 4, column // 2] |= _DOTS[row % 4, column % 2]
    return ["".join(chr(0x2800 + int(cell)) for cell in row) for row in cells]


def _changes(record: dict[str, Any], rate: float) -> list[str]:
    changes = []
    if record.get("stripped_s"):
        changes.append(f"{record['stripped_s']:g} s of padding stripped")
    if record.get("resampled_from"):
        changes.append(f"resampled from {record['resampled_from']:g} Hz to {rate:g} Hz")
    if record.get("leads_reordered"):
        changes.append("leads put in the model's order")
    for name, words in {"derived_leads": "derived", "missing_leads": "missing, zeros"}.items():
        if record.get(name):
            changes.append(f"{words}: {' '.join(record[name])}")
    for name, words in {
        "padded_s": "s of padding added",
        "overlap_s": "s of overlap between the last two segments",
        "discarded_s": "s at the end discarded",
    }.items():
        if record.get(name):
            changes.append(f"{record[name]:g} {words}")
    return changes


def _quality(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['nan_share']:.2%} of the samples are NaN or infinite"] if record.get("nan_share") else []
    for name in ("constant_leads", "clipped_leads", "flat_leads"):
        if record.get(name):
            lines.append(f"{name.replace('_', ' ')}: {' '.join(record[name])}")
    if record.get("einthoven_residual") is not None:
        residuals = (
            f"{record['einthoven_residual']:.3f} (III = II - I), {record['goldberger_residual']:.3f} (aVR aVL aVF)"
        )
        lines.append(f"residuals of the limb leads: {residuals}")
    if record.get("lead_suspicion"):
        lines.append(f"suspicion: {record['lead_suspicion']}")
    return lines


def _picture(row: dict[str, Any], windows: Windows, assumed: Assumed, width: int) -> list[str]:
    """The twelve leads, each over its own range; nothing where the recording cannot be read."""
    try:
        recording = preprocess.read_recording(row, assumed)
        signal = choose_leads(recording, windows._replace(missing_leads="zero", min_leads=1)).signal
    except (UnreadableError, UnusableError):
        return []
    lines = []
    for lead, values in zip(LEADS, np.nan_to_num(signal, posinf=0.0, neginf=0.0), strict=True):
        first, *rest = drawing(values, max(width - 6, 10), PICTURE_LINES)
        lines += [f"{lead:<5} {first}", *(f"{'':<5} {line}" for line in rest)]
    return lines
