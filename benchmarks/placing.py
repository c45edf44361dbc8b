"""What placing segments on the map takes and how good the places are, beside umap-learn's transform of the same fit.

    python -m benchmarks.placing [--sample 20000] [--segments 2000] [--rounds 5] [--spread 0.5]

Made-up embeddings as wide as ECG-FM's: clusters in 24 directions, bent into 768, with a little noise around. The two
sides take turns, on the same segments and one core; the time is the process's own. The places of a round are judged by
the segments of the fit around them: how often most of the fifteen nearest have the right cluster, how many of the
hundred nearest by embedding are among the hundred nearest on the map, and trustworthiness. `init` is where umap-learn
begins.
"""

import argparse
import os
import time

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import numpy as np
import umap
from sklearn.neighbors import NearestNeighbors

from ecgpipe.analysis import umap_fit, umap_place

WIDTH, DIRECTIONS, CLUSTERS = 768, 24, 25


def make(count: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings, (count, WIDTH) float32, and the cluster of each."""
    random = np.random.default_rng(0)
    centres = spread * random.standard_normal((CLUSTERS, DIRECTIONS))
    clusters = random.integers(0, CLUSTERS, count)
    hidden = centres[clusters] + 0.6 * random.standard_normal((count, DIRECTIONS))
    bent = np.tanh(hidden @ random.standard_normal((DIRECTIONS, 256)) / np.sqrt(DIRECTIONS))
    values = bent @ random.standard_normal((256, WIDTH)) / 16 + 1 + 0.05 * random.standard_normal((count, WIDTH))
    return values.astype(np.float32), clusters


def build_fit(reducer: umap.UMAP, sample: np.ndarray) -> umap_fit.Fit:
    """What ecgpipe places by, of umap-learn's own fit."""
    mean, directions = umap_fit.find_directions(sample)
    rows = np.arange(len(sample))
    return umap_fit.Fit(
        vectors=sample,
        places=reducer.embedding_,
        part=np.zeros(len(sample), np.int64),
        row=rows,
        segment=np.zeros(len(sample), np.int32),
        record_ids=[str(row) for row in rows],
        mean=mean,
        directions=directions,
        curve=np.array([reducer._a, reducer._b]),
        total=len(sample),
        mapping={"neighbors": reducer.n_neighbors},
    )


def begin(placer: umap_place.Placer, vectors: np.ndarray) -> np.ndarray:
    """Where umap-learn's transform begins: the places without a step."""
    steps, umap_place.STEPS = umap_place.STEPS, 0
    places = umap_place.place(placer, vectors)
    umap_place.STEPS = steps
    return places


def judge(
    places: np.ndarray, true: np.ndarray, fit: umap_fit.Fit, nearest: np.ndarray, clusters: np.ndarray
) -> tuple[float, float, float]:
    """The fraction in the right cluster, of the hundred nearest kept, and trustworthiness with fifteen neighbours."""
    on_map = NearestNeighbors(n_neighbors=100).fit(fit.places).kneighbors(places, return_distance=False)
    found = [np.bincount(clusters[row[:15]]).argmax() for row in on_map]
    kept = np.mean([len(np.intersect1d(a, b[:100])) / 100 for a, b in zip(on_map, nearest, strict=True)])
    n, k = len(fit.places), 15
    ranks = np.empty(nearest.shape, np.int64)  # of each of the sample by embedding
    np.put_along_axis(ranks, nearest, np.broadcast_to(np.arange(1, n + 1), nearest.shape), axis=1)
    beyond = np.maximum(np.take_along_axis(ranks, on_map[:, :k], axis=1) - k, 0).sum()
    trust = 1 - 2 * beyond / (len(places) * k * (2 * n - 3 * k - 1))
    return float(np.mean(np.array(found) == true)), float(kept), float(trust)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=20_000, help="segments of the fit")
    parser.add_argument("--segments", type=int, default=2_000, help="to place in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spread", type=float, default=0.5, help="of the clusters' centres: the fewer, the harder")
    args = parser.parse_args()
    values, clusters = make(args.sample + args.segments * args.rounds, args.spread)
    sample, others = values[: args.sample], values[args.sample :]
    reducer = umap.UMAP(n_neighbors=15, min_dist=0.1, random_state=42, n_jobs=1).fit(sample)
    placer = umap_place.prepare(build_fit(reducer, sample))
    sides = {
        "umap-learn": reducer.transform,
        "init": lambda vectors: begin(placer, vectors),
        "umap_place": lambda vectors: umap_place.place(placer, vectors),
    }
    for side in sides.values():
        side(others[:300] + 0.01)  # compiles
    results: dict[str, list[tuple[float, ...]]] = {name: [] for name in sides}
    recall = []
    for start in range(0, len(others), args.segments):
        vectors, true = others[start : start + args.segments], clusters[args.sample + start :][: args.segments]
        search = NearestNeighbors(n_neighbors=args.sample, algorithm="brute").fit(sample)
        nearest = search.kneighbors(vectors, return_distance=False)
        block = vectors[: umap_place.BLOCK]
        found, _ = umap_place.find_neighbors(placer, block)
        recall += [len(np.intersect1d(a, b[:15])) / 15 for a, b in zip(found, nearest[: len(block)], strict=True)]
        for name, side in sides.items():
            began = time.process_time()
            places = side(vectors)
            spent_ms = 1000 * (time.process_time() - began) / len(vectors)
            judged = judge(places, true, placer.fitted, nearest, clusters[: args.sample])
            results[name].append((spent_ms, *judged))
            print(f"{name:<12}", *(f"{value:9.4f}" for value in results[name][-1]), flush=True)
    print(f"\nof the 15 nearest found: {np.mean(recall):.4f}")
    print(f"{'median of':<12} {'ms':>9} {'cluster':>9} {'kept':>9} {'trust':>9}")
    for name, rows in results.items():
        print(f"{name:<12}", *(f"{value:9.4f}" for value in np.median(rows, axis=0)))


if __name__ == "__main__":
    main()
