"""What Snakemake loads for `logger: ecgpipe` in a profile: the output of a run in place of Snakemake's.

Snakemake finds a logger plugin by the name of its top-level package.
"""

import sys
import threading
from logging import LogRecord

from snakemake_interface_logger_plugins.base import LogHandlerBase

from ecgpipe.workflow.run_output import RunOutput

TICK_S = 2.0


class LogHandler(LogHandlerBase):  # type: ignore[misc]
    """Takes Snakemake's messages."""

    def __post_init__(self) -> None:
        """Begin."""
        stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.output = RunOutput(stream, stream.isatty())
        self._ended = threading.Event()
        if stream.isatty():
            threading.Thread(target=self._tick, daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        """Take a message."""
        with self.lock:
            self.output.handle(record)

    def _tick(self) -> None:
        while not self._ended.wait(TICK_S):
            with self.lock:
                self.output.draw()

    def close(self) -> None:
        """End."""
        self._ended.set()
        self.output.close()
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """Takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake's log file stays as it is."""
        return False

    @property
    def has_filter(self) -> bool:
        """Chooses what to show."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Formats what it shows."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """Does without."""
        return False
