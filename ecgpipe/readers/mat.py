"""MATLAB files in fairseq-signals' layout: `feats` (12, samples) and a sample rate.

Upstream: scripts/preprocess/ecg of https://github.com/Jwoo5/fairseq-signals, whose README fixes the order of the rows.
"""

from pathlib import Path

import scipy.io

from ecgpipe.readers.recording import LEADS, Assumed, Recording, UnreadableError, from_array, rate_of

SUFFIXES = (".mat",)

# `feats` is at the current rate, which differs from the original one in fairseq-signals' `preprocessed` folder.
_SAMPLE_RATES = ("curr_sample_rate", "org_sample_rate")


def read(path: Path, assumed: Assumed) -> Recording:
    """Read a MAT file; see `readers.read`."""
    try:
        with path.open("rb") as file:
            content = scipy.io.loadmat(file, variable_names=("feats", *_SAMPLE_RATES))
    except (FileNotFoundError, PermissionError):
        raise
    except NotImplementedError as error:
        raise UnreadableError("a MATLAB 7.3 file; save it with -v7") from error
    except Exception as error:  # scipy raises many kinds on a broken file
        raise UnreadableError(f"not a readable MATLAB file ({error})") from error
    if "feats" not in content:
        names = ", ".join(name for name, *_ in scipy.io.whosmat(path)) or "nothing"
        raise UnreadableError(f"the MATLAB file has no array `feats` (only {names})")
    rates = [rate for name in _SAMPLE_RATES if (rate := rate_of(content.get(name)))]
    return from_array(content["feats"], rates[0] if rates else None, LEADS, None, assumed)
