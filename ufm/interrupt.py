"""Ctrl-C in a long computation: it always reaches the caller, and what was computed until then goes with it."""

from typing import Any


class Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt with `partial`, what the function had computed until then, of the type that it returns."""

    def __init__(self, partial: Any) -> None:
        super().__init__("interrupted; what was computed is in .partial")
        self.partial = partial
