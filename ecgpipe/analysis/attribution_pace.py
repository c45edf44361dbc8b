"""Say how long attributing takes, before most of it is done."""

import logging
import time

from ecgpipe.core.logs import Progress, describe_duration

logger = logging.getLogger(__name__)

# Steps that a segment takes by its completeness error, about, before it is known: ECG-FM's of random weights takes 11,
# the tests' reference checkpoint, a rough one, 20 to 40.
EXPECTED_STEPS = 16

# What the check by deletion takes of a segment, in steps: five forward passes, each half of a step.
CHECK_STEPS = 2.5


class Pace(Progress):
    """Says how long attributing takes before most of it is done: after the first steps, and as it goes on.

    A network shows only as it goes how many steps it takes: the total follows what those before took.

    Args:
        pairs: Recordings and labels.
        segments: Of all of them together.
        steps: Of each segment, where their number is fixed.
    """

    def __init__(self, pairs: int, segments: int, steps: int | None) -> None:
        super().__init__("attribute", segments * (steps or EXPECTED_STEPS), "steps of segments")
        self.pairs, self.segments, self.steps = pairs, segments, steps
        self.begun = False
        self.seen = self.taken = 0  # segments that are done, and their steps

    def begin(self) -> None:
        """Count the time from here on: the network is loaded."""
        self.started = time.monotonic()
        many = f"{self.pairs} recording{'s' * (self.pairs != 1)} to one label each" if self.pairs else "no recording"
        each = f"{self.steps} steps" if self.steps else f"about {EXPECTED_STEPS} steps, by the completeness error"
        logger.info("attributing %s: %d segments, each in %s", many, self.segments, each)

    def add(self, n: int) -> None:
        """Count steps; after the first ones, say how long all of it will take."""
        if not self.begun and n > 0:
            self.begun = True
            step_s = self.elapsed_s / n
            whole_s = step_s * ((self.total or 0) + self.segments * CHECK_STEPS)
            logger.info("a step takes %.2g s, all of it about %s", step_s, describe_duration(whole_s))
        super().add(n)

    def finish(self, segments: int, steps: int) -> None:
        """Take into account what a recording took."""
        self.seen, self.taken = self.seen + segments, self.taken + steps
        left = max(self.segments - self.seen, 0)
        self.total = self.taken + round(left * self.taken / max(self.seen, 1))
