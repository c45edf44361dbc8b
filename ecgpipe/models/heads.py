"""Heads that `probe` trained: one file each, applied to the embeddings of later runs as additional labels."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from ecgpipe.core import atomic, provenance, recording_embeddings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import hash_file

# Facts about the embeddings that must be the same in training and use, and their names in messages.
SPACE = {"checkpoint_sha256": "another checkpoint", "preprocess": "other settings of preprocess"}
STAGES = ("checkpoint", "preprocess", "infer")

TENSORS = ("mean", "scale", "weight", "bias")


@dataclass(frozen=True)
class Head:
    """A linear function of a recording's embedding for each label, whose sigmoid is the probability."""

    labels: tuple[str, ...]
    mean: np.ndarray  # (width,) float32, of the training recordings
    scale: np.ndarray  # (width,) float32, their standard deviation
    weight: np.ndarray  # (labels, width) float32, for embeddings standardised by mean and scale
    bias: np.ndarray  # (labels,) float32
    facts: dict[str, Any]  # `space`: checkpoint, preprocessing and versions behind the embeddings; the training

    def probability(self, embedding: np.ndarray) -> np.ndarray:
        """(recordings, width) to (recordings, labels) float64; the embedding counts as float32, as in training."""
        from scipy.special import expit  # here, because SciPy takes half a second, and few have heads

        standard = (embedding.astype(np.float32).astype(np.float64) - self.mean) / self.scale
        probability: np.ndarray = expit(standard @ self.weight.T.astype(np.float64) + self.bias)
        return probability


def describe_space(schema: pa.Schema) -> dict[str, Any]:
    """The checkpoint, preprocessing and versions behind a file of embeddings, as far as a head depends on them."""
    origin = provenance.read_origin(schema)
    meaning = {stage: number for stage, number in origin.get("meaning", {}).items() if stage in STAGES}
    return {**{key: origin.get(key) for key in SPACE}, "meaning": meaning}


def save_head(path: Path, head: Head) -> None:
    """Write a head as one safetensors file, with everything that is not a number as JSON in its metadata."""
    facts = json.dumps({"labels": head.labels, **head.facts}, sort_keys=True)
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in asdict(head).items() if name in TENSORS}
    with atomic.whole(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary, {"ecgpipe": facts})


def load_head(path: Path) -> Head:
    """Read a head.

    Args:
        path: A file that `save_head` wrote.

    Returns:
        The head.

    Raises:
        EcgpipeError: The file is missing or not a head.
    """
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads((file.metadata() or {})["ecgpipe"])
            tensors = {name: file.get_tensor(name) for name in TENSORS}
        names = tuple(map(str, facts.pop("labels")))
        head = Head(names, **tensors, facts=facts)
    except OSError as error:
        raise EcgpipeError(f"heads: cannot read {path}: {error}; give a head.safetensors of probe") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise EcgpipeError(
            f"heads: {path} is not a head that ecgpipe's probe wrote ({type(error).__name__}); give its "
            "head.safetensors"
        ) from error
    width = len(head.mean)
    expected = {"mean": (width,), "scale": (width,), "weight": (len(names), width), "bias": (len(names),)}
    wrong = [name for name in TENSORS if tensors[name].shape != expected[name]]
    if wrong or "space" not in facts:
        raise EcgpipeError(
            f"heads: {path} is damaged: {', '.join(wrong) or 'it does not name its embeddings'}; train it again"
        )
    return head


def check_heads(paths: Sequence[Path], heads: Sequence[Head], embeddings: pa.Schema) -> None:
    """Refuse heads that were trained on other embeddings than those of a run.

    Args:
        paths: Of the heads, for the message.
        heads: The same heads.
        embeddings: Schema of a file of embeddings that the heads will be applied to.

    Raises:
        EcgpipeError: A head belongs to other embeddings.
    """
    here, width = describe_space(embeddings), embeddings.field("embedding").type.list_size
    for path, head in zip(paths, heads, strict=True):
        head_space = head.facts["space"]
        differences = [what for key, what in SPACE.items() if head_space.get(key) != here[key]]
        if not differences and head_space.get("meaning") != here["meaning"]:
            differences = ["a version of ecgpipe that computes something else"]
        if not differences and len(head.mean) != width:
            differences = [f"a model of width {len(head.mean)} instead of {width}"]
        if differences:
            raise EcgpipeError(
                f"heads: {path} was trained on embeddings of {' and '.join(differences)}, so it does not fit this run; "
                "train it on a run like this one"
            )


def name_labels(paths: Sequence[Path], heads: Sequence[Head], model_labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Name the labels of heads among predictions: `NAME (head)` where the model has a label NAME, else NAME.

    Args:
        paths: Of the heads, for the message.
        heads: The same heads.
        model_labels: The names of the model's labels.

    Returns:
        For each head the names, in the order of its labels.

    Raises:
        EcgpipeError: Two heads have the same label, or the model has a label of that name.
    """
    taken = dict.fromkeys(model_labels, "the model")
    names_by_head = []
    for path, head in zip(paths, heads, strict=True):
        names = tuple(f"{name} (head)" if name in model_labels else name for name in head.labels)
        for name in names:
            if name in taken:
                raise EcgpipeError(
                    f"heads: {name!r} of {path} is a label of {taken[name]} too; train the head with another name, by "
                    "--map COLUMN=LABEL"
                )
            taken[name] = str(path)
        names_by_head.append(names)
    return names_by_head


def apply_heads(
    heads: Sequence[Head], names_by_head: Sequence[Sequence[str]], embeddings: Sequence[Path], record_ids: pa.Array
) -> dict[str, np.ndarray]:
    """Compute the probabilities that heads give recordings.

    Args:
        heads: The heads.
        names_by_head: Of the labels of each, all different, by `name_labels`.
        embeddings: `embeddings/part-*.parquet` with the recordings.
        record_ids: (recordings,) ids of the recordings to predict.

    Returns:
        By label, (recordings,) float64.

    Raises:
        EcgpipeError: A recording has no embedding.
    """
    ids: list[pa.Array] = []
    probabilities: list[np.ndarray] = []
    for batch_ids, vectors in recording_embeddings.read_means(embeddings):
        ids.append(batch_ids)
        probabilities.append(np.concatenate([head.probability(vectors) for head in heads], axis=1))  # (batch, labels)
    embedded = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
    rows = pc.index_in(record_ids, embedded)
    if rows.null_count:
        missing = record_ids.filter(rows.is_null())
        raise EcgpipeError(f"heads: {len(missing)} recordings have no embedding, such as {missing[0].as_py()!r}")
    names = [name for names_of_head in names_by_head for name in names_of_head]
    values = np.concatenate(probabilities)[rows.to_numpy()] if probabilities else np.empty((0, len(names)))
    return {name: values[:, number] for number, name in enumerate(names)}


def describe_labels(
    paths: Sequence[Path], heads: Sequence[Head], names_by_head: Sequence[Sequence[str]]
) -> dict[str, dict[str, str]]:
    """The metadata of predictions on the labels of heads, by their names there.

    `sha256` identifies the head's file wherever it lies; `label` is the label's name in that file and its true labels.
    """
    return {
        name: {"sha256": hash_file(path), "label": label}
        for path, head, names in zip(paths, heads, names_by_head, strict=True)
        for name, label in zip(names, head.labels, strict=True)
    }
