"""Split recordings, to train with, to choose with and to measure with: by a column, or by patient at random."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xxhash

from ecgpipe.core import normalized_text
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
NONE = -1

# Of the patients, where they are split at random.
SHARES = (0.7, 0.1, 0.2)


def by_column(values: pa.Array, wanted: Sequence[Sequence[str]]) -> np.ndarray:
    """Split recordings by a column.

    Args:
        values: (recordings,) of the column.
        wanted: For each of `SPLITS` its values.

    Returns:
        (recordings,) integers: the index in `SPLITS`, or `NONE`.

    Raises:
        EcgpipeError: A value is missing in the column, or is given for two splits.
    """
    split = np.full(len(values), NONE)
    for number, split_values in enumerate(wanted):
        for value in split_values:
            rows = ground_truth.find_value(values, value)
            if (rows & (split != NONE) & (split != number)).any():
                raise EcgpipeError(f"split: {value!r} is given for two splits; a recording is in one")
            split[rows] = number
    return split


def by_patient(patients: pa.Array, seed: int) -> np.ndarray:
    """Split patients at random, by a checksum of their ids: a patient stays in its split when others are added.

    Args:
        patients: (recordings,) their ids. Recordings without a patient id are in no split.
        seed: Another seed gives another split.

    Returns:
        As `by_column`.
    """
    coded = normalized_text.as_ids(patients).dictionary_encode()
    texts = coded.dictionary.to_pylist()
    drawn = np.array([xxhash.xxh64_intdigest(f"{seed}:{text}".encode()) / 2**64 for text in texts])
    split_of = np.searchsorted(np.cumsum(SHARES)[:-1], drawn, side="right")  # (patients,)
    codes = coded.indices.fill_null(NONE).to_numpy(zero_copy_only=False)
    return np.where(codes == NONE, NONE, np.append(split_of, NONE)[codes])


def refuse_shared(split: np.ndarray, patients: pa.Array | None) -> None:
    """Raise an error if a patient has recordings in two splits."""
    if patients is None:
        return
    coded = normalized_text.as_ids(patients).dictionary_encode()
    is_in = np.zeros((len(coded.dictionary), len(SPLITS)), bool)
    has_both = coded.indices.is_valid().to_numpy(zero_copy_only=False) & (split != NONE)
    is_in[coded.indices.fill_null(0).to_numpy()[has_both], split[has_both]] = True
    shared = np.flatnonzero(is_in.sum(axis=1) > 1)
    if len(shared):
        raise EcgpipeError(
            f"split: {len(shared)} patients have recordings in more than one split, such as "
            f"{coded.dictionary[int(shared[0])].as_py()!r}, so the test would be too good; leave out --split "
            "to split by patient, or --patient to keep this split"
        )
