"""What the intervals of an evaluation take, beside scikit-learn called for each resample and label.

    python -m benchmarks.evaluation [--recordings N] [--labels N] [--resamples N] [--pairs N]

Simulated scores without ties; prevalences from 0.5 % to 30 %; three recordings of a patient on average. scikit-learn
computes six of the nine metrics of each label (all but specificity, calibration error and prevalence), with the weights
of one resample, and nothing of the averages; all resamples would take a multiple of that. Both sides are measured in
turn, in one process: seconds, and the processor's, which other work on the machine does not lengthen as much.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from sklearn import metrics as sklearn_metrics

from ecgpipe.evaluation import metrics


def by_scikit_learn(true: np.ndarray, score: np.ndarray, weights: np.ndarray) -> None:
    """One resample the usual way."""
    for label in range(true.shape[1]):
        arguments = {"sample_weight": weights}
        called = score[:, label] >= 0.5
        sklearn_metrics.roc_auc_score(true[:, label], score[:, label], **arguments)
        sklearn_metrics.average_precision_score(true[:, label], score[:, label], **arguments)
        sklearn_metrics.brier_score_loss(true[:, label], score[:, label], **arguments)
        sklearn_metrics.precision_recall_fscore_support(
            true[:, label], called, average="binary", zero_division=np.nan, **arguments
        )


def seconds(work: Callable[[], object]) -> np.ndarray:
    """How long the work takes, and how long a processor, once."""
    started = np.array([time.perf_counter(), time.process_time()])
    work()
    ended = np.array([time.perf_counter(), time.process_time()])
    took: np.ndarray = ended - started
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=17)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each side (default %(default)s)")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    shape = (args.recordings, args.labels)
    true = (random.random(shape) < np.linspace(0.005, 0.3, args.labels)).astype(np.float32)
    score = 1 / (1 + np.exp(2 - 2 * true - random.normal(size=shape)))
    patients = random.integers(0, max(1, args.recordings // 3), args.recordings)
    thresholds = np.full(args.labels, 0.5)
    times = []
    for number in range(args.pairs):
        ours = seconds(lambda: metrics.measure(true, score, thresholds, patients, args.resamples))
        weights = np.random.default_rng(number).poisson(1, args.recordings).astype(float)
        one = seconds(lambda weights=weights: by_scikit_learn(true, score, weights))  # type: ignore[misc]
        times.append((ours, one * args.resamples))
        print(f"{args.resamples} resamples: {ours[0]:.1f} s, by scikit-learn {one[0]:.2f} s for one of them")
    for side, what in enumerate(["seconds", "of a processor"]):
        mine, theirs = (median(pair[i][side] for pair in times) for i in (0, 1))
        ratio = median(pair[1][side] / pair[0][side] for pair in times)
        print(f"{what}: {mine:.1f}, by scikit-learn {theirs:.0f}, ratio {ratio:.0f}: medians of {args.pairs} pairs")


if __name__ == "__main__":
    main()
