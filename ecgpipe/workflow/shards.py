"""Which shards make a part, which of them is processed first, and what each waits for."""

from collections.abc import Iterable
from pathlib import Path

from ecgpipe.workflow.paths import Paths


def parts_of(shards: int, shards_per_part: int) -> int:
    """How many parts a number of shards makes; the last part may have fewer."""
    return -(-shards // shards_per_part)


def shards_of(part: int, shards_per_part: int, shards: int) -> range:
    """The numbers of a part's shards: a fixed range, so that new recordings leave the parts before theirs alone.

    Args:
        part: The part's number.
        shards_per_part: The setting `inference.shards_per_part`.
        shards: How many shards the run has.
    """
    first = part * shards_per_part
    return range(first, min(first + shards_per_part, shards))


def part_before(shard: int, shards_per_part: int, parts_ahead: int) -> int | None:
    """The part that is inferred before a shard is prepared, so that few parts wait on the disk at a time.

    Args:
        shard: The shard's number.
        shards_per_part: The setting `inference.shards_per_part`.
        parts_ahead: How many parts may wait, the one that is being inferred among them.

    Returns:
        The part's number; None for shards of the first parts, which wait for none.
    """
    part = shard // shards_per_part - parts_ahead
    return part if part >= 0 else None


def inferred_before(runs: Iterable[Paths], shard: int, part: int) -> list[str]:
    """What has to be inferred before a shard is prepared.

    Args:
        runs: The paths of the runs that it is prepared for.
        shard: The shard's number.
        part: The part's, by `part_before`.

    Returns:
        The part's logits. That they are to be made again is no reason to prepare a shard again that has been.
    """
    pairs = [(paths.files("logits", [part])[0], paths.files("records", [shard])[0]) for paths in runs]
    return [logits for logits, records in pairs if Path(logits).exists() or not Path(records).exists()]


def priority_of(shard: int, shards_per_part: int) -> int:
    """The priority of a shard's job: the earlier its part the higher, so that parts become ready one after the other.

    It is at most 0, below the priority of every other job.
    """
    return -(shard // shards_per_part)
