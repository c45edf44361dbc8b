"""Read CSV and Parquet tables without loss, and list the recordings of a table that is an input."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ecgpipe import readers
from ecgpipe.core import normalized_text, schemas
from ecgpipe.core.separators import separator_of
from ecgpipe.readers import detect
from ecgpipe.readers.temporary_errors import patiently

SUFFIXES = (".csv", ".tsv", ".parquet")

# Columns of an input table that ecgpipe itself uses; all others are copied to the results.
CONSUMED = ("path", "record_id", "sample_rate", "leads", "unit")

# Missing values as pandas and R write them. In a column of texts only the empty text is a missing value.
_NO_VALUE = pa.array(["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "#N/A"])
# Numbers that come back as they were: 007 and twenty digits do not.
_NUMBER = r"^-?(?:0|[1-9][0-9]{0,17})?(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?$"
_TYPES = (pa.bool_(), pa.date32(), pa.timestamp("s"), pa.timestamp("us"))

# Block size in which a CSV is parsed; no row may be longer.
_BLOCK_BYTES = 16 * 2**20

_SUFFIX = r"[^/](?P<suffix>\.[^./]+)$"
# Paths that `PurePosixPath` normalises: a//b, ./a, a/./b, and paths with .. in them.
_ODD_PATH = r"/\.{0,2}(?:/|$)|^\.{1,2}/"


def read_table(path: Path, texts: Collection[str] = ()) -> pa.Table:
    """Read a CSV or Parquet table.

    A CSV's columns become numbers, truth values, dates or times only where each value can be written back as it was;
    otherwise they stay texts: 007 is not 7. Comma, semicolon and tab separate; a byte order mark is no part
    of a name.

    Args:
        path: The file; its extension or its first bytes show whether it is Parquet.
        texts: Columns that stay text in any case.

    Returns:
        The table, with `column_N` as the name of a nameless column.

    Raises:
        ValueError: The file is not a valid table; the message says why.
    """
    try:
        with path.open("rb") as file:
            head = file.read(detect.HEAD_BYTES)
        if head.startswith(b"PAR1") or path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as parquet:
                table = parquet.read().replace_schema_metadata(None)
        else:
            table = _read_csv(path, head)
            columns = [
                _empty_to_null(column) if name in texts else _parse_texts(column)
                for name, column in zip(table.column_names, table.columns, strict=True)
            ]
            table = pa.Table.from_arrays(columns, names=table.column_names)
    except (OSError, ValueError, pa.ArrowException) as error:  # a UnicodeDecodeError is a ValueError
        raise ValueError(f"cannot be read as a table: {error}") from error
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"cannot be read as a table: it has two columns {twice[0]!r}; rename one")
    return table


def _read_csv(path: Path, head: bytes) -> pa.Table:
    """A CSV with all its columns as texts."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    text = head.decode(encoding, errors="ignore")
    separator = separator_of(text.removeprefix("\ufeff"))
    options = {
        "read_options": pa.csv.ReadOptions(block_size=_BLOCK_BYTES, encoding=encoding),
        "parse_options": pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
    }
    with pa.csv.open_csv(path, **options) as reader:
        names = reader.schema.names
    types = {name: pa.string() for name in names}
    table = pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=types), **options)
    return table.rename_columns([name.strip() or f"column_{n}" for n, name in enumerate(names, start=1)])


def _empty_to_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), None, column)


def _parse_texts(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert a column of texts to numbers, truth values, dates or times if all of them are such."""
    values = pc.if_else(pc.is_in(texts, value_set=_NO_VALUE), None, texts)
    if values.null_count == len(values):
        return _empty_to_null(texts)
    types: tuple[pa.DataType, ...] = _TYPES
    if pc.all(pc.match_substring_regex(values, _NUMBER)).as_py():
        types = (pa.int64(), pa.float64())
    for wanted in types:
        try:
            return pc.cast(values, wanted)
        except pa.ArrowInvalid:
            continue
    return _empty_to_null(texts)


def rename_taken_columns(table: pa.Table) -> pa.Table:
    """Rename the columns that have the name of one of ecgpipe's own columns to `input_...`."""
    taken = {*schemas.MANIFEST.names, *schemas.RECORDS.names}
    names: list[str] = []
    for name in table.column_names:
        while name in taken:
            name = f"input_{name}"
        names.append(name)
        taken.add(name)
    return table.rename_columns(names)


def list_recordings(path: Path, table: pa.Table) -> pa.Table:
    """List the recordings of a table.

    Files are opened only if their extension does not determine the format: a table may have millions of rows.
    A row whose file holds several recordings is therefore not noticed until preprocessing reads it.

    Args:
        path: The table's file; paths in the table are absolute, or relative to the folder of this file.
        table: Its content. Only the column `path` is required; `CONSUMED` lists the optional columns.

    Returns:
        The columns of `schemas.MANIFEST` and the table's other columns, with the table's rows in order. `problem`
        states what is wrong with a row.

    Raises:
        ValueError: A column has the wrong type; the message says which.
    """
    paths = _read_texts(table, "path")
    is_odd = pc.fill_null(pc.match_substring_regex(paths, _ODD_PATH), fill_value=False)
    paths = _replace_where(paths, is_odd, [PurePosixPath(text).as_posix() for text in paths.filter(is_odd).to_pylist()])

    suffixes = pc.utf8_lower(pc.struct_field(pc.extract_regex(paths, _SUFFIX), "suffix"))
    formats = pa.array(detect.SUFFIXES.values()).take(pc.index_in(suffixes, value_set=pa.array(detect.SUFFIXES)))
    stems = pc.replace_substring_regex(paths, r"([^/])\.[^./]+$", r"\1")
    problems = pa.nulls(len(paths), pa.string())

    folder = os.path.abspath(path.parent)  # noqa: PTH100, keeps links
    relative = pc.binary_join_element_wise(folder, paths, "/")
    absolute = pc.if_else(pc.starts_with(paths, "/"), paths, relative)
    has_parent = pc.fill_null(pc.match_substring(absolute, "/.."), fill_value=False)
    absolute = _replace_where(
        absolute, has_parent, [os.path.normpath(text) for text in absolute.filter(has_parent).to_pylist()]
    )

    is_empty = pc.is_null(paths)
    has_nul = pc.fill_null(pc.match_substring(paths, "\0"), fill_value=False)
    is_unsure = pc.and_(pc.is_null(formats), pc.invert(pc.or_(is_empty, has_nul)))
    file_facts = [_look_at(text) for text in absolute.filter(is_unsure).to_pylist()]
    # A WFDB record's name stays whole as the id, even with dots: "1.2.3" has no extension.
    whole_name = _replace_where(
        pa.array([False] * len(paths), pa.bool_()), is_unsure, [name for name, _, _ in file_facts]
    )
    formats = _replace_where(formats, is_unsure, [format_name for _, format_name, _ in file_facts])
    problems = _replace_where(problems, is_unsure, [problem for _, _, problem in file_facts])
    for format_name in pc.unique(formats).drop_null().to_pylist():
        if missing := readers.missing_package(format_name):
            has_format = pc.fill_null(pc.equal(formats, format_name), fill_value=False)
            problems = pc.if_else(has_format, pc.coalesce(problems, missing), problems)
    absolute = pc.if_else(whole_name, pc.binary_join_element_wise(absolute, ".hea", ""), absolute)
    stems = pc.if_else(whole_name, paths, stems)

    problems = pc.if_else(is_empty, "the table's row has no path", problems)
    problems = pc.if_else(has_nul, "the table's path is not valid (it has a NUL character)", problems)
    rates, rate_problems = _read_rates(table)
    problems = pc.coalesce(problems, rate_problems)
    numbers = pc.cast(pa.array(range(1, len(paths) + 1), pa.int64()), pa.string())
    ids = [
        _empty_to_null(pc.replace_substring_regex(stems, "^/+", "")),
        pc.binary_join_element_wise(path.stem, numbers, "/row "),
    ]
    if "record_id" in table.column_names:
        own = table["record_id"]
        numbers = pa.types.is_floating(own.type) or pa.types.is_dictionary(own.type)
        ids.insert(0, normalized_text.as_ids(own, "record_id") if numbers else _read_texts(table, "record_id"))
    columns = {
        "record_id": pc.coalesce(*ids),
        "path": pc.if_else(has_nul, None, absolute),
        "format": pc.if_else(pc.is_valid(problems), None, formats),
        "row": pa.nulls(len(paths), pa.int64()),
        "problem": problems,
        "stated_sample_rate": rates,
        "stated_leads": _read_leads(table),
        "stated_unit": _read_texts(table, "unit"),
    }
    columns |= {
        name: pa.nulls(len(paths), schemas.MANIFEST.field(name).type) for name in ("bytes", "modified", "stamp")
    }
    return _append_others(pa.table(columns, schema=schemas.MANIFEST), table)


def _append_others(manifest: pa.Table, table: pa.Table) -> pa.Table:
    """Append the columns of a table that ecgpipe itself does not use."""
    others = rename_taken_columns(table.drop_columns([name for name in CONSUMED if name in table.column_names]))
    for name, column in zip(others.column_names, others.columns, strict=True):
        manifest = manifest.append_column(name, column)
    return manifest


def _read_texts(table: pa.Table, name: str) -> pa.Array:
    """Read a column as texts, null if empty; all null if there is no such column."""
    if name not in table.column_names:
        return pa.nulls(len(table), pa.string())
    try:
        texts = pc.cast(table[name], pa.string())
    except pa.ArrowException as error:
        raise ValueError(f"cannot be read as a table: its column {name!r} holds no texts ({error})") from error
    return _flatten(_empty_to_null(texts))


def _read_rates(table: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Read the stated sampling rates in Hz, and the problem of each row whose rate is not valid."""
    texts = _read_texts(table, "sample_rate")
    texts = pc.if_else(pc.is_in(texts, value_set=_NO_VALUE), None, pc.utf8_trim_whitespace(texts))
    number = pc.match_substring_regex(texts, r"^[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?$")
    rates = pc.cast(pc.if_else(number, texts, None), pa.float64())
    good = pc.and_kleene(number, pc.and_kleene(pc.greater(rates, 0), pc.is_finite(rates)))
    says = pc.binary_join_element_wise("the table's sampling rate is not a positive number (", texts, ")", "")
    return pc.if_else(good, rates, None), pc.if_else(pc.invert(good), says, None)


def _read_leads(table: pa.Table) -> pa.Array:
    """Read the stated leads: a column of lists, or texts in which commas, semicolons or blanks separate the names."""
    wanted = pa.list_(pa.string())
    if "leads" not in table.column_names:
        return pa.nulls(len(table), wanted)
    column = table["leads"]
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        names = _flatten(pc.cast(column, wanted))
    else:
        texts = pc.replace_substring_regex(_read_texts(table, "leads"), r"""[\[\]()'"]""", "")
        texts = pc.utf8_trim(texts, " \t,;")
        blanks = pc.invert(pc.match_substring_regex(texts, "[,;]"))
        texts = pc.if_else(blanks, pc.replace_substring_regex(texts, r"\s+", ","), texts)
        names = pc.split_pattern_regex(_empty_to_null(texts), r"\s*[,;]\s*")
    return pc.if_else(pc.equal(pc.list_value_length(names), 0), None, names)


def _look_at(path: str) -> tuple[bool, str | None, str | None]:
    """Look at a row's file: whether the path is a WFDB record's name, the format, and the problem if any."""
    name = PurePosixPath(path)
    try:
        head = read_head(path)
    except FileNotFoundError:
        if not name.suffix or os.path.exists(f"{path}.hea"):  # noqa: PTH110
            return True, "wfdb", None
        return False, None, f"a file is missing, and its extension is of no known format ({name.name})"
    except OSError as error:
        return False, None, describe_open_error(path, error)
    format_name, problem = detect_format(path, head)
    return False, format_name, None if format_name else problem or detect.what_else(name, head)


def read_head(path: str) -> bytes:
    """Read the first bytes of a file, without waiting if it is a pipe.

    Raises:
        OSError: The file cannot be opened.
        UnavailableError: The file cannot be opened at the moment.
    """
    return patiently(lambda: _read_head(path), path)


def _read_head(path: str) -> bytes:
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(number, detect.HEAD_BYTES)
    finally:
        os.close(number)


def describe_open_error(path: str, error: OSError) -> str:
    """Describe why a file could not be opened, in the wording of `readers.read`."""
    name = escape_name(path.rpartition("/")[2])
    if isinstance(error, FileNotFoundError):
        return f"a file is not there ({name})"
    if isinstance(error, PermissionError):
        return f"no permission to read a file ({name})"
    return f"a file cannot be opened ({name}: {error.strerror})"


def detect_format(path: str, head: bytes) -> tuple[str | None, str | None]:
    """Detect the format of a file, and the problem of one that is not readable.

    Args:
        path: The file.
        head: Its first bytes.

    Returns:
        The format as of `detect.format_of`, or "parquet" for a Parquet file with columns named as leads; and the
        problem of a Parquet file whose columns cannot be read.
    """
    if not head.startswith(b"PAR1"):
        return detect.format_of(PurePosixPath(path), head), None
    try:
        names = patiently(lambda: pq.read_schema(path).names, path)
    except (OSError, ValueError, pa.ArrowException) as error:
        return None, f"not a readable Parquet file ({error})"
    return ("parquet" if "path" not in names and are_lead_names(names) else None), None


def are_lead_names(names: Sequence[str]) -> bool:
    """Whether a table's columns are leads; as in `detect`, chest leads alone are not enough."""
    return len(names) > 1 and bool(set(readers.spell_leads(names)) & set(readers.LEADS[:6]))


def escape_name(text: str) -> str:
    r"""Write bytes of a name that are not UTF-8 as \xfc; other names are returned unchanged."""
    if text.isascii():
        return text
    try:
        return os.fsencode(text).decode(errors="backslashreplace")
    except UnicodeEncodeError:  # not from the file system, but from within a file
        return text.encode(errors="backslashreplace").decode()


def _replace_where(values: pa.Array, mask: pa.Array, replacements: Sequence[object]) -> pa.Array:
    """Replace the values for which the mask is true, in order."""
    return pc.replace_with_mask(values, mask, pa.array(replacements, values.type)) if replacements else values


def _flatten(column: pa.ChunkedArray) -> pa.Array:
    flat = column.combine_chunks()
    return pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat
