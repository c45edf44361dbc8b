"""Looking into a checkpoint without PyTorch: what PyTorch reads is what is seen, and nothing is executed."""

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecgpipe.models.peek import TensorShape, find_prefix, find_tensors, peek

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
TENSORS = st.dictionaries(NAMES, st.builds(lambda shape, dtype: torch.zeros(shape, dtype=dtype), SHAPES, DTYPES))
VALUES = st.none() | st.integers() | st.floats(allow_nan=False) | NAMES | st.lists(st.integers(), max_size=3)


def wrap(tensors: dict[str, Any], how: str, beside: dict[str, Any]) -> Any:  # noqa: ANN401, what torch.save takes
    if how == "alone":
        return tensors
    if how == "ordered":
        ordered = OrderedDict(tensors)
        ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as Module.state_dict has it
        return ordered
    if how == "parameters":
        tensors = {
            name: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
    return {**beside, "state_dict": tensors}


@given(
    tensors=TENSORS,
    how=st.sampled_from(["alone", "ordered", "parameters"]),
    beside=st.dictionaries(NAMES.filter(lambda name: name != "state_dict"), VALUES, max_size=3),
    is_zipped=st.booleans(),
)
def test_files_of_pytorch_are_seen_as_pytorch_reads_them(
    tensors: dict[str, torch.Tensor], how: str, beside: dict[str, Any], is_zipped: bool
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.pt"
        torch.save(wrap(tensors, how, beside), path, _use_new_zipfile_serialization=is_zipped)
        seen = peek(path)
    assert seen is not None
    assert find_tensors(seen) == {name: TensorShape(tuple(tensor.shape)) for name, tensor in tensors.items()}
    if how == "parameters":
        assert {name: value for name, value in seen.items() if name != "state_dict"} == beside


@given(tensors=TENSORS)
def test_files_of_safetensors_are_seen_as_they_are(tensors: dict[str, torch.Tensor]) -> None:
    tensors = {name: tensor for name, tensor in tensors.items() if name != "__metadata__"}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        safetensors.torch.save_file(tensors, path, {"format": "pt"})
        assert peek(path) == {name: TensorShape(tuple(tensor.shape)) for name, tensor in tensors.items()}


class Call:
    """Unpickled by Python itself, it calls a function."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.args


@pytest.mark.parametrize("is_zipped", [True, False])
@pytest.mark.parametrize("function", [os.mkdir, eval, subprocess.check_call])
def test_nothing_of_a_file_is_executed(function: Callable[..., object], is_zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    argument: object = {
        os.mkdir: str(trace),
        eval: f"__import__('os').mkdir({str(trace)!r})",
        subprocess.check_call: ["mkdir", str(trace)],
    }[function]
    content = {"state_dict": {"a": torch.zeros(2, 3)}, "extra": Call(function, argument)}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zipped)
    assert find_tensors(peek(tmp_path / "x.pt")) == {"a": TensorShape((2, 3))}
    assert not trace.exists()
    with zipfile.ZipFile(tmp_path / "bare.pt", "w") as archive:  # protocol 2, as PyTorch writes
        archive.writestr("x/data.pkl", pickle.dumps(Call(function, argument), protocol=2))
    assert peek(tmp_path / "bare.pt") is None
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\xff" * 40, b"cposix\nsystem\n(S'true'\ntR.", pickle.dumps([1, 2])],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_cannot_be_seen_is_none(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert peek(path) is None
    assert peek(tmp_path / "nowhere.pt") is None


def test_it_needs_no_pytorch(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt")
    code = (
        "import sys; from pathlib import Path; from ecgpipe.models.peek import peek\n"
        f"assert peek(Path({str(tmp_path / 'x.pt')!r}))['a'].shape == (2,)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["a.weight", "b.weight"], ""),
        (["module.a.weight", "module.b.weight", "c"], "module."),
        (["model.module.a.weight", "model.module.b.weight"], "model.module."),
        (["xa.weight", "xb.weight"], None),
        (["a.weight"], None),
        ([], None),
    ],
)
def test_a_prefix_is_that_of_most_markers(names: list[str], prefix: str | None) -> None:
    assert find_prefix(names, ["a.weight", "b.weight"]) == prefix


def test_an_optimizers_state_is_no_state_dict() -> None:
    content: Mapping[str, object] = {
        "optimizer": {"state": {0: {"exp_avg": TensorShape((9,))}, 1: {"exp_avg": TensorShape((9,))}}},
        "model": {"a": TensorShape((2,)), "b": TensorShape(()), "epoch": 3},
    }
    assert find_tensors(content) == {"a": TensorShape((2,)), "b": TensorShape(())}
    assert find_tensors(None) == find_tensors({"a": 1}) == {}
