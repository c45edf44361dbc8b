"""Ask the real fairseq-signals, which lives in an environment of its own: it imports on Python 3.9 and 3.10 alone.

What runs there is reference/forward.py. This side starts it, sends it segments, and takes what it answers.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ecgpipe.errors import EcgpipeError
from ecgpipe.reference import forward

SCRIPT = Path(forward.__file__)

Answer = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


@contextmanager
def opened(
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
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        except OSError as error:
            raise EcgpipeError(
                f"fairseq-signals: {python} cannot be run ({error.strerror}); {forward.INSTALL}"
            ) from error
        assert process.stdin is not None  # noqa: S101, it is a pipe
        assert process.stdout is not None  # noqa: S101
        to, answers = process.stdin, forward.read(process.stdout)

        def ask(**arrays: np.ndarray) -> dict[str, np.ndarray]:
            try:
                forward.write(to, **arrays)
                answered: dict[str, np.ndarray] = next(answers)
            except (OSError, EOFError, StopIteration) as error:  # it is gone
                process.wait()
                raise EcgpipeError(_why(said, process.returncode)) from error
            return answered

        try:
            about: dict[str, Any] = json.loads(str(ask(checkpoint=np.array(str(checkpoint.resolve())))["about"]))
            yield about, lambda signal, samples: ask(signal=signal, samples=samples)
        finally:
            process.kill()
            process.communicate()


def _why(said: IO[bytes], status: int) -> str:
    """What the process that ended said of it, in one line."""
    said.seek(0)
    lines = said.read().decode(errors="replace").split("\n")
    errors = [line.partition("error: ")[2] for line in lines if line.startswith("[fairseq-signals] error: ")]
    if errors:
        return f"fairseq-signals: {errors[-1]}"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"fairseq-signals: its process ended with status {status}: {last}; {forward.INSTALL}"
