"""A row that crashes or hangs its process is left out the next time; whatever else goes wrong is told as it is."""

import ctypes
import errno
import faulthandler
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.readers.isolation import MOST_BYTES, crashes

# pytest writes pages about a crash, also about one that a test is meant to see in a process of its own.
os.register_at_fork(after_in_child=faulthandler.disable)

Begin = Callable[[int], None]


def segfault() -> None:
    ctypes.string_at(0)


def loop() -> None:
    for _ in itertools.count():
        pass


def hang_in_compiled_code() -> None:
    # Python sees no signal before it is over.
    ctypes.PyDLL(None).sleep(1000)


def rows_of(folder: Path, bad: dict[int, Callable[[], None]], cpu_s: float = 60, wall_s: float = 60) -> dict[int, str]:
    """Work through six rows, some of them bad, and return what the last process heard of those before it."""

    def work(crashed: dict[int, str], begin: Begin) -> None:
        done = []
        for row in range(6):
            begin(row)
            if row not in crashed:
                bad.get(row, lambda: None)()
                done.append(row)
        begin(-1)
        (folder / "told").write_text("".join(f"{row} {why}\n" for row, why in crashed.items()))
        (folder / "done").write_text(repr(done))

    crashes(work, cpu_s, wall_s)
    assert (folder / "done").read_text() == repr([row for row in range(6) if row not in bad])
    lines = (folder / "told").read_text().splitlines()
    return {int(line.split(" ", 1)[0]): line.split(" ", 1)[1] for line in lines}


def test_work_that_goes_well_is_done_once(tmp_path: Path) -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        assert crashed == {}
        with (tmp_path / "times").open("a") as file:
            file.write(f"{os.getpid()}\n")

    crashes(work)
    [process] = (tmp_path / "times").read_text().split()
    assert int(process) != os.getpid()


@pytest.mark.parametrize(("bad", "name"), [(segfault, "SIGSEGV"), (os.abort, "SIGABRT")])
def test_a_crash_is_told_of_its_row(bad: Callable[[], None], name: str, tmp_path: Path) -> None:
    assert rows_of(tmp_path, {2: bad}) == {2: f"so damaged that reading it crashed ({name})"}


def test_several_rows_may_crash_the_first_and_the_last_too(tmp_path: Path) -> None:
    assert list(rows_of(tmp_path, {0: segfault, 3: os.abort, 5: segfault})) == [0, 3, 5]


def loop_in_compiled_code() -> None:
    re.match(r"(a+)+$", "a" * 99 + "b")  # takes 2 ** 99 steps


@pytest.mark.parametrize("bad", [loop, loop_in_compiled_code])
def test_a_row_that_computes_for_ever_is_told_of(bad: Callable[[], None], tmp_path: Path) -> None:
    assert rows_of(tmp_path, {4: bad}, 0.3) == {4: "reading it took longer than 0.3 s of computing"}


def wait_for_a_pipe() -> None:
    # As for a file server that does not answer: blocked in the kernel, and hardly any time is computed.
    inner, outer = os.pipe()
    os.read(inner, 1)
    os.close(outer)


@pytest.mark.parametrize("bad", [wait_for_a_pipe, hang_in_compiled_code])
def test_a_row_that_waits_for_ever_is_a_temporary_error(bad: Callable[[], None], tmp_path: Path) -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        with (tmp_path / "times").open("a") as file:
            file.write("x")
        begin(3)
        assert crashed == {}
        bad()

    with pytest.raises(
        EcgpipeError, match=r"input: /a/3 was waited for 2 times for 0.3 s: its disk or file server does"
    ):
        crashes(work, 60, 0.3, "/a/{}".format)
    assert (tmp_path / "times").read_text() == "xx"


@pytest.mark.parametrize("why", [wait_for_a_pipe, lambda: os.kill(os.getpid(), signal.SIGBUS)])
def test_a_row_that_can_be_read_at_the_second_try_is_read(why: Callable[[], None], tmp_path: Path) -> None:
    def once() -> None:
        if not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            why()

    def work(crashed: dict[int, str], begin: Begin) -> None:
        assert crashed == {}
        begin(2)
        once()
        begin(-1)
        (tmp_path / "done").touch()

    crashes(work, 60, 0.3)
    assert (tmp_path / "done").exists()


def test_the_time_is_each_rows_own_and_none_counts_after_the_last(tmp_path: Path) -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        assert crashed == {}
        for row in range(4):
            begin(row)
            time.sleep(0.2)
        begin(-1)
        time.sleep(0.8)
        (tmp_path / "done").touch()

    crashes(work, 60, 0.7)
    assert (tmp_path / "done").exists()


def test_a_crash_between_rows_is_nobodys_fault() -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        begin(0)
        begin(-1)
        segfault()

    with pytest.raises(RuntimeError, match="ended with -11"):
        crashes(work)


def test_a_row_that_crashes_though_it_is_left_out_is_an_error() -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        begin(3)
        segfault()

    with pytest.raises(RuntimeError, match="ended with -11"):
        crashes(work)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_was_killed_is_an_error_and_blames_no_row(number: int, tmp_path: Path) -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        assert crashed == {}
        begin(1)
        (tmp_path / "times").open("a").write("x")
        os.kill(os.getpid(), number)
        time.sleep(60)

    with pytest.raises(EcgpipeError, match=rf"was killed \({signal.Signals(number).name}\)"):
        crashes(work)
    assert (tmp_path / "times").read_text() == "x"


@pytest.mark.parametrize(
    "error",
    [EcgpipeError("mend it"), OSError(errno.ENOSPC, "No space left on device", "/x"), ValueError("odd")],
)
def test_what_the_work_raises_is_raised(error: Exception) -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        begin(0)
        raise error

    with pytest.raises(type(error)) as raised:
        crashes(work)
    assert str(raised.value) == str(error)
    if isinstance(error, OSError):
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/x")  # type: ignore[attr-defined]


def test_memory_that_runs_out_between_what_rows_take_is_a_mistake_that_the_user_can_mend() -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        raise MemoryError

    with pytest.raises(EcgpipeError, match=r"what a process may have here \(ulimit -v, -d\); allow more"):
        crashes(work)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit what a process fills")
def test_asking_for_any_amount_of_memory_is_a_memory_error(tmp_path: Path) -> None:
    def work(crashed: dict[int, str], begin: Begin) -> None:
        begin(0)
        with pytest.raises(MemoryError):
            # Far more than the limit: what the tests before left to the garbage collector is room too, once it is gone.
            np.zeros(4 * MOST_BYTES, np.uint8)
        np.zeros(MOST_BYTES // 2, np.uint8)
        (tmp_path / "done").touch()

    before = resource.getrlimit(resource.RLIMIT_DATA)
    crashes(work)
    assert (tmp_path / "done").exists()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


# A program of which another process is in the midst of a row.
PROGRAM = """
    import ctypes, itertools, sys, time
    from pathlib import Path
    from ecgpipe.readers.isolation import crashes

    def work(crashed, begin):
        for row in itertools.count():
            begin(row)
            Path(sys.argv[1]).touch()
            if sys.argv[2] == "hangs":
                ctypes.PyDLL(None).sleep(1000)
            time.sleep(0.01)

    try:
        crashes(work, 100, 1 if sys.argv[2] == "hangs" else 100)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def started(folder: Path, how: str) -> subprocess.Popen[str]:
    """The program, once the other process is at work."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder / "begun"), how],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not (folder / "begun").exists():
        assert program.poll() is None
        time.sleep(0.02)
    return program


@pytest.mark.parametrize("how", ["works", "hangs"])
def test_nothing_goes_on_when_the_command_itself_was_killed(how: str, tmp_path: Path) -> None:
    program = started(tmp_path, how)
    program.kill()
    program.communicate(timeout=60)  # ends when no process has the other end of the pipe any more


def test_an_interrupt_ends_both_processes_without_a_traceback(tmp_path: Path) -> None:
    program = started(tmp_path, "works")
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does with Ctrl-C
    _, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (130, "")
