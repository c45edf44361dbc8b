"""Memory of the process: keep what is freed, give it back when it runs out, and recognise that it ran out."""

import ctypes
import sys
from collections.abc import Callable

import torch

# Names of what can be set, in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

# Parts of the messages of PyTorch's allocator and of oneDNN on a CPU when memory has run out; oneDNN cannot even
# generate its code then.
EXHAUSTED = ("can't allocate memory", "not enough memory", "bad_alloc", "memory object", "could not create a primitive")


def keep_memory() -> None:
    """Let the process keep the memory that it frees: given back after each layer, it would be cleared for the next.

    Costs 9 % of the time of a forward pass in float32 otherwise. Only glibc has this; elsewhere nothing happens.
    """
    if mallopt := _glibc("mallopt"):
        # Arrays below this size are not mapped one by one. An older glibc takes no more than the second.
        _ = mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # what is free at the end of the heap stays


def return_memory() -> None:
    """Give free memory back to the system, from now on too: others than the heap need it, oneDNN for its code."""
    if (mallopt := _glibc("mallopt")) and (malloc_trim := _glibc("malloc_trim")):
        mallopt(M_MMAP_THRESHOLD, 2**17)
        mallopt(M_TRIM_THRESHOLD, 2**17)
        malloc_trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc, where there is one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: CUDA has a class for it, the code for CPUs only messages."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in EXHAUSTED)
