"""A file of one JSON object a line that a killed command leaves whole: read, appended, gone on with."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from ufm.files.json_objects import JsonObject, read_limited_text


def read_lines(path: Path) -> list[JsonObject]:
    """The objects of a file, none where there is no file; a last line cut off is left out. Raises ValueError for others."""
    if not path.exists():
        return []
    objects = []
    texts = read_limited_text(path).split("\n")
    for k, text in enumerate(texts):
        if not text:
            continue
        try:
            objects.append(json.loads(text))
        except ValueError as error:
            if k == len(texts) - 1:  # no newline follows: a write that was interrupted
                continue
            raise ValueError(f"{path}, line {k + 1}, is no JSON: {error}") from error
    return objects


def append_line(path: Path, value: JsonObject) -> None:
    """One more line; one that was cut off before it goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value) + "\n"
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)  # to write the lines before it again could lose them
    with path.open("a") as file:
        file.write(text)


def stopwatch() -> Callable[[], float]:
    """Seconds since this call."""
    began = time.monotonic()
    return lambda: time.monotonic() - began
