"""How many recordings a shard has and how many shards a part, where the settings leave it open.

On a cluster each job waits in a queue and starts Python anew, so that a shard is to take minutes. How many recordings
that are depends on their format and on the file server: it is measured on a few of them, once for a folder of results.
"""

import logging
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecgpipe.core import settings as settings_files
from ecgpipe.core.atomic import read_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config

logger = logging.getLogger(__name__)

# On one machine a shard is what a core does before it takes the next, and what a killed job has to do again.
SHARD_SIZE = 1000
SHARDS_PER_PART = 20

# On a cluster: what a shard is to take, and its limits. A job holds 5 kB per recording of its shard, and the segments
# of a part of five of the largest shards take 24 GB (docs/scale.md).
SHARD_S = 300.0
MOST_RECORDINGS = 20_000
SHARDS_PER_PART_ON_A_CLUSTER = 5

# Recordings that are measured, at equal distances, and for how long at most.
SAMPLE = 40
SAMPLE_S = 60.0


def fill_in(settings: Config, outdir: Path, runs: Sequence[Path], is_on_cluster: bool) -> Config:
    """Give sizes that the settings leave open the values that the folder of results has, so that its results stay.

    Args:
        settings: The validated settings.
        outdir: The folder of results of the run or study.
        runs: The folders of its models' runs; of a run by itself the same folder.
        is_on_cluster: Whether each job is a cluster's.

    Returns:
        The settings with a number for `inference.shards_per_part`, and for `manifest.shard_size` too, but on a cluster
        in a new folder: there it stays None, and the scan measures it.
    """
    manifest, inference = settings.manifest, settings.inference
    if manifest.shard_size is None:
        before = _read_stored(outdir, "manifest")
        size = before.get("shard_size", None if is_on_cluster else SHARD_SIZE)
        manifest = manifest.model_copy(update={"shard_size": size})
    if inference.shards_per_part is None:
        found = [before["shards_per_part"] for run in runs if (before := _read_stored(run, "infer"))]
        default = SHARDS_PER_PART_ON_A_CLUSTER if is_on_cluster else SHARDS_PER_PART
        inference = inference.model_copy(update={"shards_per_part": found[0] if found else default})
    return settings.model_copy(update={"manifest": manifest, "inference": inference})


def _read_stored(outdir: Path, stage: str) -> dict[str, Any]:
    """The settings of a stage that a folder of results was last made with; none in a new one."""
    content = read_json(outdir / settings_files.FOLDER / f"{stage}.json")
    return content if isinstance(content, dict) and content.get("stage") == stage else {}


def measure(recordings: pa.Table) -> int:
    """How many recordings a core reads and prepares in `SHARD_S`, by the time that some of them take.

    Args:
        recordings: The columns of `schemas.MANIFEST`.

    Returns:
        The number, in steps of 500; `SHARD_SIZE` if no file can be read.
    """
    rows = range(0, len(recordings), max(1, -(-len(recordings) // SAMPLE)))
    sample = recordings.take(pa.array(rows, pa.int64())).to_pylist()
    try:
        seconds = _time(sample)
    except EcgpipeError as error:  # the shards will tell what is wrong
        logger.warning("recordings for the size of shards cannot be read: %s", error)
        seconds = []
    if not seconds:
        return SHARD_SIZE
    each = sum(seconds) / len(seconds)
    size = min(max(round(SHARD_S / each / 500) * 500, SHARD_SIZE), MOST_RECORDINGS)
    logger.info(
        "shards of %d recordings: one takes %.3g ms to preprocess (%d were read)", size, each * 1000, len(seconds)
    )
    return size


def _time(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Read and prepare recordings in a process of its own, as a shard does; seconds of each whose file is there."""
    from ecgpipe.preprocessing.preprocess import process_recording, reading_from_settings
    from ecgpipe.readers import UnavailableError, isolation

    windows, assumed = reading_from_settings(settings_files.Preprocess())
    took = multiprocessing.get_context("fork").Array("d", len(rows), lock=False)

    def work(crashed: dict[int, str], begin: Callable[[int], None]) -> None:
        started = time.perf_counter()
        known: set[str | None] = set()
        for number, row in enumerate(rows):
            begin(number)
            if number in crashed or time.perf_counter() - started > SAMPLE_S:
                continue
            try:
                if row["format"] not in known:  # the first of a format loads its library
                    process_recording(row, windows, assumed)
                    known.add(row["format"])
                start = time.perf_counter()
                process_recording(row, windows, assumed)  # one that cannot be used takes its time too
            except UnavailableError:
                continue
            if row["bytes"] is not None:
                took[number] = time.perf_counter() - start
        begin(-1)

    isolation.crashes(work, called=lambda number: str(rows[number]["path"]))
    return [seconds for seconds in took if seconds]
