"""How long a probe's fit takes, and how long scikit-learn takes for the same on fewer recordings.

    python -m benchmarks.probe [--recordings 100000] [--width 768] [--labels 17] [--subset 10000]

The features vary along few directions much and along many little, as a network's do, and the labels depend on them,
the last of them rare. All penalties that `probe` tries are fitted, of 70 % of the recordings. scikit-learn gets the
middle one alone, for all labels of the subset; ours is timed beside it for the same.
"""

import argparse
import json
from time import perf_counter

import numpy as np
from sklearn.linear_model import LogisticRegression

from ecgpipe.evaluation import logistic_regression
from ecgpipe.evaluation.head_training import STRENGTHS
from ecgpipe.evaluation.splits import SHARES


def problem(recordings: int, width: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """(recordings, width) standardised features and (recordings, labels), float32."""
    random = np.random.default_rng(0)
    mix = random.standard_normal((width, width), np.float32)
    mix *= np.exp(-np.arange(width) / (width / 6)).astype(np.float32)[:, None]
    features = random.standard_normal((recordings, width), np.float32) @ mix
    features += 0.05 * random.standard_normal((recordings, width), np.float32)
    features -= features.mean(axis=0)
    features /= features.std(axis=0)
    margin = features @ random.standard_normal((width, labels), np.float32) * 2 / width**0.5 - np.linspace(0, 6, labels)
    return features, (margin + random.logistic(size=margin.shape) > 0).astype(np.float32)


def ours(
    features: np.ndarray, true: np.ndarray, strengths: tuple[float, ...]
) -> tuple[float, logistic_regression.Linear]:
    """Seconds, and what was found last."""
    began = perf_counter()
    shape = logistic_regression.curvature(features)
    found = logistic_regression.Linear(np.zeros((features.shape[1], true.shape[1])), np.zeros(true.shape[1]))
    for strength in strengths:
        found = logistic_regression.fit(features, true, np.full(true.shape[1], strength), shape, found)
    return perf_counter() - began, found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"recordings": 100_000, "width": 768, "labels": 17, "subset": 10_000}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    features, true = problem(args.recordings, args.width, args.labels)
    train = int(SHARES[0] * args.recordings)
    seconds, _ = ours(features[:train], true[:train], STRENGTHS)

    some, few = features[: args.subset], true[: args.subset]
    middle = STRENGTHS[len(STRENGTHS) // 2]
    alone, found = ours(some, few, (middle,))
    began = perf_counter()
    fits = [LogisticRegression(C=middle, tol=1e-6, max_iter=10_000).fit(some, few[:, n]) for n in range(args.labels)]
    theirs = perf_counter() - began
    apart = max(float(np.abs(fit.coef_[0] - found.weight[:, n]).max()) for n, fit in enumerate(fits))
    result = {
        **vars(args),
        "seconds": round(seconds, 1),
        "subset_seconds": round(alone, 2),
        "subset_seconds_scikit_learn": round(theirs, 2),
        "ratio": round(theirs / alone, 1),
        "largest_difference_of_a_coefficient": apart,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
