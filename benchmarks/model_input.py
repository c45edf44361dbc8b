"""How long a model's input takes, next to the calls of scipy that compute the same.

    python -m benchmarks.model_input [--seconds S] [--repeats N]

One recording of twelve leads at 400 Hz, on one core: nothing here uses threads. For each family the other side is what
its authors' code calls: scipy.signal's filters and resamplers, scipy.interpolate and NumPy, in float64, and then
float32. Both sides are measured in turn, in the processor's time, and the fastest time of each counts: what else a
shared machine does makes the others longer. The target is a ratio of 1.3 at most.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import scipy.interpolate
import scipy.signal

from ecgpipe.core.model_input import ModelInput
from ecgpipe.models.deepecg_ssl import family as deepecg_ssl
from ecgpipe.models.ecg_fm import family as ecg_fm
from ecgpipe.models.ecg_jepa import family as ecg_jepa
from ecgpipe.models.ecgfounder import family as ecgfounder
from ecgpipe.models.hubert_ecg import family as hubert_ecg
from ecgpipe.preprocessing.transform import transform

RATE = 400
TARGET = 1.3

Compute = Callable[[np.ndarray], np.ndarray]


def cut(signal: np.ndarray, samples: int) -> list[np.ndarray]:
    """The consecutive windows of a recording."""
    return [signal[:, start : start + samples] for start in range(0, signal.shape[1] - samples + 1, samples)]


def interpolate(signal: np.ndarray, rate: int) -> np.ndarray:
    """(12, samples) at another sampling rate, from end to end."""
    count = signal.shape[1] * rate // RATE
    old = np.linspace(0, 1, signal.shape[1])
    interpolated: np.ndarray = scipy.interpolate.interp1d(old, signal)(np.linspace(0, 1, count))
    return interpolated


def compute_ecg_fm(signal: np.ndarray) -> np.ndarray:
    """ECG-FM's segments, (segments, 12, 2500)."""
    resampled = interpolate(signal, 500)
    standard = (resampled - resampled.mean(1, keepdims=True)) / (resampled.std(1, keepdims=True) + 1e-8)
    return np.stack(cut(standard, 2500)).astype(np.float32)


def filter_as_ecgfounder(window: np.ndarray) -> np.ndarray:
    """The authors' three filters, for a window at 500 Hz."""
    notched = scipy.signal.filtfilt(*scipy.signal.iirnotch(50, 30, 500), window)
    filtered = scipy.signal.filtfilt(*scipy.signal.butter(4, [0.67, 40], "bandpass", fs=500), notched)
    baseline = np.stack([scipy.signal.medfilt(lead, 201) for lead in filtered])
    detrended: np.ndarray = filtered - baseline
    return detrended


def compute_ecgfounder(signal: np.ndarray) -> np.ndarray:
    """ECGFounder's filtered windows, (windows, 12, 5000)."""
    filtered = [filter_as_ecgfounder(interpolate(window, 500)) for window in cut(signal, 10 * RATE)]
    return np.stack([(one - one.mean()) / (one.std() + 1e-8) for one in filtered]).astype(np.float32)


def compute_ecgfounder_plain(signal: np.ndarray) -> np.ndarray:
    """ECGFounder's plain windows, (windows, 12, 5000)."""
    windows = [(one - one.mean()) / (one.std() + 1e-8) for one in cut(signal, 10 * RATE)]
    return np.stack([interpolate(window, 500) for window in windows]).astype(np.float32)


def compute_deepecg_ssl(signal: np.ndarray) -> np.ndarray:
    """DeepECG-SSL's windows, (windows, 12, 2500)."""
    new, old = np.arange(2500) / 250, np.arange(10 * RATE) / RATE
    windows = [[np.interp(new, old, lead) for lead in window] for window in cut(signal, 10 * RATE)]
    return np.array(windows, np.float32)


def compute_hubert_ecg(signal: np.ndarray) -> np.ndarray:
    """HuBERT-ECG's windows, (windows, 1, 6000)."""
    taps = scipy.signal.firwin(121, [0.05, 47], pass_zero=False, fs=RATE)
    resampled = scipy.signal.resample(scipy.signal.filtfilt(taps, 1, signal), signal.shape[1] * 500 // RATE, axis=1)
    lowest, highest = resampled.min(1, keepdims=True), resampled.max(1, keepdims=True)
    scaled = 2 * (resampled - lowest) / (highest - lowest + 1e-8) - 1
    rows = [scipy.signal.decimate(window.ravel(), 5) for window in cut(scaled, 2500)]
    return np.stack(rows)[:, None].astype(np.float32)


def compute_ecg_jepa(signal: np.ndarray) -> np.ndarray:
    """ECG-JEPA's windows, (windows, 8, 2500)."""
    resampled = scipy.signal.resample(signal, signal.shape[1] * 500 // RATE, axis=1)
    return np.stack([scipy.signal.resample(one, 2500, axis=1) for one in cut(resampled, 5000)]).astype(np.float32)


SIDES: dict[str, tuple[ModelInput, Compute]] = {
    "ecg-fm": (ecg_fm.INPUT, compute_ecg_fm),
    "ecgfounder, filtered": (ecgfounder.INPUT, compute_ecgfounder),
    "ecgfounder, plain": (ecgfounder.VARIANTS["plain"], compute_ecgfounder_plain),
    "deepecg-ssl": (deepecg_ssl.INPUT, compute_deepecg_ssl),
    "hubert-ecg": (hubert_ecg.INPUT, compute_hubert_ecg),
    "ecg-jepa": (ecg_jepa.INPUT, compute_ecg_jepa),
}


def simulate(seconds_long: float) -> np.ndarray:
    """(12, samples) in mV, noise with a drift: what it is does not matter for the time."""
    random = np.random.default_rng(0)
    signal = random.standard_normal((12, int(seconds_long * RATE)))
    drifting: np.ndarray = signal + np.cumsum(signal, axis=1) / 30
    return drifting


def seconds(compute: Callable[[], object]) -> float:
    """The processor's time that a call takes, once."""
    started = time.process_time()
    compute()
    return time.process_time() - started


def compare(name: str, signal: np.ndarray, repeats: int) -> tuple[float, float, float, float]:
    """Measure one family.

    Args:
        name: A key of `SIDES`.
        signal: (12, samples) at 400 Hz.
        repeats: Pairs of measurements.

    Returns:
        Seconds of scipy's calls, our seconds, the ratio, and the largest difference of the results.
    """
    model_input, reference = SIDES[name]
    rows = np.ascontiguousarray(signal[list(model_input.lead_rows)])
    apart = float(np.abs(transform(rows, RATE, model_input).windows - reference(rows)).max())
    times = [
        (seconds(lambda: reference(rows)), seconds(lambda: transform(rows, RATE, model_input))) for _ in range(repeats)
    ]
    theirs, ours = (min(column) for column in zip(*times, strict=True))
    return theirs, ours, ours / theirs, apart


def main() -> None:
    """Measure every family and print a table."""
    parser = argparse.ArgumentParser(description="the time of each model's input, next to scipy's calls")
    parser.add_argument("--seconds", type=float, default=30, help="length of the recording")
    parser.add_argument("--repeats", type=int, default=31, help="pairs of measurements")
    args = parser.parse_args()
    signal = simulate(args.seconds)
    print(f"{'':<22} {'scipy ms':>9} {'ours ms':>9} {'ratio':>6} {'difference':>11}   (target: ratio {TARGET} at most)")
    for name in SIDES:
        theirs, ours, ratio, apart = compare(name, signal, args.repeats)
        print(f"{name:<22} {theirs * 1000:>9.1f} {ours * 1000:>9.1f} {ratio:>6.2f} {apart:>11.1e}")


if __name__ == "__main__":
    main()
