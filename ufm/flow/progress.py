"""The progress of a long run on the terminal."""

import time

from ufm.output import redraw, say

PROGRESS_SECONDS = 1.0
EARLIEST_ESTIMATE = 0.02  # share of a stage before which its speed says little about the time left


class StageLine:
    """Share done and time left of each stage on standard error, for runs longer than a second; silent when quiet."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.stage, self.drawn, self.first = quiet, "", False, 0.0
        self.began = self.last = time.monotonic()

    def __call__(self, stage: str, share: float) -> None:
        """Redraw the line, at most once a second."""
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.began, self.first = stage, now, share  # a run that goes on has a share behind it
        if self.quiet or now - self.last < PROGRESS_SECONDS:
            return
        self.last, self.drawn = now, True
        done = share - self.first
        left = f", about {(now - self.began) * (1 - share) / done:.0f} s left" if done > EARLIEST_ESTIMATE else ""
        redraw(f"{stage} {share:6.1%}{left}")

    def close(self) -> None:
        """End the line."""
        if self.drawn:
            say("")
