"""Train the demo's model: a small network of ECG-FM's architecture, on simulated hearts alone.

    python -m benchmarks.demo_weights [--output FOLDER] [--hearts N] [--held-out N] [--epochs N] [--processes N]

`make demo-weights` writes ecgpipe/selftest/demo_weights: the weights under fairseq-signals' names, the labels with
decision thresholds, and score.json and README.md with how well the model does on simulated hearts that it never saw.
The same machine gives the same files to the last bit: everything drawn at random is seeded, and each step has a fixed
number of threads.

Three sets of hearts share no patient: one to train, one for the thresholds and the probabilities' slope and intercept
(Platt scaling, folded into the last layer), one that is held out and only measured. The demo's own recordings are a
fourth.
"""

import argparse
import csv
import hashlib
import multiprocessing
import os
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from benchmarks import machine
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.logs import logger
from ecgpipe.evaluation import metrics, thresholds
from ecgpipe.models import fairseq_checkpoint, random_init
from ecgpipe.models.ecg_fm.network import Network
from ecgpipe.preprocessing.segments import Windows, prepare
from ecgpipe.readers import LEADS, Recording
from ecgpipe.selftest import demo_model, dipole, simulator
from ecgpipe.selftest.simulator import LABELS, RHYTHMS

SEED = 19
THREADS = 1  # two gain little, and lose much beside other programs
TRAINING, VALIDATION, HELD_OUT = 0, 1, 2  # seeds of the three sets of hearts
RATES = (500, 500, 400, 250)  # of the files, before they are resampled as every recording is
SEGMENT, RECORDING = 2_500, 5_000  # samples
PREMATURE = LABELS.index("Premature ventricular contraction")
SHOWN = ("auroc", "sensitivity", "specificity", "ece")
MARGIN_S = 0.12  # a premature beat this close to the border of a segment cannot be told


class Hearts(NamedTuple):
    """Recordings, ready for the model."""

    signals: Tensor  # (recordings, 12, 5000) float16, standardised over the recording
    labels: Tensor  # (recordings, labels) float32, true of the whole recording
    premature_s: tuple[tuple[float, ...], ...]  # of each recording, when it has premature beats


def make_hearts(kind: int, count: int, processes: int) -> Hearts:
    """Simulate recordings, as many of each rhythm, each of a patient of its own.

    Args:
        kind: TRAINING, VALIDATION or HELD_OUT.
        count: How many.
        processes: That simulate; the number changes nothing.
    """
    if processes == 1:
        made = [_make_heart(kind, number) for number in range(count)]
    else:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            made = list(pool.map(_make_heart, [kind] * count, range(count), chunksize=64))
    signals = torch.from_numpy(np.stack([signal for signal, _, _ in made]))
    labels = torch.tensor([truth for _, truth, _ in made], dtype=torch.float32)
    return Hearts(signals, labels, tuple(times for _, _, times in made))


def _make_heart(kind: int, number: int) -> tuple[np.ndarray, list[bool], tuple[float, ...]]:
    rng = np.random.default_rng([SEED, kind, number])
    rhythm = simulator.vary(list(RHYTHMS.values())[number % len(RHYTHMS)], rng)
    rate = int(rng.choice(RATES))
    simulated = simulator.record(rhythm, dipole.draw_body(rng), rate, rng)
    windows = Windows(segment_s=simulator.DURATION_S)
    prepared = prepare(Recording(simulated.signal, float(rate), LEADS, "mV"), windows, {})
    beats = simulated.beats
    times = tuple(float(at) for at in beats.times_s[beats.premature])
    return prepared.segments[0].astype(np.float16), list(simulated.labels().values()), times


def cut(hearts: Hearts, chosen: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a segment from each of some recordings.

    Args:
        hearts: The recordings.
        chosen: (batch,) their numbers.
        starts: (batch,) the first sample of each segment.

    Returns:
        Segments (batch, 12, 2500) float32, their labels (batch, labels), and how much each label counts, 0 or 1.
    """
    pairs = list(zip(chosen.tolist(), starts.tolist(), strict=True))
    segments = torch.stack([hearts.signals[i, :, start : start + SEGMENT] for i, start in pairs]).float()
    labels, weights = hearts.labels[chosen].clone(), torch.ones(len(pairs), len(LABELS))
    for row, (i, start) in enumerate(pairs):
        from_s, to_s = start / 500, (start + SEGMENT) / 500
        sure = any(from_s + MARGIN_S <= at <= to_s - MARGIN_S for at in hearts.premature_s[i])
        maybe = any(from_s - MARGIN_S <= at <= to_s + MARGIN_S for at in hearts.premature_s[i])
        labels[row, PREMATURE], weights[row, PREMATURE] = float(sure), float(sure or not maybe)
    return segments, labels, weights


def start_network() -> Network:
    """The network with random weights, its positions computed so that they can be trained."""
    arch = fairseq_checkpoint.read_architecture(demo_model.CFG["model"])
    state = random_init.draw_weights(arch, SEED)
    network = Network(arch)
    network.load_state_dict(fairseq_checkpoint.convert_tensors(state, arch, "random weights"))
    network.position.way = "direct"
    return network


def train(network: Network, hearts: Hearts, epochs: int, batch: int = 16, rate: float = 2e-3) -> list[dict[str, Any]]:
    """Train with AdamW and a learning rate that rises for a tenth of the steps and then falls to nothing.

    Args:
        network: Changed in place.
        hearts: To learn from; each epoch takes a segment from a place of its own of each.
        epochs: How many times all are taken.
        batch: Segments of a step.
        rate: The highest learning rate.

    Returns:
        A line of the log for each epoch.
    """
    draw = torch.Generator().manual_seed(SEED)
    count = len(hearts.signals)
    steps = epochs * (count // batch)
    optimizer = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1, cycle_momentum=False)
    log: list[dict[str, Any]] = []
    for epoch in range(epochs):
        order, began, total = torch.randperm(count, generator=draw), time.process_time(), 0.0
        for first in range(0, count - batch + 1, batch):
            starts = torch.randint(0, RECORDING - SEGMENT + 1, (batch,), generator=draw)
            segments, labels, weights = cut(hearts, order[first : first + batch], starts)
            logits = network(segments, with_attention=False).logits
            losses = F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
            loss = losses / weights.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        line = {"epoch": epoch + 1, "loss": round(total / (count // batch), 5)}
        log.append(line)
        logger.info("epoch %d: loss %.4f, %.0f s", epoch + 1, line["loss"], time.process_time() - began)
    return log


def predict(network: Network, hearts: Hearts) -> np.ndarray:
    """(recordings, 2, labels): the logits of the two segments of each recording."""
    network.eval()
    with torch.inference_mode():
        logits = [
            network(hearts.signals[first : first + 32, :, start : start + SEGMENT].float(), with_attention=False).logits
            for first in range(0, len(hearts.signals), 32)
            for start in (0, SEGMENT)
        ]
    return torch.stack([torch.cat(logits[0::2]), torch.cat(logits[1::2])], dim=1).double().numpy()


# Probabilities and thresholds


def calibrate_head(network: Network, logits: np.ndarray, hearts: Hearts) -> None:
    """Give each label the slope and intercept that fit its probabilities to the validation hearts (Platt, 1999).

    Args:
        network: Its last layer is changed.
        logits: (recordings, 2, labels) of the validation hearts.
        hearts: The validation hearts.
    """
    truth = np.stack([_cut_labels(hearts, start) for start in (0, SEGMENT)], axis=1)  # (recordings, 2, labels)
    slopes, intercepts = np.ones(len(LABELS)), np.zeros(len(LABELS))
    for number in range(len(LABELS)):
        x, true = logits[..., number].ravel(), truth[..., number].ravel()
        x, true = x[~np.isnan(true)], true[~np.isnan(true)]
        target = np.where(true == 1, (true.sum() + 1) / (true.sum() + 2), 1 / ((1 - true).sum() + 2))
        design = np.stack([x, np.ones_like(x)])  # (2, segments)
        weights = np.array([1.0, 0.0])
        for _ in range(30):  # Newton's method, held near the identity where the classes are apart
            p = 1 / (1 + np.exp(-weights @ design))
            gradient = design @ (p - target) + 0.1 * (weights - (1, 0))
            curvature = (design * (p * (1 - p))) @ design.T + 0.1 * np.eye(2)
            weights -= np.linalg.solve(curvature, gradient)
        slopes[number], intercepts[number] = weights
    head = cast(torch.nn.Linear, network.head)
    with torch.no_grad():
        head.bias.copy_(head.bias * torch.tensor(slopes) + torch.tensor(intercepts))
        head.weight.mul_(torch.tensor(slopes)[:, None])


def _cut_labels(hearts: Hearts, start: int) -> np.ndarray:
    """(recordings, labels) of the segments from a sample on, NaN where a label cannot be told."""
    chosen = torch.arange(len(hearts.signals))
    _, labels, weights = cut(hearts, chosen, torch.full_like(chosen, start))
    known: np.ndarray = torch.where(weights > 0, labels, torch.nan).double().numpy()
    return known


def aggregate(logits: np.ndarray) -> np.ndarray:
    """(recordings, 2, labels) logits to (recordings, labels) probabilities, as the stage aggregate makes them."""
    probabilities = 1 / (1 + np.exp(-logits))
    most = np.array([demo_model.AGGREGATION[name] == "max" for name in LABELS])
    whole: np.ndarray = np.where(most, probabilities.max(axis=1), probabilities.mean(axis=1))
    return whole


def choose_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """The thresholds with the largest sensitivity + specificity on the validation hearts, to four digits."""
    youden = thresholds.Method.parse("youden")
    points = (thresholds.count_points(labels[:, k], probabilities[:, k]) for k in range(len(LABELS)))
    return [round(float(cast(float, thresholds.choose(one, youden).threshold)), 4) for one in points]


def measure(probabilities: np.ndarray, labels: np.ndarray, at: Sequence[float]) -> dict[str, dict[str, float]]:
    """The metrics of each label, and their mean over the labels as `macro`, to four digits."""
    measured: dict[str, dict[str, float]] = {}
    for one in metrics.measure(labels, probabilities, at, None, 0, SEED):
        if one.metric in SHOWN and one.average != "micro":
            name = "macro" if one.label is None else LABELS[one.label]
            measured.setdefault(name, {})[one.metric] = round(float(one.value), 4)
    return measured


def count_confusions(called: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """What is called of hearts that do not have it.

    Args:
        called: (recordings, labels) bool, the probability is at the threshold or above.
        labels: (recordings, labels) 0 and 1.

    Returns:
        For each label and each other label, how often hearts with the second and without the first are called the
        first; the most frequent first, those below one in twenty left out.
    """
    found = []
    for k, name in enumerate(LABELS):
        for other in range(len(LABELS)):
            hearts = (labels[:, other] == 1) & (labels[:, k] == 0)
            if other != k and hearts.any() and called[hearts, k].mean() >= 0.05:
                share = round(float(called[hearts, k].mean()), 4)
                found.append({"called": name, "of hearts with": LABELS[other], "share": share, "n": int(hearts.sum())})
    return sorted(found, key=lambda row: -row["share"])


# The files


def name_upstream(network: Network) -> dict[str, Tensor]:
    """The network's tensors under fairseq-signals' names and in its parts, as a checkpoint has them."""
    shapes = fairseq_checkpoint.list_tensor_shapes(network.arch)
    state: dict[str, Tensor] = {}
    for ours, tensor in network.state_dict().items():
        module, _, kind = ours.rpartition(".")
        number = "".join(part for part in module.split(".") if part.isdigit())
        upstream = fairseq_checkpoint.UPSTREAM[module.replace(f".{number}", ".#") if number else module]
        names = [f"{name.replace('#', number)}.{kind}" for name in upstream]
        if ours == fairseq_checkpoint.POSITION_WEIGHT:
            length, direction = (f"{upstream[0]}.{part}" for part in fairseq_checkpoint.WEIGHT_NORM)
            state[length] = tensor.double().square().sum(dim=(0, 1), keepdim=True).sqrt().float()
            state[direction] = tensor.clone()
        else:
            state |= {name: part.clone() for name, part in zip(names, tensor.chunk(len(names)), strict=True)}
    if {name: tuple(tensor.shape) for name, tensor in state.items()} != shapes:
        raise RuntimeError("the tensors are not those of a checkpoint")
    return dict(sorted(state.items()))


def write(folder: Path, network: Network, at: Sequence[float], score: Mapping[str, Any]) -> None:
    """Write the weights, the labels, the score and the page that shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / demo_model.WEIGHTS) as path:
        safetensors.torch.save_file(name_upstream(network), path)
    with whole(folder / demo_model.LABELS) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "aggregation", "threshold"])
        writer.writerows((name, demo_model.AGGREGATION[name], x) for name, x in zip(LABELS, at, strict=True))
    weights = (folder / demo_model.WEIGHTS).read_bytes()
    size = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_json(folder / "score.json", {**size, **score})
    with whole(folder / "README.md") as path:
        path.write_text(describe({**size, **score}), encoding="utf-8")


def describe(score: Mapping[str, Any]) -> str:
    """The page beside the weights."""
    hearts, machine = score["hearts"], score["machine"]
    lines = [
        "# The demo's model",
        "",
        "A small network of ECG-FM's architecture, trained on simulated hearts. It is not ECG-FM, and it knows nothing",
        "of real hearts.",
        "Written by `make demo-weights` (`benchmarks/demo_weights.py`); do not edit.",
        "",
        f"{score['parameters']:,} parameters, {score['bytes']:,} bytes. Trained on {hearts['training']:,} simulated "
        f"recordings for {score['epochs']} epochs,",
        f"thresholds and probabilities fitted on {hearts['validation']:,} others, measured on {hearts['held_out']:,}",
        "that it never saw. No two are of the same patient.",
        f"{machine['processor_s']:.0f} s of processor time and {machine['elapsed_s']:.0f} s on the clock, "
        f"threads: {machine['threads']}, {machine['processor']}, PyTorch {machine['torch']}.",
        "",
        "| label | positive | AUROC | sensitivity | specificity |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in score["held_out"].items():
        count = score["positive"].get(name, "")
        lines.append(f"| {name} | {count} | {row['auroc']:.3f} | {row['sensitivity']:.3f} | {row['specificity']:.3f} |")
    lines += [
        "",
        "What is confused: of the hearts in the second column that do not have the first, the share called so.",
        "",
    ]
    lines += ["| called | hearts with | share | of |", "| --- | --- | ---: | ---: |"]
    lines += [
        f"| {row['called']} | {row['of hearts with']} | {row['share']:.0%} | {row['n']} |" for row in score["confused"]
    ]
    losses = ", ".join(f"{line['loss']:.4f}" for line in score["log"])
    return "\n".join([*lines, "", f"Loss of each epoch: {losses}.", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=demo_model.FOLDER, help="default: %(default)s")
    parser.add_argument("--hearts", type=int, default=2_000, help="to train on (default %(default)s)")
    parser.add_argument("--held-out", type=int, default=990, help="to measure on; half as many for the thresholds")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--processes", type=int, default=2, help="that simulate (default %(default)s)")
    args = parser.parse_args(arguments)
    logger.setLevel("INFO")
    clock, processor = time.perf_counter(), sum(os.times()[:4])
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)  # AdamW's squares of small gradients take many times as long otherwise
    training = make_hearts(TRAINING, args.hearts, args.processes)
    validation = make_hearts(VALIDATION, args.held_out // 2, args.processes)
    held_out = make_hearts(HELD_OUT, args.held_out, args.processes)
    logger.info("simulated after %.0f s", time.perf_counter() - clock)
    network = start_network()
    log = train(network, training, args.epochs)
    calibrate_head(network, predict(network, validation), validation)
    at = choose_thresholds(aggregate(predict(network, validation)), validation.labels.numpy())
    truth, probabilities = held_out.labels.numpy(), aggregate(predict(network, held_out))
    score = {
        "hearts": {"training": args.hearts, "validation": args.held_out // 2, "held_out": args.held_out},
        "epochs": args.epochs,
        "seed": SEED,
        "held_out": measure(probabilities, truth, at),
        "positive": dict(zip(LABELS, truth.sum(axis=0).astype(int).tolist(), strict=True)),
        "confused": count_confusions(probabilities >= np.array(at), truth),
        "log": log,
        "machine": {
            "processor_s": round(sum(os.times()[:4]) - processor, 1),
            "elapsed_s": round(time.perf_counter() - clock, 1),
            "threads": THREADS,
            "processor": machine.name(machine.facts()),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    write(args.output, network, at, score)
    print((args.output / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
