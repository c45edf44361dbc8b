"""Memory of the process: errors that mean that it ran out, and systems without glibc's settings."""

import ctypes
import sys

import numpy as np
import pytest
import torch

from ecgpipe.inference import memory


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_an_error_of_another_kind_is_not_mistaken_for_one_of_memory(error: Exception) -> None:
    assert not memory.is_out_of_memory(error)


def test_the_message_of_pytorch_on_a_cpu_without_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert memory.is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as caught_in_numpy:
        np.empty(2**58)
    assert memory.is_out_of_memory(caught_in_numpy.value)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_is_asked_of_another_system_than_linux(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delattr(ctypes, "CDLL")
    memory.keep_memory()


def test_a_libc_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    memory.keep_memory()
