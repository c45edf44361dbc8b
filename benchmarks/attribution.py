"""How exact integrated gradients are by the power, the rule and the steps of the sum, and how long a step takes.

    python -m benchmarks.attribution [--tiny] [--steps N ...] [--powers N ...] [--threads N]

ECG-FM's architecture with random weights, on simulated recordings. An error is what the sum misses of the difference
between the logit of a segment and that of a flat line, as a share of that difference, both in the mean over segments
and labels. `map` is the correlation with the attributions of the most steps. The last line is the check by deletion.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.ecg_fm import write
from benchmarks.sides import CORES
from ecgpipe.analysis import attribute, integrated_gradients
from ecgpipe.inference import engine
from ecgpipe.models.description import describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.preprocessing.segments import Prepared, Windows, prepare
from ecgpipe.readers import LEADS, Recording
from ecgpipe.selftest.simulator import RHYTHMS, simulate

RULES = ("riemann_middle", "gausslegendre", "riemann_trapezoid")
LABELS = (1, 3)


def segments(count: int) -> Prepared:
    """The first segment of each of some simulated recordings."""
    first_segments = []
    for number in range(count):
        signal = simulate(RHYTHMS["sinus"], 500, np.random.default_rng(number))
        first_segments.append(prepare(Recording(signal, 500.0, LEADS, "mV"), Windows(), {}).segments[:1])
    return Prepared(np.concatenate(first_segments), np.zeros(count, np.float32), 2500, {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny network")
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 32, 48, 64, 96])
    parser.add_argument("--powers", type=int, nargs="+", default=[1, 4, 6, 8, 10, 12])
    parser.add_argument("--segments", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--exact", type=int, default=256, help="steps of what maps are held against")
    parser.add_argument("--threads", type=int, default=CORES, help="(default %(default)s)")
    args = parser.parse_args()

    prepared = segments(args.segments)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), args.tiny)
        engine.configure(args.threads, deterministic=False)
        arch = describe(Path(name) / "model.json").architecture
        network = ecg_fm_network.load(arch, Path(name) / "model.safetensors", packed=False)

    def errors(steps: int, power: int, rule: str) -> tuple[list[attribute.Explained], float]:
        integrated_gradients.POWER, integrated_gradients.RULE = power, rule
        began = perf_counter()
        found = [attribute.explain(network, prepared, label, steps, 16) for label in LABELS]
        return found, perf_counter() - began

    usual = integrated_gradients.POWER, integrated_gradients.RULE
    exact, seconds = errors(args.exact, *usual)
    ms = 1000 * seconds / (args.exact * args.segments * len(LABELS))
    print(f"{args.exact} steps: {ms:.0f} ms per step and segment")
    print(f"{'power':>5} {'rule':<18} {'steps':>5} {'error':>7} {'map':>7}")
    tried = [(power, usual[1], steps) for power in args.powers for steps in args.steps]
    tried += [(usual[0], rule, steps) for rule in RULES if rule != usual[1] for steps in args.steps]
    for power, rule, steps in tried:
        found, _ = errors(steps, power, rule)
        missed = np.mean([np.abs(one.error).mean() for one in found])
        apart = np.mean([np.abs(one.logit - one.baseline_logit).mean() for one in found])
        pairs = [(a.attribution.ravel(), b.attribution.ravel()) for a, b in zip(found, exact, strict=True)]
        alike = np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])
        print(f"{power:>5} {rule:<18} {steps:>5} {missed / apart:>7.1%} {alike:>7.4f}", flush=True)
    integrated_gradients.POWER, integrated_gradients.RULE = usual
    began = perf_counter()
    found = [attribute.explain(network, prepared, label, None, 16) for label in LABELS]
    seconds = (perf_counter() - began) / (args.segments * len(LABELS))
    missed = np.mean([np.abs(one.error / (one.logit - one.baseline_logit)).mean() for one in found])
    alike = np.mean(
        [np.corrcoef(a.attribution.ravel(), b.attribution.ravel())[0, 1] for a, b in zip(found, exact, strict=True)]
    )
    steps = np.mean([one.steps.mean() for one in found])
    print(
        f"by the completeness error: {steps:.1f} steps, error {missed:.1%}, map {alike:.4f}, {seconds:.1f} s a segment"
    )
    drop = np.mean([one.drop.mean() for one in exact])
    random = np.mean([np.abs(one.random_drop).mean() for one in exact])
    print(f"without the tenth that speaks most for the label: {drop:.3f}; without a random tenth: {random:.3f}")


if __name__ == "__main__":
    main()
