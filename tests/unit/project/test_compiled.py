"""What Numba compiles of UMAP is compiled by one of the processes that need it."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import compiled
import pytest

LAST = "layouts._optimize_layout_euclidean_single_epoch-63.py311.nbi"


def test_one_compiles_and_the_others_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = []

    def fit(*_: object, **__: object) -> None:
        began.append(1)
        (tmp_path / LAST).touch()

    monkeypatch.setattr(compiled, "cache_of", lambda _: tmp_path)
    monkeypatch.setattr(subprocess, "run", fit)
    with ThreadPoolExecutor(3) as threads:
        for waiting in [threads.submit(compiled.compile_umap) for _ in range(3)]:
            waiting.result()
    assert began == [1]


def test_it_is_looked_for_where_numba_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import UserProvidedCacheLocator

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    source = str(metadata.distribution("umap-learn").locate_file("umap/layouts.py"))
    folder = UserProvidedCacheLocator.get_suitable_cache_subpath(source)  # type: ignore[no-untyped-call]
    assert compiled.cache_of("umap") == tmp_path / folder
