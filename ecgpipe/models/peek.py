"""Look into a checkpoint without PyTorch: the names and shapes of its tensors, and the plain values beside them.

The Snakefile asks for them, to tell the model family before any job starts, and PyTorch takes seconds to be imported.
No code of the file is executed: every class and function that a pickle names becomes a value without behaviour.
"""

import json
import pickle
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

# How deep `find_tensors` looks: {"checkpoint": {"model": {"state_dict": {...}}}} has the tensors at depth 3.
MAX_DEPTH = 3

# The largest description of tensors that is read; that of a network of a billion parameters has 1 MB.
MOST_BYTES = 64 << 20

# Pickles before the content in files of PyTorch before 1.6: a magic number, a version, the machine.
OLD_HEADERS = 3


class TensorShape(NamedTuple):
    """What is known of a tensor without reading it."""

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Its number of dimensions."""
        return len(self.shape)


class _Dict(dict[Any, Any]):
    """A dictionary that a pickle can give attributes, as state dicts have them."""


class _Inert:
    """A value that a pickle makes of a class or function, without calling that."""

    def __init__(self, *values: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """Accept a value."""

    def extend(self, values: object) -> None:
        """Accept values."""


def _shape(storage: object, offset: object, size: Iterable[int], *rest: object) -> TensorShape:
    return TensorShape(tuple(size))


def _first(value: object, *rest: object) -> object:
    return value


class _Reader(pickle.Unpickler):
    """Reads a pickle; what it names is never imported."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401, as of pickle
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _shape
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return _first
        return _Inert

    def persistent_load(self, pid: object) -> object:
        return None


def peek(path: Path) -> Mapping[str, Any] | None:
    """The content of a checkpoint, with a `TensorShape` in place of each tensor.

    Args:
        path: A file of torch.save or safetensors.

    Returns:
        Its content; None where it cannot be read in this way, which says nothing about the file.
    """
    try:
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                return _read_safetensors(file)
            if file.read(4) == b"PK\x03\x04":
                content = _read_zipped(path)
            else:
                file.seek(0)
                for _ in range(OLD_HEADERS):
                    _Reader(file).load()
                content = _Reader(file).load()
    except Exception:  # a maliciously damaged file can raise any exception; whoever opens the file explains it
        return None
    return content if isinstance(content, Mapping) else None


def _read_safetensors(file: BinaryIO) -> dict[str, TensorShape] | None:
    length = int.from_bytes(file.read(8), "little")
    if length > MOST_BYTES:
        return None
    header = json.loads(file.read(length))
    return {name: TensorShape(tuple(each["shape"])) for name, each in header.items() if name != "__metadata__"}


def _read_zipped(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl"))
        if archive.getinfo(name).file_size > MOST_BYTES:
            return None
        with archive.open(name) as file:
            return _Reader(file).load()


def find_tensors(content: object) -> dict[str, Any]:
    """The state dict in a checkpoint, wherever it is nested ("state_dict", "model_state_dict", "model", or the whole).

    Args:
        content: What `peek` or `tensors.load_pickled` returned.

    Returns:
        The mapping of names to tensors that has the most tensors, without what is no tensor in it; empty if there is
        none. An optimizer's state, which is keyed by numbers, is not one.
    """
    found = max(_nested_tensors(content, MAX_DEPTH), key=len, default={})
    return dict(found)


def _nested_tensors(content: object, depth: int) -> Iterator[dict[str, Any]]:
    if not isinstance(content, Mapping):
        return
    yield {name: value for name, value in content.items() if isinstance(name, str) and is_tensor(value)}
    for name, value in content.items():
        if depth and isinstance(name, str):
            yield from _nested_tensors(value, depth - 1)


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor, of PyTorch or of `peek`."""
    return isinstance(value, TensorShape) or (hasattr(value, "shape") and hasattr(value, "is_floating_point"))


def find_prefix(names: Iterable[str], markers: Collection[str]) -> str | None:
    """What stands before a family's own names in a checkpoint, such as "module." or "hubert_ecg.".

    Args:
        names: The names of the checkpoint's tensors.
        markers: Names that every checkpoint of the family has, without prefix.

    Returns:
        The prefix under which more than half of the markers are found, "" where they have none; None if no prefix has
        so many, so that the checkpoint is another family's.
    """
    counts = Counter(
        name.removesuffix(marker)
        for name in names
        for marker in markers
        if name == marker or name.endswith(f".{marker}")
    )
    prefix, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return prefix if 2 * count > len(markers) else None
