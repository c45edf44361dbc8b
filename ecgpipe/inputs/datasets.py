"""Recognise public datasets by the files in a folder, and join their metadata to the recordings.

A layout does not change how a folder is scanned. It states which files are tables of metadata, which subfolders hold
the same recordings again, and the metadata of each recording.

Published structures: PTB-XL 1.0.3 (https://doi.org/10.13026/kfzx-aw45), MIMIC-IV-ECG 1.0
(https://doi.org/10.13026/4nqg-sb35), CODE-15% 1.0.0 (https://doi.org/10.5281/zenodo.4916206), PhysioNet/CinC
Challenges 2020 and 2021 (https://doi.org/10.13026/34va-7q14).
"""

import logging
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.inputs import input_tables
from ecgpipe.readers import detect, wfdb

logger = logging.getLogger(__name__)

CHALLENGE = "PhysioNet Challenge"

# What PTB-XL's folders are to one another, by the value of the setting that prefers them.
PTBXL_FOLDERS = {"records500": "500 Hz", "records100": "100 Hz"}

# The column of `Layout.metadata` that finds a recording: no dataset's own.
KEY = "\0key"

# What a header states of the patient.
Facts = dict[str, str | float | None]

_CHALLENGE_COLUMNS = ("age", "sex", "dx", "rx", "hx", "sx")


class Layout(NamedTuple):
    """A dataset that a folder was recognised as."""

    name: str
    tables: frozenset[str]  # the folder's files that are about the recordings
    excluded: dict[str, str]  # subfolders that are left out, and why
    metadata: pa.Table  # KEY is the recording's id below the folder; the other columns have the dataset's names


def recognise(folder: str, names: Collection[str], ptbxl: str = "records500") -> Layout | None:
    """Recognise a dataset by the names in its folder and the columns of its table.

    Args:
        folder: The folder.
        names: Of everything in it.
        ptbxl: Which recordings of PTB-XL are wanted where both are there, a key of `PTBXL_FOLDERS`.

    Returns:
        The dataset; None for other folders, also if a table of another kind has the same name.
    """
    layout = None
    try:
        if "ptbxl_database.csv" in names:
            layout = _recognise_ptbxl(Path(folder), names, ptbxl)
        elif "record_list.csv" in names:
            layout = _recognise_mimic(Path(folder), names)
        elif "exams.csv" in names:
            layout = _recognise_code15(Path(folder), names)
    except ValueError as error:
        logger.warning("%s looks like a known dataset, but its table %s", input_tables.escape_name(folder), error)
    return layout


def join_metadata(recordings: pa.Table, prefix: str, layout: Layout) -> tuple[pa.Table, int]:
    """Join the metadata of a dataset to the recordings in its folder.

    Args:
        recordings: Those found in the folder, with the columns of `schemas.MANIFEST`.
        prefix: Prefix of their ids before the path below the folder: "" or a path that ends in a slash.
        layout: The recognised dataset.

    Returns:
        The same rows with the metadata's columns, nulls where the dataset's table does not list a recording; and how
        many the table lists that are not among them.
    """
    keys = pc.utf8_slice_codeunits(recordings["record_id"], start=len(prefix))
    listed_keys = layout.metadata[KEY]
    rows = pc.index_in(keys, value_set=listed_keys)
    missing = len(listed_keys) - (pc.sum(pc.is_in(listed_keys, value_set=keys)).as_py() or 0)
    metadata = input_tables.rename_taken_columns(layout.metadata.drop_columns([KEY])).take(rows)
    for name, column in zip(metadata.column_names, metadata.columns, strict=True):
        recordings = recordings.append_column(name, column)
    return recordings, missing


def read_challenge_header(header: str) -> Facts | None:
    """Read the facts about the patient from a header of a PhysioNet Challenge.

    Args:
        header: The path of a .hea beside which a .mat lies.

    Returns:
        age (years, None where it is no number), sex, dx, rx, hx and sx as written; None for a header of another kind.
    """
    stated = {key.lower(): text.strip() for key, text in wfdb.comments(Path(header)).items()}
    if not {"age", "sex", "dx"} <= stated.keys():
        return None
    row: Facts = {name: stated.get(name) for name in _CHALLENGE_COLUMNS}
    try:
        age = float(stated["age"])
    except ValueError:
        age = float("nan")
    row["age"] = age if age == age else None  # "NaN" is how many of them have it
    return row


def build_challenge_columns(rows: list[Facts | None]) -> dict[str, pa.Array]:
    """The rows of `read_challenge_header` as columns, nulls for None."""
    return {
        name: pa.array([row and row[name] for row in rows], pa.float64() if name == "age" else pa.string())
        for name in _CHALLENGE_COLUMNS
    }


def _has_columns(table: Path, *columns: str) -> bool:
    """Whether a CSV has these columns, by its first line alone."""
    try:
        names = detect.csv_columns(input_tables.read_head(str(table)))
    except OSError:
        return False
    return set(columns) <= set(names)


def _recognise_ptbxl(folder: Path, names: Collection[str], preferred: str) -> Layout | None:
    table = folder / "ptbxl_database.csv"
    present = [name for name in PTBXL_FOLDERS if name in names]
    if not present or not _has_columns(table, "ecg_id", "filename_lr", "filename_hr"):
        return None
    chosen = preferred if preferred in present else present[0]
    column = "filename_hr" if chosen == "records500" else "filename_lr"
    metadata = input_tables.read_table(table, texts=("filename_lr", "filename_hr"))
    return Layout(
        "PTB-XL",
        frozenset({table.name, "scp_statements.csv", "RECORDS"}),
        {name: f"the same recordings at {PTBXL_FOLDERS[name]}" for name in present if name != chosen},
        metadata.append_column(KEY, metadata[column]),
    )


def _recognise_mimic(folder: Path, names: Collection[str]) -> Layout | None:
    table = folder / "record_list.csv"
    if not _has_columns(table, "subject_id", "study_id", "file_name", "ecg_time", "path"):
        return None
    metadata = input_tables.read_table(table, texts=("path",))
    metadata = metadata.append_column(KEY, metadata["path"]).drop_columns(["path"])
    if "machine_measurements.csv" in names and _has_columns(
        folder / "machine_measurements.csv", "study_id", "report_0"
    ):
        measured = input_tables.read_table(folder / "machine_measurements.csv")
        rows = pc.index_in(*(pc.cast(each["study_id"], pa.string()) for each in (metadata, measured)))
        names = [name for name in (f"report_{n}" for n in range(18)) if name in measured.column_names]
        lines = [pc.cast(measured[name], pa.string()) for name in names]
        report = pc.binary_join_element_wise(*lines, "; ", null_handling="skip")
        metadata = metadata.append_column("report", pc.if_else(pc.equal(report, ""), None, report).take(rows))
        for name, column in zip(measured.column_names, measured.columns, strict=True):
            number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
            if number and name not in metadata.column_names:
                metadata = metadata.append_column(name, column.take(rows))
    about = [
        "machine_measurements.csv",
        "machine_measurements_data_dictionary.csv",
        "waveform_note_links.csv",
        "RECORDS",
    ]
    return Layout("MIMIC-IV-ECG", frozenset({table.name, *about}), {}, metadata)


def _recognise_code15(folder: Path, names: Collection[str]) -> Layout | None:
    table = folder / "exams.csv"
    if not any(fnmatchcase(name, "exams_part*.hdf5") for name in names) or not _has_columns(
        table, "exam_id", "trace_file"
    ):
        return None
    metadata = input_tables.read_table(table, texts=("trace_file",))
    stems = pc.replace_substring_regex(metadata["trace_file"], r"\.[^./]+$", "")
    keys = pc.binary_join_element_wise(stems, pc.cast(metadata["exam_id"], pa.string()), "/")
    return Layout("CODE-15%", frozenset({table.name}), {}, metadata.append_column(KEY, keys))
