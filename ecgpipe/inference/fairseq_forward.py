"""What fairseq-signals itself computes from a checkpoint: the other side of every comparison with it.

    python forward.py INPUT OUTPUT [--device cuda] [--threads 4]

Runs by itself in an environment that has fairseq-signals (workflow/envs/fairseq-signals.yaml), so it imports nothing of
ecgpipe and keeps to Python 3.9. INPUT and OUTPUT are files, or `-` for standard input and output, of frames: eight
bytes that say how long a NumPy .npz is, little-endian, and the .npz. The first frame of INPUT holds `checkpoint`, the
path of the .pt file, and that of OUTPUT `about`, a JSON text of versions. Each further frame of INPUT holds `signal`,
(batch, leads, samples) float32, and `samples`, (batch,) integers, how many of each segment from its beginning are
signal and not padding. It is answered by one of `logits` (batch, labels), `embedding` (batch, width) and `attention`
(batch, tokens), float32.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import struct
import sys
from collections.abc import Iterator
from typing import IO, Any

INSTALL = (
    "make the environment of workflow/envs/fairseq-signals.yaml: snakemake --software-deployment-method conda does, or "
    "by hand, as docs/verify.md says, and then give its python as inference.fairseq_python or --python"
)

try:
    import numpy as np
    import torch
except ImportError as error:
    sys.exit(f"[fairseq-signals] error: {sys.executable} has no {error.name}; {INSTALL}")

# What fairseq-signals' own state may hold besides tensors and plain values; as in ecgpipe/models/fairseq_checkpoint.py.
_CORE: Any = np._core if hasattr(np, "_core") else np.core
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
    (_CORE.multiarray.scalar, "numpy._core.multiarray.scalar"),
    (_CORE.multiarray.scalar, "numpy.core.multiarray.scalar"),
]


# The networks that it is asked for, and those of their settings that fairseq-signals hands to Python's eval.
MODELS = (
    *("ecg_transformer_classifier", "ecg_transformer", "wav2vec2", "wav2vec2_cmsc"),
    *("nejedly2021resnet_classifier", "se_wrn_classifier"),
)
EVALUATED = ("conv_feature_layers", "kernel_size", "num_filters")


def main() -> int:
    """Answer every frame; 2 where fairseq-signals is not there, 3 where it does not take the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="frames to read; - for standard input")
    parser.add_argument("output", help="frames to write; - for standard output")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    args = parser.parse_args()
    standard_output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what fairseq-signals prints is for people
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with sys.stdin.buffer if args.input == "-" else open(args.input, "rb") as source:  # noqa: PTH123
        frames = read(source)
        checkpoint = str(next(frames)["checkpoint"])
        try:
            model, version = load(checkpoint, args.device)
        except (ImportError, ValueError) as error:
            print(f"[fairseq-signals] error: {error}", file=sys.stderr)
            return 2 if isinstance(error, ImportError) else 3
        about = {
            "fairseq_signals": version,
            "model": type(model).__name__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "device": args.device,
        }
        with standard_output if args.output == "-" else open(args.output, "wb") as sink:  # noqa: PTH123
            write(sink, about=np.array(json.dumps(about)))
            for frame in frames:
                write(sink, **answer(model, frame["signal"], frame["samples"], args.device))
    return 0


def load(checkpoint: str, device: str) -> tuple[torch.nn.Module, str]:
    """Have fairseq-signals build the network of a checkpoint and fill it.

    Args:
        checkpoint: The .pt file.
        device: Where the network goes.

    Returns:
        The network, ready to be asked, and the version of fairseq-signals.

    Raises:
        ImportError: fairseq-signals is not there.
        ValueError: It does not take the checkpoint.
    """
    try:
        import fairseq_signals
        from fairseq_signals.models import build_model_from_checkpoint
    except Exception as error:  # old packages fail in many ways under a newer Python
        where = f"{sys.executable} (Python {platform.python_version()})"
        raise ImportError(
            f"fairseq_signals cannot be imported by {where}: {type(error).__name__}: {brief(error)}; {INSTALL}"
        ) from error
    torch.serialization.add_safe_globals(HARMLESS)
    check(checkpoint)
    # fairseq-signals calls torch.load without a word on this: no code of a checkpoint is to run, on any PyTorch.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        model = build_model_from_checkpoint(checkpoint).float().eval().to(device)
    except Exception as error:
        raise ValueError(
            f"fairseq-signals does not take {checkpoint}: {type(error).__name__}: {brief(error)}; "
            "give a checkpoint as it saved it"
        ) from error
    for module in model.modules():
        if hasattr(module, "need_weights"):
            module.need_weights = True  # the attention, which a checkpoint's own settings leave out
    return model, fairseq_signals.__version__


def check(checkpoint: str) -> None:
    """Refuse a checkpoint that would have fairseq-signals run code of its own; ValueError says why."""
    try:
        cfg = torch.load(checkpoint, map_location="cpu", weights_only=True)["cfg"]["model"]
        name = cfg["_name"]
    except Exception as error:
        raise ValueError(
            f"{checkpoint} is no checkpoint of fairseq-signals: {type(error).__name__}: {brief(error)}; "
            "give one as it saved it"
        ) from error
    if name not in MODELS:
        raise ValueError(f"cfg.model._name of {checkpoint} is {name!r}; only {', '.join(MODELS)} can be asked for")
    for key in EVALUATED:
        text = cfg.get(key, "")
        if isinstance(text, str) and (
            len(text) > 10_000 or "**" in text or not re.fullmatch(r"[\d\s,()\[\]*+]*", text)
        ):
            raise ValueError(
                f"cfg.model.{key} of {checkpoint} is {text[:80]!r}, which fairseq-signals would run as code; refused"
            )


def brief(error: Exception) -> str:
    """The message in one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + "..."


def answer(model: torch.nn.Module, signal: np.ndarray, samples: np.ndarray, device: str) -> dict[str, np.ndarray]:
    """What the model says of a batch.

    Args:
        model: Of fairseq-signals: a classifier, or a pretrained network alone.
        signal: (batch, leads, samples) float32.
        samples: (batch,) how many of each are signal.
        device: Where the model is.

    Returns:
        `logits` (batch, labels), with 0 labels of a network without a head; `embedding` (batch, width), the mean over
        the tokens as fairseq-signals takes it, or whatever else its head sees; `attention` (batch, tokens): last layer,
        mean over heads, max over keys, with 0 tokens of a network without attention.
    """
    source = torch.from_numpy(signal).to(device)
    padding = torch.arange(signal.shape[2]) >= torch.from_numpy(samples.astype(np.int64))[:, None]  # (batch, samples)
    mask = padding.to(device) if padding.any() else None
    with torch.no_grad():
        if hasattr(model, "proj"):
            taken: list[torch.Tensor] = []
            hook = model.get_submodule("proj").register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
            out = model(source=source, padding_mask=mask)
            hook.remove()
            logits, embedding = out["out"], taken[0]  # the head's input is the mean over the tokens
        else:
            out = model.extract_features(source, mask)  # type: ignore[operator]
            embedding = mean(out["x"], out["padding_mask"])
            logits = embedding.new_empty(len(embedding), 0)
        saliency = out.get("saliency")  # (batch, layers, tokens, keys), the mean over heads
        attention = logits[:, :0] if saliency is None else saliency[:, -1].amax(dim=-1)  # (batch, tokens)
    named = {"logits": logits, "embedding": embedding, "attention": attention}
    return {name: tensor.float().cpu().numpy() for name, tensor in named.items()}


def mean(x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
    """The mean over the tokens that are not padding, as fairseq-signals' classifier takes it."""
    if padding is not None:
        x = x.masked_fill(padding[..., None], 0)
    return x.sum(dim=1) / (x != 0).sum(dim=1)


def read(file: IO[bytes]) -> Iterator[dict[str, np.ndarray]]:
    """The frames of a file, each a dict of arrays; EOFError where the file ends within one."""
    while True:
        head = file.read(8)
        if not head:
            return
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        content = file.read(length)
        if len(content) < max(length, 1):
            raise EOFError("the file ends within a frame")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            yield dict(arrays)


def write(file: IO[bytes], **arrays: np.ndarray) -> None:
    """Write a frame."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    file.write(struct.pack("<Q", buffer.tell()))
    file.write(buffer.getbuffer())
    file.flush()


if __name__ == "__main__":
    sys.exit(main())
