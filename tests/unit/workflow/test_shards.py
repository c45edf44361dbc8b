"""Which shards make a part."""

from hypothesis import given
from hypothesis import strategies as st

from ecgpipe.workflow.shards import part_before, parts_of, priority_of, shards_of

COUNTS = st.integers(1, 200)


@given(COUNTS, st.integers(1, 50))
def test_each_shard_is_in_one_part_and_parts_follow_one_another(shards: int, per_part: int) -> None:
    parts = [shards_of(part, per_part, shards) for part in range(parts_of(shards, per_part))]
    assert [shard for part in parts for shard in part] == list(range(shards))
    assert all(len(part) == per_part for part in parts[:-1])


@given(COUNTS, st.integers(0, 200), st.integers(1, 50))
def test_more_shards_leave_the_parts_that_were_full_alone(shards: int, more: int, per_part: int) -> None:
    for part in range(shards // per_part):
        assert shards_of(part, per_part, shards) == shards_of(part, per_part, shards + more)


def test_earlier_parts_go_first_and_all_of_them_below_other_jobs() -> None:
    assert [priority_of(shard, 2) for shard in range(5)] == [0, 0, -1, -1, -2]


@given(COUNTS, st.integers(1, 50), st.integers(1, 20))
def test_so_many_parts_wait_at_most(shards: int, per_part: int, ahead: int) -> None:
    before = [part_before(shard, per_part, ahead) for shard in range(shards)]
    assert before[: ahead * per_part] == [None] * min(shards, ahead * per_part)
    for shard, part in enumerate(before[ahead * per_part :], ahead * per_part):
        assert part == shard // per_part - ahead
