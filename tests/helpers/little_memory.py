"""Run infer again and again, each time in a process that has little memory left once the model is loaded.

Called with one argument, a JSON list of runs: `options` of infer; `first`, the numbers of segments that the network
runs on while there still is memory, for which oneDNN writes its code then; `bytes`, what may be had from then on; and
`samples` of a segment. Prints the exit statuses as JSON.
"""

import ctypes
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from ecgpipe import cli
from ecgpipe.models import networks
from ecgpipe.models.output import AnyNetwork


def used() -> int:
    """Bytes of memory that the kernel counts for RLIMIT_DATA."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmData"].split()[0]) * 1024


def run(options: list[str], first: list[int], room: int, samples: int) -> int:
    """Run infer in this process, which is of no use for anything else then."""
    load = networks.load_network

    def load_and_limit(*given: Any, **named: Any) -> AnyNetwork:  # noqa: ANN401, what the model takes
        network = load(*given, **named)
        for segments in first:
            with torch.inference_mode():
                network(torch.zeros(segments, 12, samples))
        ctypes.CDLL(None).malloc_trim(0)  # what is free in the heap would come on top
        resource.setrlimit(resource.RLIMIT_DATA, (used() + room, resource.RLIM_INFINITY))
        return network

    networks.load_network = load_and_limit
    return cli.main(["infer", *options])


if __name__ == "__main__":
    statuses = []
    for wanted in json.loads(sys.argv[1]):
        child = os.fork()  # PyTorch takes seconds to import, and has not begun any work
        if not child:
            status = 1
            try:
                status = run(wanted["options"], wanted["first"], wanted["bytes"], wanted["samples"])
            except BaseException:  # whatever it is, the child ends here
                traceback.print_exc()
            finally:
                os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))
