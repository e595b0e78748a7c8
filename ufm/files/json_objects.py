"""Files of one JSON object each; a damaged one is reported in one line."""

import contextlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ufm.files.archive import reason_of
from ufm.memory import in_words

JsonObject = dict[str, Any]  # as read, or to be written: who reads a key knows what it holds
LARGEST_TEXT = 1 << 28  # bytes; the largest file of JSON that is written here has a few MB


def read_json(path: Path) -> JsonObject:
    """The JSON object of a file. Raises ValueError for a file that cannot be read, and for anything else in it."""
    return parse_json(read_limited_text(path), path)


def read_limited_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file. Raises ValueError for one that cannot be read, for a device or a pipe, and above 256 MB."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no regular file")
        if about.st_size > LARGEST_TEXT:
            raise ValueError(f"it has {in_words(about.st_size)}, far more than numbers in a text need")
        return path.read_text(encoding=encoding)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {reason_of(error)}") from error


@contextlib.contextmanager
def errors_as_damage(path: Path) -> Iterator[None]:
    """Make a ValueError with the name of the file of what it raises to take something else for its contents."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): delete it, and it is computed again") from error


def parse_json(text: str, source: Path | str) -> JsonObject:
    """A JSON object. Raises ValueError for anything else, however deep or long it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {source}: its JSON is damaged ({str(error)[:80]})") from error
    if not isinstance(value, dict):
        raise ValueError(f"cannot read {source}: a JSON object is needed, it holds a {type(value).__name__}")
    return value
