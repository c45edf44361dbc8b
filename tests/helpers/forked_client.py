"""Stands for `python`, `snakemake` or `ecgpipe` on a command line: what a server has loaded it does, all else Python.

forked_python.py has the server, beside whose socket it puts copies of this file as programs.
"""

import array
import os
import signal
import socket
import sys

# What is passed on. Nothing is left to pass on after a signal that cannot be caught: the server ends the process then.
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]


def main() -> None:
    name = os.path.basename(sys.argv[0])  # noqa: PTH119, quicker
    arguments = [*(() if name.startswith("python") else ("-m", name)), *sys.argv[1:]]
    status = ask(arguments) if arguments[:1] == ["-m"] else None
    if status is None:
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def ask(arguments: list[str]) -> int | None:
    """Have the server run this process's work.

    Returns:
        Its exit status, less than 0 for a signal; None if the server does not do it.
    """
    # One that comes before it is known whom to pass it on to waits.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"{os.path.dirname(__file__)}/server")  # noqa: PTH120, quicker
    umask = os.umask(0o77)
    os.umask(umask)
    environment = [f"{name}={value}" for name, value in os.environ.items()]
    request = [os.getcwd(), str(umask), str(len(arguments)), *arguments, *environment]  # noqa: PTH109, quicker
    content = "\0".join(request).encode(errors="surrogateescape")
    descriptors = array.array("i", [0, 1, 2]).tobytes()
    connection.sendmsg([len(content).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    connection.sendall(content)
    replies = connection.makefile("r")
    process = int(replies.readline())
    for number in SIGNALS if process else ():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if not process:
        return None
    return int(replies.readline())


if __name__ == "__main__":
    main()
