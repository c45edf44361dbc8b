"""Compute with the real fairseq-signals, in an environment of its own: it imports only on Python 3.9 and 3.10.

fairseq_forward.py runs there. This side starts it, sends it segments, and receives its answers.
"""

import json
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import fairseq_forward, segment_files
from ecgpipe.inference.engine import Results, Stream
from ecgpipe.inference.segment_files import Contents
from ecgpipe.models.description import Description

logger = logging.getLogger(__name__)

SCRIPT = Path(fairseq_forward.__file__)

Answer = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


@contextmanager
def open_fairseq(
    python: Path, checkpoint: Path, device: str = "cpu", threads: int = 1
) -> Iterator[tuple[dict[str, Any], Answer]]:
    """fairseq-signals with a checkpoint loaded, in a process of its own.

    Args:
        python: The interpreter of an environment that has it.
        checkpoint: The .pt file as fairseq-signals saved it.
        device: cpu, cuda or cuda:N.
        threads: CPU threads.

    Yields:
        Its versions, and a function that takes `signal` (batch, leads, samples) float32 and `samples` (batch,) and
        returns `logits` (batch, labels), `embedding` (batch, width) and `attention` (batch, tokens), float32.

    Raises:
        EcgpipeError: There is no such interpreter, it has no fairseq-signals, or that does not take the checkpoint.
    """
    command = [str(python), str(SCRIPT), "-", "-", "--device", device, "--threads", str(threads)]
    with tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages)
        except OSError as error:
            raise EcgpipeError(
                f"fairseq-signals: {python} cannot be run ({error.strerror}); {fairseq_forward.INSTALL}"
            ) from error
        assert process.stdin is not None  # noqa: S101, it is a pipe
        assert process.stdout is not None  # noqa: S101
        to, answers = process.stdin, fairseq_forward.read(process.stdout)

        def ask(**arrays: np.ndarray) -> dict[str, np.ndarray]:
            try:
                fairseq_forward.write(to, **arrays)
                answered: dict[str, np.ndarray] = next(answers)
            except (OSError, EOFError, StopIteration) as error:  # it is gone
                process.wait()
                raise EcgpipeError(_find_reason(messages, process.returncode)) from error
            return answered

        try:
            about: dict[str, Any] = json.loads(str(ask(checkpoint=np.array(str(checkpoint.resolve())))["about"]))
            yield about, lambda signal, samples: ask(signal=signal, samples=samples)
        finally:
            process.kill()
            process.communicate()


def find_original(description: Description, source: str | None = None) -> Path:
    """Find the .pt file that a run's checkpoint was converted from.

    Args:
        description: The run's `checkpoint/model.json`.
        source: The checkpoint of the run's settings.

    Returns:
        Its path: the local one, or where the hub's client keeps it, which fetches it again if it is not there.

    Raises:
        EcgpipeError: It is not there any more, or is another one.
    """
    from ecgpipe.models import hub  # here, because its client takes a third of a second of each job of inference

    uri = description.uri
    if uri.startswith("hf://") and description.revision:
        where = hub.parse_uri(uri)
        uri = f"hf://{where.repo}@{description.revision}/{where.file}"
    elif source:
        uri = source
    return hub.fetch(uri, description.sha256).path


def compute_results(
    python: Path,
    description: Description,
    paths: Sequence[Path],
    contents: Contents,
    device: torch.device,
    batch_size: int,
    with_attention: bool,
    threads: int,
) -> Stream:
    """Have fairseq-signals compute all segments of some shards, as `engine.run` has the network.

    Args:
        python: The interpreter of an environment that has it.
        description: The run's `checkpoint/model.json`, which names the .pt file.
        paths: The shards.
        contents: What they hold, by `segment_files.inspect_shards`.
        device: Where it computes.
        batch_size: Segments at a time.
        with_attention: Whether to keep the attention.
        threads: CPU threads.

    Yields:
        The keys of a batch and its outputs; the attention of padding is 0, as ecgpipe writes it.

    Raises:
        EcgpipeError: As of `open_fairseq`, or an answer has another shape than the network of the checkpoint gives.
    """
    arch = description.architecture
    shapes = {"logits": arch.labels, "embedding": arch.width}
    if with_attention:
        shapes["attention"] = arch.tokens(contents.samples)
    size = min(batch_size, max(1, contents.segments))
    with open_fairseq(python, find_original(description), str(device), threads) as (about, answer):
        logger.info("fairseq-signals %s, %s", about["fairseq_signals"], about["model"])
        for keys, signals in segment_files.read_batches(paths, [torch.empty(size, contents.leads, contents.samples)]):
            outputs = answer(signals.numpy(), keys.samples)
            for kind, width in shapes.items():
                if outputs[kind].shape != (len(keys.record_ids), width):
                    raise EcgpipeError(
                        f"fairseq-signals: {kind} has the shape {outputs[kind].shape} and should have "
                        f"{(len(keys.record_ids), width)}; the checkpoint is not of the kind that its cfg.model says"
                    )
            if with_attention:
                counts = np.array([arch.tokens(int(count)) for count in keys.samples])  # (n,)
                outputs["attention"][np.arange(shapes["attention"]) >= counts[:, None]] = 0
            yield (
                keys,
                Results(outputs["logits"], outputs["embedding"], outputs["attention"] if with_attention else None),
            )


def _find_reason(messages: IO[bytes], status: int) -> str:
    """The reason why the process ended, from its messages, in one line."""
    messages.seek(0)
    lines = messages.read().decode(errors="replace").split("\n")
    errors = [line.partition("error: ")[2] for line in lines if line.startswith("[fairseq-signals] error: ")]
    if errors:
        return f"fairseq-signals: {errors[-1]}"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"fairseq-signals: its process ended with status {status}: {last}; {fairseq_forward.INSTALL}"
