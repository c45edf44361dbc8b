"""Make recordings of NumPy arrays and pandas DataFrames, and refuse arguments that are not valid."""

from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.preprocessing.segments import PLAUSIBLE_RATES, UnusableError, Windows
from ecgpipe.readers import LEADS, Assumed, Recording, UnreadableError, spell_leads, without_filling
from ecgpipe.readers.recording import TO_MV, in_mv

if TYPE_CHECKING:
    import pandas as pd


def check_unit(unit: str | None, windows: Windows) -> None:
    """Refuse a unit that is unknown, or not given to a model that needs it."""
    if unit is not None and str(unit).lower() not in TO_MV:
        raise EcgpipeError(f"unit: {unit!r} is not known; give mV, uV, V or nV")
    if unit is None and windows.model_input.unit is not None:
        raise EcgpipeError("unit: missing, and the model needs millivolts; give that of the signal: mV, uV, V or nV")


def check_rate(sample_rate: object) -> float:
    """The sampling rate, if it is valid."""
    least, most = PLAUSIBLE_RATES
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, Real) or not least <= float(sample_rate) <= most:
        raise EcgpipeError(
            f"sample_rate: {sample_rate!r} is out of range; give a number of Hz from {least:g} to {most:g}"
        )
    return float(sample_rate)


def check_rates(sample_rate: object, count: int, is_several: bool) -> list[float]:
    """The sampling rate of each recording.

    Args:
        sample_rate: A number for all, or for a list of recordings one for each.
        count: How many recordings there are.
        is_several: Whether they are a list.

    Returns:
        As many numbers of Hz.

    Raises:
        EcgpipeError: One is not valid, or there are not as many.
    """
    if not is_several or not isinstance(sample_rate, list | tuple | np.ndarray) or np.ndim(sample_rate) != 1:
        return [check_rate(sample_rate)] * count
    if len(sample_rate) != count:
        raise EcgpipeError(
            f"sample_rate: {len(sample_rate)} numbers for {count} recordings; give one number for all, or one for each"
        )
    return [check_rate(rate) for rate in sample_rate]


def check_names(leads: Any) -> tuple[str, ...]:  # noqa: ANN401, whatever the user gave
    """The names of the leads, if they are names."""
    several = isinstance(leads, Iterable) and not isinstance(leads, str)
    if not several or not all(isinstance(name, str) for name in leads):
        raise EcgpipeError(f"leads: {leads!r} is not a list of lead names; give one, such as ['I', 'II', 'V1']")
    return tuple(leads)


def check_leads(leads: Any) -> tuple[str, ...]:  # noqa: ANN401, whatever the user gave
    """The names of the leads, if they are names and no lead seems to be misspelt."""
    given = check_names(leads)
    names = spell_leads(given)
    unknown = [name for name in names if name not in LEADS]
    missing = [lead for lead in LEADS if lead not in names]
    if unknown and missing:
        raise EcgpipeError(
            f"leads: {', '.join(map(repr, unknown))} not known, and {' '.join(missing)} missing; give the names of the "
            f"rows in their order, out of {' '.join(LEADS)}"
        )
    return given


def check_windows(windows: Windows) -> None:
    """Refuse windows that the settings of preprocess refuse."""
    if not isinstance(windows, Windows):
        raise EcgpipeError(
            f"windows: {windows!r} is not valid; give e.g. ecgpipe.preprocessing.segments.Windows(segment_s=10)"
        )
    from pydantic import ValidationError  # here, because pydantic takes a fifth of a second of `import ECGFM`

    from ecgpipe.core import user_settings

    try:
        user_settings.Preprocess(**{name: value for name, value in windows._asdict().items() if name != "model_input"})
    except ValidationError as error:
        first = error.errors()[0]
        raise EcgpipeError(f"windows: {first['loc'][0]} is {first['input']!r}; {first['msg']}") from error


def split_recordings(signal: Any) -> tuple[list[np.ndarray], bool]:  # noqa: ANN401, whatever the user gave
    """One array for each recording, and whether they were given as several.

    Args:
        signal: (leads, samples), (recordings, leads, samples), or a list of the former.

    Raises:
        EcgpipeError: There is none, or the leads of one differ in length.
    """
    is_several = True
    if isinstance(signal, list | tuple):
        try:
            arrays = [np.asarray(each) for each in signal]
        except ValueError as error:  # NumPy refuses nested lists of different lengths
            raise EcgpipeError(
                "signal: the leads of a recording differ in length; give each as many samples"
            ) from error
        if arrays and all(array.ndim == 1 and len(array) == len(arrays[0]) for array in arrays):
            arrays, is_several = [np.stack(arrays)], False  # a list of leads
    else:
        array = np.asarray(signal)
        is_several = array.ndim == 3
        arrays = list(array) if is_several else [array]
    if not arrays:
        raise EcgpipeError("signal: it holds no recording; give (leads, samples), or several of these")
    return arrays, is_several


def from_array(array: npt.NDArray[Any], rate: float, leads: tuple[str, ...], unit: str | None) -> Recording:
    """Make a recording of an array.

    Args:
        array: (leads, samples) of real numbers.
        rate: In Hz.
        leads: Names of the rows.
        unit: Of the signal; None: not known.

    Returns:
        The recording, without filling at its ends.

    Raises:
        UnusableError: It has another shape, or other values; after a semicolon, how to fix it.
    """
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise UnusableError(f"its values are {array.dtype}; give real numbers")
    if array.ndim != 2 or len(array) != len(leads):
        if array.ndim == 2 and array.shape[1] == len(leads):
            raise UnusableError(f"its shape is {array.shape}, which is (samples, leads); give its transpose")
        raise UnusableError(
            f"its shape is {array.shape}, and there are {len(leads)} names of leads; give (leads, samples), with a row "
            "for each name"
        )
    values = array.astype(np.float64, copy=False)
    in_millivolts, known = in_mv(values, [unit] * len(values)) if unit else (values, None)
    return without_filling(Recording(in_millivolts, rate, leads, known))


def from_frame(frame: "pd.DataFrame", rate: float | None, unit: str | None) -> Recording:
    """Make a recording of a DataFrame, as the reader of CSV files does of a table.

    Args:
        frame: A row per sample, a column per lead, named as files name leads ("aVR", "V1 (mV)"), and perhaps a column
            of times ("time_s", "time_ms").
        rate: In Hz; None: that of the column of times.
        unit: Of the columns that name none.

    Returns:
        The recording, without filling at its ends. A lead without any value is left out; another empty cell is NaN.

    Raises:
        UnusableError: A column is neither a lead nor the times, two are one lead, the times are not valid or there is
            no sampling rate; after a semicolon, how to fix it.
    """
    import pyarrow as pa  # here, because arrays need neither

    from ecgpipe.readers import columns

    names = _check_columns(list(frame.columns))
    if columns.time_column(names) is None and rate is None:
        raise UnusableError("no sampling rate; give sample_rate=, or a column time_s or time_ms")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        recording = columns.make_recording(table, rate, unit, Assumed())
    except pa.ArrowException as error:
        text = str(error).partition("\n")[0]
        raise UnusableError(f"a column holds something else than numbers ({text}); convert it") from error
    except UnreadableError as error:
        raise UnusableError(f"{error}; correct the DataFrame") from error
    return without_filling(recording)


def _check_columns(names: list[Any]) -> list[str]:
    """The names of a DataFrame's columns, if each is a lead of its own or the times."""
    from ecgpipe.readers import columns

    texts = [name for name in names if isinstance(name, str)]
    spelt = spell_leads(texts)
    known = [lead in LEADS for lead in spelt]
    if not any(known):
        shown = ", ".join(map(repr, names[:20])) or "none"
        raise UnusableError(
            f"no column is a lead (its columns: {shown}); name them {' '.join(LEADS)}, and give its transpose if the "
            "rows are the leads"
        )
    time = columns.time_column(texts)
    unknown = [name for name, is_lead in zip(texts, known, strict=True) if not is_lead and texts.index(name) != time]
    unknown = [*unknown, *(name for name in names if not isinstance(name, str))]
    if unknown:
        raise UnusableError(
            f"not known: the columns {', '.join(map(repr, unknown[:20]))}; rename those that are leads to "
            f"{' '.join(LEADS)}, and leave out the others, as by frame.drop(columns=[...])"
        )
    leads = [lead for lead, is_lead in zip(spelt, known, strict=True) if is_lead]
    twice = next((lead for lead in leads if leads.count(lead) > 1), None)
    if twice is not None:
        those = [name for name, lead in zip(texts, spelt, strict=True) if lead == twice]
        raise UnusableError(f"the columns {' and '.join(map(repr, those))} are all lead {twice}; keep one of them")
    return texts
