"""The sizes of shards and parts that the settings leave open."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgpipe.cli import main
from ecgpipe.core import schemas
from ecgpipe.core.user_settings import Config
from ecgpipe.selftest.synthetic_files import write_wfdb
from ecgpipe.workflow import shard_sizes


def stored(outdir: Path, stage: str, **values: object) -> None:
    """A folder of results whose stage was made with these settings."""
    (outdir / "settings").mkdir(parents=True, exist_ok=True)
    (outdir / "settings" / f"{stage}.json").write_text(json.dumps({"stage": stage, **values}))


def filled(outdir: Path, is_on_cluster: bool, **given: object) -> tuple[int | None, int | None]:
    """The size of a shard, and the shards of a part."""
    settings = Config.model_validate({"input": "in", **given})
    settings = shard_sizes.fill_in(settings, outdir, [outdir], is_on_cluster)
    return settings.manifest.shard_size, settings.inference.shards_per_part


@pytest.mark.parametrize(("is_on_cluster", "sizes"), [(False, (1000, 20)), (True, (None, 5))])
def test_in_a_new_folder_they_depend_on_where_the_run_is(
    is_on_cluster: bool, sizes: tuple[int | None, int], tmp_path: Path
) -> None:
    assert filled(tmp_path, is_on_cluster) == sizes


@pytest.mark.parametrize("is_on_cluster", [False, True])
@pytest.mark.parametrize("size", [4500, None])
def test_a_folder_of_results_keeps_its_own_wherever_the_run_goes_on(
    is_on_cluster: bool, size: int | None, tmp_path: Path
) -> None:
    stored(tmp_path, "manifest", shard_size=size)
    stored(tmp_path, "infer", shards_per_part=7)
    assert filled(tmp_path, is_on_cluster) == (size, 7)
    given = {"manifest": {"shard_size": 3}, "inference": {"shards_per_part": 2}}
    assert filled(tmp_path, is_on_cluster, **given) == (3, 2)


def test_the_models_of_a_study_share_the_shards_of_a_part(tmp_path: Path) -> None:
    stored(tmp_path / "b", "infer", shards_per_part=7)
    settings = Config.model_validate({"input": "in"})
    settings = shard_sizes.fill_in(settings, tmp_path, [tmp_path / "a", tmp_path / "b"], is_on_cluster=False)
    assert settings.inference.shards_per_part == 7


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(6):
        write_wfdb(folder / f"r{i}", random.standard_normal((12, 2500)), 500)
    np.save(folder / "bare.npy", np.zeros((12, 2500), np.float32))  # without a sampling rate; reading it takes time too
    table = folder.parent / "table.csv"
    paths = [*(f"in/r{i}.hea" for i in range(6)), "in/bare.npy", "in/not_there.hea"]
    table.write_text("\n".join(["path", *paths, ""]))
    return table


def cut(tmp_path: Path, recordings: Path, size: str) -> int:
    """The size of the shards of a scan by hand."""
    command = ["manifest", "--input", str(recordings), "--outdir", str(tmp_path / "out"), "--set", f"shard_size={size}"]
    assert main(command) == 0
    shard = pq.read_schema(tmp_path / "out" / "shard-00000.parquet")
    assert shard.metadata is not None
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert json.loads(shard.metadata[b"ecgpipe"])["shard_size"] == content["shard_size"]
    return int(content["shard_size"])


def test_a_scan_without_a_size_measures_it_once(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([[0.1, 0.05, 0.075]])
    monkeypatch.setattr(shard_sizes, "_time", lambda rows: next(times))
    assert cut(tmp_path, recordings, "null") == 4000  # 300 s / 0.075 s
    assert cut(tmp_path, recordings, "null") == 4000  # as it was: there is no other time
    assert cut(tmp_path, recordings, "2") == 2
    assert cut(tmp_path, recordings, "null") == 2


@pytest.mark.parametrize(
    ("seconds", "size"), [([], 1000), ([0.001], 20_000), ([0.0401], 7500), ([0.1, 0.2], 2000), ([3.0], 1000)]
)
def test_a_shard_is_to_take_five_minutes_within_limits(
    seconds: list[float], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_sizes, "_time", lambda rows: seconds)
    assert shard_sizes.measure(schemas.MANIFEST.empty_table()) == size


def test_recordings_are_really_read_and_those_without_a_file_do_not_count(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[float]] = []
    real = shard_sizes._time

    def time(rows: Sequence[dict[str, Any]]) -> list[float]:
        found.append(real(rows))
        return found[-1]

    monkeypatch.setattr(shard_sizes, "_time", time)
    assert cut(tmp_path, recordings, "null") >= 1000
    assert len(found[0]) == 7
    assert all(0 < seconds < 60 for seconds in found[0])


def test_a_sample_of_many_recordings_is_spread_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled: list[str] = []

    def time(rows: Sequence[dict[str, Any]]) -> list[float]:
        sampled.extend(row["record_id"] for row in rows)
        return []

    monkeypatch.setattr(shard_sizes, "_time", time)
    columns = {name: pa.nulls(1001, schemas.MANIFEST.field(name).type) for name in schemas.MANIFEST.names}
    columns["record_id"] = pa.array(map(str, range(1001)))
    shard_sizes.measure(pa.table(columns, schema=schemas.MANIFEST))
    assert len(sampled) <= shard_sizes.SAMPLE
    assert [int(sampled[0]), int(sampled[-1])] == [0, 988]
