"""Patients' numbers, record ids and the names of splits as texts: the same one however a table writes it.

CSV, Parquet, pandas and Polars give one number as 12, 12.0, "12" or a category, and a missing one as null, NaN, None or
the text "" or "nan". All code that compares such values compares what this module makes of them.
"""

import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.core.errors import EcgpipeError

# From here on whole numbers are missing among floating-point ones, so that two different ids may have become one.
_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}

# What `astype(str)` of pandas and NumPy makes of a value that is missing. No category is called so.
_MISSING = ("", "nan", "NaN", "<NA>", "NaT")

# The same, where nobody can be called so: None may be a category (of smoking), but it is no patient.
_NOBODY = ("None", "null", "NULL")


def as_text(values: pa.Array | pa.ChunkedArray, name: str = "") -> pa.Array:
    """Values as texts that are equal where the values mean the same.

    Whole numbers have no point: 12, 12.0 and "12.0" are "12", but "012" stays another one. Truth values are "true" and
    "false". A time at midnight is its date. Categories are what they stand for.

    Args:
        values: (rows,) numbers, texts, truth values, dates or times.
        name: The column's, for a message.

    Returns:
        (rows,) strings, null where there is no value: null, NaN, or a text that is blank or says NaN.

    Raises:
        EcgpipeError: They are of another kind (lists, structures), or floating-point numbers so large that their last
            digits are lost.
    """
    values = _plain(values)
    where = f"the column {name!r}" if name else "a column"
    if pa.types.is_floating(values.type):
        texts = _numbers(values, where)
    else:
        try:
            texts = pc.cast(values, pa.string())
        except pa.ArrowException as error:
            raise EcgpipeError(
                f"{where} holds {values.type}, which is no number, text or date; write one value in each row"
            ) from error
    if _is_textual(values.type) or pa.types.is_decimal(values.type):
        texts = pc.replace_substring_regex(texts, r"^(-?(?:0|[1-9][0-9]*))\.0+$", r"\1")
    if _is_textual(values.type) or pa.types.is_timestamp(values.type):
        texts = pc.replace_substring_regex(texts, r"^([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]00:00(?::00(?:\.0+)?)?Z?$", r"\1")
    if _is_textual(values.type):
        blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
        texts = pc.if_else(pc.or_(blank, pc.is_in(texts, pa.array(_MISSING))), None, texts)
        for word in ("True", "False"):
            texts = pc.if_else(pc.equal(texts, word), word.lower(), texts)
    return texts


def as_ids(values: pa.Array | pa.ChunkedArray, name: str = "") -> pa.Array:
    """Ids of patients or recordings, as `as_text`; null for those of nobody, also where a text says None or null."""
    texts = as_text(values, name)
    return pc.if_else(pc.is_in(texts, pa.array(_NOBODY)), None, texts)


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The values themselves, without dictionaries, runs, extension types and chunks."""
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(flat, pa.ChunkedArray):  # what is too large for one array of its type, in older Arrow
        flat = pa.concat_arrays(flat.chunks)
    if isinstance(flat, pa.ExtensionArray):
        return _plain(flat.storage)
    if pa.types.is_dictionary(flat.type):
        return _plain(flat.dictionary_decode())
    if pa.types.is_run_end_encoded(flat.type):
        return _plain(pc.run_end_decode(flat))
    return flat


def _is_textual(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or _is_bytes(kind)
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _numbers(values: pa.Array, where: str) -> pa.Array:
    """Floating-point numbers as texts."""
    limit = _EXACT[values.type]
    numbers = pc.cast(values, pa.float64())
    large = pc.and_(pc.is_finite(numbers), pc.greater_equal(pc.abs(numbers), limit))
    lost = numbers.filter(pc.fill_null(large, False))
    if len(lost):
        raise EcgpipeError(
            f"{where} has numbers as large as {lost[0].as_py():.17g} with a floating point ({values.type}), whose last "
            "digits are lost: different ids would be one; write whole numbers (int64) or texts"
        )
    whole = pc.fill_null(pc.equal(numbers, pc.round(numbers)), False)
    integers = pc.cast(pc.cast(pc.if_else(whole, numbers, 0.0), pa.int64()), pa.string())
    others = pc.cast(pc.if_else(pc.is_nan(numbers), None, values), pa.string())
    return pc.if_else(whole, integers, others)
