"""Convert NumPy arrays to segments, and refuse arrays and options that are not valid."""

from collections.abc import Iterable, Sequence
from numbers import Real

import numpy as np
import numpy.typing as npt

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.preprocessing.segments import PLAUSIBLE_RATES, Prepared, UnusableError, Windows, prepare
from ecgpipe.readers import LEADS, Recording, spell_leads, without_filling
from ecgpipe.readers.recording import TO_MV, in_mv

Signal = npt.ArrayLike | Sequence[npt.ArrayLike]

# How to fix a recording that `prepare` refuses, by the beginning of the reason.
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
}


def prepare_arrays(
    signal: Signal, sample_rate: float, leads: Sequence[str], windows: Windows, unit: str | None = None
) -> list[Prepared]:
    """Turn arrays into segments for the model.

    Args:
        signal: (leads, samples), (recordings, leads, samples), or a list of the former; real numbers.
        sample_rate: In Hz, of all of them.
        leads: Names of the rows.
        windows: How they are cut.
        unit: Of the signal; None: not known.

    Returns:
        The segments of each recording, as in the stage preprocess.

    Raises:
        EcgpipeError: A value is not valid, or a recording cannot be used; the message says which, and how to fix it.
    """
    rate, names = _check_rate(sample_rate), _check_leads(leads)
    _check_windows(windows)
    _check_unit(unit, windows)
    arrays = _split_recordings(signal)
    prepared = []
    for number, array in enumerate(arrays):
        which = f"recording {number}: " if len(arrays) > 1 else ""
        _check_shape(array, names, which)
        values = array.astype(np.float64, copy=False)
        in_millivolts, known = in_mv(values, [unit] * len(values)) if unit else (values, None)
        recording = without_filling(Recording(in_millivolts, rate, names, known))
        try:
            prepared.append(prepare(recording, windows, {}))
        except UnusableError as error:
            fix = next((fix for reason, fix in FIXES.items() if str(error).startswith(reason)), "leave it out")
            raise EcgpipeError(f"signal: {which}{error}; {fix}") from error
    return prepared


def _check_unit(unit: str | None, windows: Windows) -> None:
    """Refuse a unit that is unknown, or not given to a model that needs it."""
    if unit is not None and str(unit).lower() not in TO_MV:
        raise EcgpipeError(f"unit: {unit!r} is not known; give mV, uV, V or nV")
    if unit is None and windows.model_input.unit is not None:
        raise EcgpipeError("unit: missing, and the model needs millivolts; give that of the signal: mV, uV, V or nV")


def _check_rate(sample_rate: object) -> float:
    """The sampling rate, if it is valid."""
    least, most = PLAUSIBLE_RATES
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, Real) or not least <= float(sample_rate) <= most:
        raise EcgpipeError(
            f"sample_rate: {sample_rate!r} is out of range; give a number of Hz from {least:g} to {most:g}"
        )
    return float(sample_rate)


def _check_leads(leads: Sequence[str]) -> tuple[str, ...]:
    """The names of the leads, if they are names and no lead seems to be misspelt."""
    several = isinstance(leads, Iterable) and not isinstance(leads, str)
    if not several or not all(isinstance(name, str) for name in leads):
        raise EcgpipeError(f"leads: {leads!r} is not a list of lead names; give one, such as ['I', 'II', 'V1']")
    names = spell_leads(leads)
    unknown = [name for name in names if name not in LEADS]
    missing = [lead for lead in LEADS if lead not in names]
    if unknown and missing:
        raise EcgpipeError(
            f"leads: {', '.join(map(repr, unknown))} not known, and {' '.join(missing)} missing; give the names of the "
            f"rows in their order, out of {' '.join(LEADS)}"
        )
    return tuple(leads)


def _check_windows(windows: Windows) -> None:
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


def _split_recordings(signal: Signal) -> list[np.ndarray]:
    """One array for each recording."""
    if isinstance(signal, list | tuple):
        try:
            arrays = [np.asarray(each) for each in signal]
        except ValueError as error:  # NumPy refuses nested lists of different lengths
            raise EcgpipeError(
                "signal: the leads of a recording differ in length; give each as many samples"
            ) from error
        if arrays and all(array.ndim == 1 and len(array) == len(arrays[0]) for array in arrays):
            arrays = [np.stack(arrays)]  # a list of leads
    else:
        array = np.asarray(signal)
        arrays = list(array) if array.ndim == 3 else [array]
    if not arrays:
        raise EcgpipeError("signal: it holds no recording; give (leads, samples), or several of these")
    return arrays


def _check_shape(array: np.ndarray, leads: Sequence[str], which: str) -> None:
    """Refuse an array that is not (leads, samples) of numbers."""
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise EcgpipeError(f"signal: {which}its values are {array.dtype}; give real numbers")
    if array.ndim == 2 and len(array) == len(leads):
        return
    if array.ndim == 2 and array.shape[1] == len(leads):
        raise EcgpipeError(f"signal: {which}its shape is {array.shape}, which is (samples, leads); give its transpose")
    raise EcgpipeError(
        f"signal: {which}its shape is {array.shape}, and there are {len(leads)} names of leads; give (leads, samples), "
        "with a row for each name"
    )
