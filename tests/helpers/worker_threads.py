"""The threads that read ahead and write behind, to see that none is left."""

import threading


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]
