"""Standard output and error as every command uses them: exit codes, values for JSON, narrow encodings, readers that have left."""

import contextlib
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

FAILED, REFUSED, INTERRUPTED, NO_READER = 1, 2, 130, 141


class OutputError(OSError):
    """Standard output takes no more, for another reason than that its reader has left."""


def show(text: str) -> None:
    """A result on standard output, where there is one; control characters are escaped.

    Raises OutputError where the output cannot be written, BrokenPipeError where nobody reads it.
    """
    try:
        if sys.stdout is not None:
            print(printable_lines(text), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error


def flush_output() -> None:
    """Write what is still to be written on standard output. Raises what `show` does."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> OutputError:
    return OutputError(f"cannot write standard output: {error.strerror or error}")


def say(text: str, quiet: bool = False) -> None:
    """A line on standard error, where there is one and it is wanted; control characters are escaped.

    A standard error that takes nothing, as that of a terminal that was closed, ends no computation.
    """
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None and not quiet:
            print(printable_lines(text) + "\n", end="", file=sys.stderr, flush=True)  # one write: lines of processes stay whole


def redraw(text: str) -> None:
    """A line on standard error in the place of the last one, as `say` writes it."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(f"\r{printable(text)}   ", end="", file=sys.stderr, flush=True)


class StandardError:
    """Standard error as a file for progress bars: what it does not take is dropped, as by `say`."""

    @property
    def encoding(self) -> str:
        """That of the stream."""
        return getattr(sys.stderr, "encoding", None) or "ascii"

    def write(self, text: str) -> None:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(text)

    def flush(self) -> None:
        """Write it at once."""
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.flush()

    def isatty(self) -> bool:
        """Whether somebody looks."""
        return sys.stderr is not None and sys.stderr.isatty()


def printable_lines(text: str) -> str:
    """The text with its line ends, and with escapes for everything else that a terminal obeys."""
    return "\n".join(map(printable, text.split("\n")))


def printable(text: str) -> str:
    """The text with escapes for what a terminal obeys: control characters, line ends, changes of the reading direction."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """What an error says, in one line, with escapes for line ends, as in names of files; without the traces that torch adds."""
    text = str(error)
    if type(error) is RuntimeError or type(error).__module__.split(".")[0] == "torch":
        text = next(iter(text.splitlines()), "")
    return printable(text) or type(error).__name__


def exit_code(error: BaseException) -> int:
    """1 for a computation that failed, a RuntimeError; 2 for what cannot be done as asked, short memory included."""
    short = re.search("out of memory|allocate memory", str(error))  # torch's RuntimeError, too
    return FAILED if isinstance(error, RuntimeError) and not short else REFUSED


def json_values(value: object) -> Any:
    """The same as JSON has it: arrays as lists, numbers of numpy as Python's, and null for what is not finite."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): json_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def stored_number(value: float | str | None) -> float:
    """A number back from JSON: NaN for null, inf for 'inf'."""
    return math.nan if value is None else float(value)


def replace_unknown_characters() -> None:
    """A question mark for every character that a terminal or a pipe that is not UTF-8 lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def drop_unwritable_output() -> None:
    """Send what standard output and error do not take nowhere: Python flushes them once more at its end, and would fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with contextlib.suppress(OSError):  # a stream without a descriptor
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def output_errors_last(written: bool) -> Iterator[Callable[[str], None]]:
    """`show` for results that are computed one after another.

    Where files are `written` too, an output that takes no more is an error only after the block, when they are all on disk.
    """
    refused = list[OSError]()

    def tell(text: str) -> None:
        try:
            if not refused:
                show(text)
        except OSError as error:
            if not written:
                raise
            refused.append(error)

    yield tell
    if refused:
        raise refused[0]


def end_process(code: int) -> NoReturn:
    """End with an exit code. Among several processes torch's own threads may abort a regular end."""
    if "torch.distributed" in sys.modules and os.environ.get("WORLD_SIZE", "1") != "1":
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)
