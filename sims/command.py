"""What the commands of sims share: options that mean the same in each, errors of one line, pipes, interrupts and exit codes.

Exit codes: 0 done; 1 a computation failed; 2 it cannot be done as asked (input, files, memory, a missing library);
130 interrupted; 141 the reader of the output has left. Files are written before their summary is printed: a failing output loses
none of them.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import ufm

FAILED, REFUSED, INTERRUPTED, NO_READER = 1, 2, 130, 141
SHARED: dict[str, dict[str, Any]] = {
    "seed": {"type": int, "default": 0, "help": "seed of everything random"},
    "device": {"default": "cpu", "help": "torch device that computes: cpu, cuda, cuda:1, ..."},
    "json": {"action": "store_true", "help": "one JSON object a line on standard output instead of text"},
    "quiet": {"action": "store_true", "help": "no progress and no table"},
}


class Failure(RuntimeError):
    """A computation that was asked for rightly and did not succeed: exit code 1."""


class _Help(argparse.HelpFormatter):
    """Help that ends in the default, where there is one and the text does not tell it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default in (None, False, argparse.SUPPRESS) or "default" in (action.help or "")
        return action.help if told else f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """The parser of `python -m sims.NAME`, its `prog`, or of a subcommand: `--version`, and the shared options that are named.

    Errors are one line and exit code 2. `extra` is the extra of the installation that has the libraries of the command.
    """

    def __init__(self, prog: str, shared: tuple[str, ...] = (), extra: str = "train", **rest: Any) -> None:
        super().__init__(prog=prog, allow_abbrev=False, formatter_class=_Help, **rest)
        self.name, self.extra = prog.removeprefix("python -m ").split()[0], extra
        self.add_argument("--version", action="version", version=f"{self.name} {ufm.__version__}", help="print it and leave")
        for name in shared:
            self.add_argument(f"--{name}", **SHARED[name])

    def error(self, message: str) -> NoReturn:
        """One line on standard error."""
        self.exit(REFUSED, f"{self.name}: error: {message}\n")


def run_command(
    parser: Parser,
    work: Callable[[argparse.Namespace], object],
    argv: list[str] | None = None,
    interrupted: str = "nothing was written",
) -> int:
    """Parse, work, and return the exit code; what went wrong is one line on standard error, never a traceback.

    `interrupted` says what an interrupt leaves behind.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":  # ? for what a terminal that is not UTF-8 lacks
            stream.reconfigure(errors="replace")
    try:
        try:
            work(parser.parse_args(argv))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        say(f"\n{parser.name}: interrupted; {interrupted}")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_unwritable_output()
        return NO_READER
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError, ImportError) as error:
        _drop_unwritable_output()
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        advice = f": pip install 'neural-collapse-flow[{parser.extra}]'" if missing else ""
        say(f"{parser.name}: error: {first_line(error)}{advice}")
        return FAILED if isinstance(error, Failure) else REFUSED


def say(text: str) -> None:
    """A line on standard error, where there is one."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """What an error says, in one line; torch adds traces of its own."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _drop_unwritable_output() -> None:
    """Send what standard output does not take nowhere: Python flushes it once more at its end, and would complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):  # a stream without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
