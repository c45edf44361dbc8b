"""What Snakemake loads for `logger: ecgpipe` in a profile: the output of a run in place of Snakemake's.

Snakemake finds a logger plugin by the name of its top-level package.
"""

import logging
import sys
import threading
from dataclasses import dataclass, field
from logging import LogRecord
from typing import TYPE_CHECKING

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

if TYPE_CHECKING:
    from ecgpipe.workflow.run_output import RunOutput

TICK_S = 2.0

# What Snakemake does instead of a run: it says itself what came of it.
NO_RUN = {"--lint", "--unlock", "--cleanup-metadata", "--delete-all-output", "--delete-temp-output", "--archive"}


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):  # type: ignore[misc]
    """Options of Snakemake that the plugin adds."""

    all: bool = field(default=False, metadata={"help": "Show all that Snakemake and the jobs say."})


class LogHandler(LogHandlerBase):  # type: ignore[misc]
    """Takes Snakemake's messages.

    `shows_run` is False where Snakemake shows them itself: all of them are asked for, or it does something else than a
    run.
    """

    def __post_init__(self) -> None:
        """Begin."""
        common = self.common_settings
        self.shows_run = not (common.verbose or common.debug_dag or common.printshellcmds or self.settings.all)
        self.shows_run &= not NO_RUN & set(sys.argv)
        self.stream = sys.stdout if common.stdout else sys.stderr
        self.output: RunOutput | None = None
        self._ended = threading.Event()
        if self.stream.isatty() and self.shows_run:
            threading.Thread(target=self._tick, daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        """Take a message."""
        if not self.shows_run:
            return
        with self.lock:
            if self.output is None:
                # The Snakefile brings its own ecgpipe, that of its clone. What is said before has nothing to show.
                if "ecgpipe.workflow.snakemake_compat" not in sys.modules and record.levelno < logging.WARNING:
                    return
                from ecgpipe.workflow.run_output import RunOutput

                self.output = RunOutput(self.stream, self.stream.isatty(), self.common_settings.dryrun)
            self.output.handle(record)

    def _tick(self) -> None:
        while not self._ended.wait(TICK_S):
            with self.lock:
                if self.output:
                    self.output.draw()

    def close(self) -> None:
        """End."""
        self._ended.set()
        if self.output:
            self.output.close()
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """Whether it takes the place of Snakemake's own output."""
        return self.shows_run

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
