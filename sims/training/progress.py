"""How far a preparation has come, on standard error where it takes long and somebody looks."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from ufm.output import StandardError

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], what: str, unit: str, quiet: bool, total: int | None = None) -> Iterator[Item]:
    """The items, with a line on a terminal that counts them once they have taken a second."""
    from tqdm import tqdm

    how = {"disable": True if quiet else None, "delay": 1, "leave": False, "file": StandardError()}
    yield from tqdm(items, what, total, unit=f" {unit}", **how)
