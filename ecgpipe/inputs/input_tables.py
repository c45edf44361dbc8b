"""Tables: reading a CSV or Parquet file with nothing lost, and the recordings that a table given as an input lists."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ecgpipe import readers
from ecgpipe.core import identity, schemas
from ecgpipe.core.separators import separator_of
from ecgpipe.readers import detect
from ecgpipe.readers.moment import patiently

SUFFIXES = (".csv", ".tsv", ".parquet")

# What ecgpipe itself takes from a table given as an input; all other columns are carried along.
CONSUMED = ("path", "record_id", "sample_rate", "leads", "unit")

# As pandas and R write that there is no value. In a column of texts only the empty one means that.
_NO_VALUE = pa.array(["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "#N/A"])
# Numbers that come back as they were: 007 and twenty digits do not.
_NUMBER = r"^-?(?:0|[1-9][0-9]{0,17})?(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?$"
_TYPES = (pa.bool_(), pa.date32(), pa.timestamp("s"), pa.timestamp("us"))

# At most so much of a CSV is parsed at a time; no row may be longer.
_BLOCK_BYTES = 16 * 2**20

_SUFFIX = r"[^/](?P<suffix>\.[^./]+)$"
# What `PurePosixPath` would write otherwise: a//b, ./a, a/./b, and with .. in it.
_ODD_PATH = r"/\.{0,2}(?:/|$)|^\.{1,2}/"


def read(path: Path, texts: Collection[str] = ()) -> pa.Table:
    """Read a CSV or Parquet table.

    A CSV's columns become numbers, truth values, dates or times only where each value can be written back as it was;
    otherwise they stay texts: 007 is not 7. Comma, semicolon and tab separate; a byte order mark is no part
    of a name.

    Args:
        path: The file; its ending or its first bytes say that it is Parquet.
        texts: Columns that stay text in any case.

    Returns:
        The table, with `column_N` as the name of a nameless column.

    Raises:
        ValueError: It is no such table; the message says why.
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
                _no_empty(column) if name in texts else _typed(column)
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


def _no_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), None, column)


def _typed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts as what they say, if all of them say it."""
    values = pc.if_else(pc.is_in(texts, value_set=_NO_VALUE), None, texts)
    if values.null_count == len(values):
        return _no_empty(texts)
    types: tuple[pa.DataType, ...] = _TYPES
    if pc.all(pc.match_substring_regex(values, _NUMBER)).as_py():
        types = (pa.int64(), pa.float64())
    for wanted in types:
        try:
            return pc.cast(values, wanted)
        except pa.ArrowInvalid:
            continue
    return _no_empty(texts)


def carried(table: pa.Table) -> pa.Table:
    """The same table, its columns that are called as one of ecgpipe's own renamed to `input_...`."""
    taken = {*schemas.MANIFEST.names, *schemas.RECORDS.names}
    names: list[str] = []
    for name in table.column_names:
        while name in taken:
            name = f"input_{name}"
        names.append(name)
        taken.add(name)
    return table.rename_columns(names)


def recordings(path: Path, table: pa.Table) -> pa.Table:
    """The recordings that a table lists.

    Their files are not opened, except those whose ending does not tell the format: a table may have millions of rows.
    So a row that means a file of many recordings is found out when it is read.

    Args:
        path: Of the table's file; its paths are relative to that one's folder, or absolute.
        table: Its content. `path` alone must be there; `CONSUMED` says what else is understood.

    Returns:
        The columns of `schemas.MANIFEST` and the table's others, a row for each of its rows, in order. What is wrong
        with a row is its `problem`.

    Raises:
        ValueError: A column cannot be what it should be; the message says which.
    """
    paths = _strings(table, "path")
    odd = pc.fill_null(pc.match_substring_regex(paths, _ODD_PATH), fill_value=False)
    paths = _where(paths, odd, [PurePosixPath(text).as_posix() for text in paths.filter(odd).to_pylist()])

    suffixes = pc.utf8_lower(pc.struct_field(pc.extract_regex(paths, _SUFFIX), "suffix"))
    formats = pa.array(detect.SUFFIXES.values()).take(pc.index_in(suffixes, value_set=pa.array(detect.SUFFIXES)))
    stems = pc.replace_substring_regex(paths, r"([^/])\.[^./]+$", r"\1")
    problems = pa.nulls(len(paths), pa.string())

    folder = os.path.abspath(path.parent)  # noqa: PTH100, keeps links
    relative = pc.binary_join_element_wise(folder, paths, "/")
    absolute = pc.if_else(pc.starts_with(paths, "/"), paths, relative)
    up = pc.fill_null(pc.match_substring(absolute, "/.."), fill_value=False)
    absolute = _where(absolute, up, [os.path.normpath(text) for text in absolute.filter(up).to_pylist()])

    empty = pc.is_null(paths)
    broken = pc.fill_null(pc.match_substring(paths, "\0"), fill_value=False)
    unsure = pc.and_(pc.is_null(formats), pc.invert(pc.or_(empty, broken)))
    looked = [_look(text) for text in absolute.filter(unsure).to_pylist()]
    # A record's name that is no file's stays whole as its id: "1.2.3" has no ending.
    whole_name = _where(pa.array([False] * len(paths), pa.bool_()), unsure, [name for name, _, _ in looked])
    formats = _where(formats, unsure, [format_name for _, format_name, _ in looked])
    problems = _where(problems, unsure, [problem for _, _, problem in looked])
    for format_name in pc.unique(formats).drop_null().to_pylist():
        if missing := readers.missing_package(format_name):
            of_it = pc.fill_null(pc.equal(formats, format_name), fill_value=False)
            problems = pc.if_else(of_it, pc.coalesce(problems, missing), problems)
    absolute = pc.if_else(whole_name, pc.binary_join_element_wise(absolute, ".hea", ""), absolute)
    stems = pc.if_else(whole_name, paths, stems)

    problems = pc.if_else(empty, "the table's row has no path", problems)
    problems = pc.if_else(broken, "the table's path is none (it has a NUL in it)", problems)
    rates, wrong = _rates(table)
    problems = pc.coalesce(problems, wrong)
    numbers = pc.cast(pa.array(range(1, len(paths) + 1), pa.int64()), pa.string())
    ids = [
        _no_empty(pc.replace_substring_regex(stems, "^/+", "")),
        pc.binary_join_element_wise(path.stem, numbers, "/row "),
    ]
    if "record_id" in table.column_names:
        own = table["record_id"]
        numbers = pa.types.is_floating(own.type) or pa.types.is_dictionary(own.type)
        ids.insert(0, identity.as_ids(own, "record_id") if numbers else _strings(table, "record_id"))
    columns = {
        "record_id": pc.coalesce(*ids),
        "path": pc.if_else(broken, None, absolute),
        "format": pc.if_else(pc.is_valid(problems), None, formats),
        "row": pa.nulls(len(paths), pa.int64()),
        "problem": problems,
        "stated_sample_rate": rates,
        "stated_leads": _leads(table),
        "stated_unit": _strings(table, "unit"),
    }
    columns |= {
        name: pa.nulls(len(paths), schemas.MANIFEST.field(name).type) for name in ("bytes", "modified", "stamp")
    }
    others = carried(table.drop_columns([name for name in CONSUMED if name in table.column_names]))
    found = pa.table(columns, schema=schemas.MANIFEST)
    for name, column in zip(others.column_names, others.columns, strict=True):
        found = found.append_column(name, column)
    return found


def _strings(table: pa.Table, name: str) -> pa.Array:
    """A column as texts, null where they are empty; all null where there is no such column."""
    if name not in table.column_names:
        return pa.nulls(len(table), pa.string())
    try:
        texts = pc.cast(table[name], pa.string())
    except pa.ArrowException as error:
        raise ValueError(f"cannot be read as a table: its column {name!r} holds no texts ({error})") from error
    return _flat(_no_empty(texts))


def _rates(table: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The stated sample rates in Hz, and what is wrong with those that are none."""
    texts = _strings(table, "sample_rate")
    texts = pc.if_else(pc.is_in(texts, value_set=_NO_VALUE), None, pc.utf8_trim_whitespace(texts))
    number = pc.match_substring_regex(texts, r"^[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?$")
    rates = pc.cast(pc.if_else(number, texts, None), pa.float64())
    good = pc.and_kleene(number, pc.and_kleene(pc.greater(rates, 0), pc.is_finite(rates)))
    says = pc.binary_join_element_wise("the table's sample rate is not a positive number (", texts, ")", "")
    return pc.if_else(good, rates, None), pc.if_else(pc.invert(good), says, None)


def _leads(table: pa.Table) -> pa.Array:
    """The stated leads: a column of lists, or texts whose names commas, semicolons or else blanks separate."""
    wanted = pa.list_(pa.string())
    if "leads" not in table.column_names:
        return pa.nulls(len(table), wanted)
    column = table["leads"]
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        names = _flat(pc.cast(column, wanted))
    else:
        texts = pc.replace_substring_regex(_strings(table, "leads"), r"""[\[\]()'"]""", "")
        texts = pc.utf8_trim(texts, " \t,;")
        blanks = pc.invert(pc.match_substring_regex(texts, "[,;]"))
        texts = pc.if_else(blanks, pc.replace_substring_regex(texts, r"\s+", ","), texts)
        names = pc.split_pattern_regex(_no_empty(texts), r"\s*[,;]\s*")
    return pc.if_else(pc.equal(pc.list_value_length(names), 0), None, names)


def _look(path: str) -> tuple[bool, str | None, str | None]:
    """What a row's file is: whether the path is rather a WFDB record's name, the format, and what is wrong."""
    name = PurePosixPath(path)
    try:
        head = head_of(path)
    except FileNotFoundError:
        if not name.suffix or os.path.exists(f"{path}.hea"):  # noqa: PTH110
            return True, "wfdb", None
        return False, None, f"a file is not there, and its ending is of no known format ({name.name})"
    except OSError as error:
        return False, None, cannot_open(path, error)
    found, problem = format_of(path, head)
    return False, found, None if found else problem or detect.what_else(name, head)


def head_of(path: str) -> bytes:
    """The first bytes of a file. What turns out to be a pipe is not waited for.

    Raises:
        OSError: It cannot be opened.
        UnavailableError: It cannot be now.
    """
    return patiently(lambda: _head_of(path), path)


def _head_of(path: str) -> bytes:
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(number, detect.HEAD_BYTES)
    finally:
        os.close(number)


def cannot_open(path: str, error: OSError) -> str:
    """Why a file could not be opened, in the words of `readers.read`."""
    name = printable(path.rpartition("/")[2])
    if isinstance(error, FileNotFoundError):
        return f"a file is not there ({name})"
    if isinstance(error, PermissionError):
        return f"no permission to read a file ({name})"
    return f"a file cannot be opened ({name}: {error.strerror})"


def format_of(path: str, head: bytes) -> tuple[str | None, str | None]:
    """The format of a file, and what is wrong with one that seemed to be a recording.

    Args:
        path: The file.
        head: Its first bytes.

    Returns:
        As `detect.format_of`, with "parquet" for Parquet files that have columns called as leads; and the problem of
        a Parquet file whose columns cannot be read.
    """
    if not head.startswith(b"PAR1"):
        return detect.format_of(PurePosixPath(path), head), None
    try:
        names = patiently(lambda: pq.read_schema(path).names, path)
    except (OSError, ValueError, pa.ArrowException) as error:
        return None, f"not a readable Parquet file ({error})"
    return ("parquet" if "path" not in names and names_leads(names) else None), None


def names_leads(names: Sequence[str]) -> bool:
    """Whether a table's columns are the leads of a recording; as in `detect`, chest leads alone are not enough."""
    return len(names) > 1 and bool(set(readers.spelled(names)) & set(readers.LEADS[:6]))


def printable(text: str) -> str:
    r"""A name that is not UTF-8 with its strange bytes as \xfc; any other as it is."""
    if text.isascii():
        return text
    try:
        return os.fsencode(text).decode(errors="backslashreplace")
    except UnicodeEncodeError:  # not from the file system, but from within a file
        return text.encode(errors="backslashreplace").decode()


def _where(values: pa.Array, mask: pa.Array, replacements: Sequence[object]) -> pa.Array:
    """The values, those where the mask is true replaced in order."""
    return pc.replace_with_mask(values, mask, pa.array(replacements, values.type)) if replacements else values


def _flat(column: pa.ChunkedArray) -> pa.Array:
    flat = column.combine_chunks()
    return pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat
