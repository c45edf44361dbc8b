"""Reading ahead and writing behind: in order, bounded, and with the errors of the thread."""

import threading
from collections.abc import Callable, Iterator

import pytest
from worker_threads import threads_left

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import background

SOON = 60.0  # seconds, for what is awaited and does come


class Made:
    """Numbers, each made only when its gate is open."""

    def __init__(self, count: int) -> None:
        self.begun = [threading.Event() for _ in range(count)]
        self.gates = [threading.Event() for _ in range(count)]
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[int]:
        try:
            for number, (begun, gate) in enumerate(zip(self.begun, self.gates, strict=True)):
                begun.set()
                assert gate.wait(SOON)
                yield number
        finally:
            self.closed.set()


def test_items_to_come_are_made_meanwhile_but_not_more_than_are_asked_for() -> None:
    made = Made(background.AHEAD + 4)
    for gate in made.gates:
        gate.set()
    ahead = background.read_ahead(iter(made))
    assert not made.begun[0].is_set()
    for number in range(len(made.gates)):
        assert next(ahead) == number
        for begun in made.begun[number : number + 1 + background.AHEAD]:
            assert begun.wait(SOON)
        assert not any(begun.wait(0.01) for begun in made.begun[number + 1 + background.AHEAD :])
    assert next(ahead, None) is None
    assert not threads_left()


def test_an_item_waits_for_nothing_but_itself() -> None:
    made = Made(2)
    made.gates[0].set()
    ahead = background.read_ahead(iter(made))
    assert next(ahead) == 0
    assert made.begun[1].wait(SOON)
    made.gates[1].set()
    assert list(ahead) == [1]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise EcgpipeError("broken")

    seen: list[int] = []

    def take() -> None:
        for number in background.read_ahead(items()):
            seen.append(number)

    with pytest.raises(EcgpipeError, match="broken"):
        take()
    assert seen == [1, 2]
    assert not threads_left()


def test_who_leaves_early_waits_for_what_is_being_made_and_closes_it() -> None:
    made = Made(10)
    made.gates[0].set()
    ahead = background.read_ahead(iter(made))
    next(ahead)
    assert made.begun[1].wait(SOON)
    for gate in made.gates:
        gate.set()
    del ahead
    assert not threads_left()
    assert made.closed.wait(SOON)
    assert not made.begun[1 + background.AHEAD].is_set()


@pytest.mark.parametrize("count", [0, 1, background.AHEAD, background.AHEAD + 1])
def test_few_items_are_all_there(count: int) -> None:
    assert list(background.read_ahead(iter(range(count)))) == list(range(count))


# Behind


def test_work_is_done_behind_in_order_and_only_so_much_may_wait() -> None:
    gate, done, through = threading.Event(), list[int](), threading.Event()

    def work(number: int) -> None:
        assert gate.wait(SOON)
        done.append(number)

    def go() -> None:
        with background.write_behind(work) as later:
            for number in range(background.AHEAD):
                later(number)
            through.set()
            later(background.AHEAD)  # too many
            through_too.set()
            for number in range(background.AHEAD + 1, 20):
                later(number)
                assert len(done) >= number - background.AHEAD

    through_too = threading.Event()
    caller = threading.Thread(target=go)
    caller.start()
    assert through.wait(SOON)
    assert not through_too.wait(0.05)
    assert not done
    gate.set()
    caller.join(SOON)
    assert done == list(range(20))
    assert not threads_left()


def test_what_work_raises_is_raised_by_a_later_call() -> None:
    done: list[int] = []
    given: list[int] = []

    def work(number: int) -> None:
        if number == 3:
            raise OSError(28, "No space left on device")
        done.append(number)

    def give() -> None:
        with background.write_behind(work) as later:
            for number in range(100):
                given.append(number)
                later(number)

    with pytest.raises(OSError, match="No space left"):
        give()
    assert given[-1] == 3 + background.AHEAD
    assert done[:3] == [0, 1, 2]
    assert not threads_left()


def test_what_the_last_work_raises_is_raised_at_the_end() -> None:
    def work(_: int) -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"), background.write_behind(work) as later:
        later(1)
    assert not threads_left()


def test_an_error_of_the_block_itself_comes_first() -> None:
    def work(_: int) -> None:
        raise OSError("broken")

    def fail(later: Callable[[int], None]) -> None:
        later(1)
        raise EcgpipeError("mine")

    with pytest.raises(EcgpipeError, match="mine"), background.write_behind(work) as later:
        fail(later)
    assert not threads_left()
