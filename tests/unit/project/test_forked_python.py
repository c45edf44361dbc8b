"""A forked process prints, computes, exits and dies as a process of Python that was started does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import forked_python
import psutil  # type: ignore[import-untyped]
import pytest

# A package that stands for ecgpipe: that of the current folder is taken, as it is in a clone.
PROGRAM = """
import atexit, json, os, signal, sys, threading, time, weakref

atexit.register(print, "at exit")
weakref.finalize(threading.current_thread(), print, "finalized")
what = sys.argv[1]
if what == "look":
    umask = os.umask(0)
    print(sys.argv, sys.orig_argv[1:], sys.path, sys.executable, sys.flags, os.getcwd(), umask, sys.stdin.read())
    print(dict(os.environ) == json.loads(sys.argv[2]), __name__, __spec__.name, signal.getsignal(signal.SIGINT))
    os.write(2, b"error")
elif what == "compute":
    import numpy as np, torch
    print(torch.get_num_threads(), np.random.default_rng(1).random((300, 300)) @ np.ones(300))
    torch.manual_seed(1)
    print(torch.nn.Conv1d(8, 64, 9)(torch.rand(4, 8, 5000)).sum().item().hex())
elif what == "exit":
    sys.exit(json.loads(sys.argv[2]))
elif what == "raise":
    raise {"ValueError": ValueError, "KeyboardInterrupt": KeyboardInterrupt}[sys.argv[2]]
elif what == "die":
    os.kill(os.getpid(), int(sys.argv[2]))
elif what == "thread":
    threading.Thread(target=lambda: (time.sleep(0.2), print("from a thread"))).start()
elif what == "wait":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(7))
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "ecgpipe").mkdir()
    (folder / "ecgpipe" / "__init__.py").touch()
    (folder / "ecgpipe" / "__main__.py").write_text(PROGRAM)
    return folder


def started(python: str | Path, folder: Path, *arguments: str, **more: str) -> tuple[int, str, str]:
    """The exit status, the output and the last line of the errors."""
    command = [str(python), "-m", "ecgpipe", *arguments]
    environment = os.environ | more
    done = subprocess.run(command, cwd=folder, env=environment, input="given", capture_output=True, text=True)
    return done.returncode, done.stdout, "".join(done.stderr.splitlines()[-1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ["exit", "0"],
        ["exit", "3"],
        ["exit", "256"],
        ["exit", "null"],
        ["exit", '"why"'],
        ["raise", "ValueError"],
        ["raise", "KeyboardInterrupt"],
        ["die", str(int(signal.SIGTERM))],
        ["die", str(int(signal.SIGKILL))],
        ["thread"],
    ],
)
def test_it_ends_as_a_started_one(arguments: list[str], folder: Path) -> None:
    assert started(forked_python.program(), folder, *arguments) == started(sys.executable, folder, *arguments)


def test_it_has_the_same_surroundings(folder: Path, tmp_path: Path) -> None:
    more = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "NEW": "a\nb=c"}
    before = os.umask(0o27)
    try:
        expected, found = (
            started(python, folder, "look", json.dumps(os.environ | more), **more)
            for python in (sys.executable, forked_python.program())
        )
    finally:
        os.umask(before)
    assert "True __main__ ecgpipe" in expected[1]
    assert found == expected


@pytest.mark.parametrize("threads", ["1", "2"])
def test_it_computes_the_same_bits(threads: str, folder: Path) -> None:
    expected, found = (
        started(python, folder, "compute", OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads)
        for python in (sys.executable, forked_python.program())
    )
    assert expected[0] == 0
    assert expected[1].startswith(f"{threads} ")
    assert found == expected


def test_signals_are_passed_on_and_it_does_not_outlive_what_stands_for_it(folder: Path) -> None:
    command = [str(forked_python.program()), "-m", "ecgpipe", "wait"]
    for number, status in ((signal.SIGTERM, 7), (signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)):
        client = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert client.stdout is not None
        forked = psutil.Process(int(client.stdout.readline()))
        client.send_signal(number)
        assert client.wait(60) == status
        client.stdout.close()
        gone, _ = psutil.wait_procs([forked], timeout=60)
        assert gone


@pytest.mark.parametrize("more", [{"PYTHONUTF8": "0"}, {"LC_ALL": "C"}, {"OMP_WAIT_POLICY": "active"}])
def test_where_python_would_start_in_another_way_it_is_started(more: dict[str, str], folder: Path) -> None:
    command = [str(forked_python.program()), "-m", "ecgpipe", "wait"]
    with subprocess.Popen(command, cwd=folder, env=os.environ | more, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.terminate()
    assert process.returncode == 7
