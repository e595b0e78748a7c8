"""What the commands of sims share: options that mean the same in each, errors of one line, pipes, interrupts and exit codes.

Exit codes: 0 done; 1 a computation failed; 2 it cannot be done as asked (input, files, memory, a missing library);
130 interrupted; 141 the reader of the output has left. Files are written before their summary is printed: a failing output loses
none of them.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import ufm
from sims import leave_importing
from ufm.options import refuse_lost_values, shared_option
from ufm.output import (
    FAILED,
    INTERRUPTED,
    NO_READER,
    REFUSED,
    drop_unwritable_output,
    exit_code,
    flush_output,
    json_values,
    one_line,
    printable,
    replace_unknown_characters,
    say,
    show,
)

NOTHING_WRITTEN = "nothing was written"


class Failure(RuntimeError):
    """A computation that was asked for rightly and did not succeed, told in one line as it is: exit code 1."""


class _Help(argparse.HelpFormatter):
    """Help that ends in the default, where there is one and the text does not tell it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # 0 is a default, and equal to False
        said = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        return action.help if said or "default" in (action.help or "") else f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """The parser of `python -m sims.NAME`, its `prog`, or of a subcommand: `--version`, and the options of `ufm.options` named.

    Errors are one line and exit code 2. `extra` is the extra of the installation that has the libraries of the command.
    """

    def __init__(self, prog: str, shared: tuple[str, ...] = (), extra: str = "train", **rest: Any) -> None:
        super().__init__(prog=prog, allow_abbrev=False, formatter_class=_Help, **rest)
        self.name, self.extra = prog.removeprefix("python -m ").split()[0], extra
        self.add_argument(
            "--version", action="version", version=f"{self.name} {ufm.__version__}", help="print the version and exit"
        )
        for name in shared:
            self.add_shared(name)

    def add_shared(self, name: str, without: str | None = None, **changed: Any) -> argparse.Action:
        """Add an option of `ufm.options`; `without` says in words what happens where it is not given."""
        return self.add_argument(f"--{name}", **shared_option(name, without, **changed))

    def add_former(self, name: str, option: argparse.Action) -> None:
        """Add the former name of an option, which goes on to work and is not in the help."""
        hidden = argparse.SUPPRESS
        self.add_argument(name, dest=option.dest, type=option.type or str, nargs=option.nargs, default=hidden, help=hidden)

    def error(self, message: str) -> NoReturn:
        """One line on standard error."""
        self.exit(REFUSED, f"{self.name}: error: {printable(message)}\n")


def run_command(
    parser: Parser,
    work: Callable[[argparse.Namespace], object],
    argv: list[str] | None = None,
    interrupted: str = NOTHING_WRITTEN,
    only_with_out: bool = False,
) -> int:
    """Parse, work, and return the exit code; what went wrong is one line on standard error, never a traceback.

    `interrupted` says what an interrupt leaves behind; with `only_with_out` that is so where --out is given, else nothing is.
    """
    args: argparse.Namespace | None = None
    replace_unknown_characters()
    try:
        if signal.getsignal(signal.SIGINT) is leave_importing:  # the imports are over
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            refuse_lost_values(parser.error, sys.argv[1:] if argv is None else argv)
            args = parser.parse_args(argv)
            work(args)
        finally:
            flush_output()
        return 0
    except KeyboardInterrupt:
        nothing = args is None or (only_with_out and getattr(args, "out", None) is None)
        say(f"\n{parser.name}: interrupted; {NOTHING_WRITTEN if nothing else interrupted}")
        return INTERRUPTED
    except BrokenPipeError:
        return NO_READER
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError, ImportError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        advice = f": pip install 'neural-collapse-flow[{parser.extra}]'" if missing else ""
        say(f"{parser.name}: error: {one_line(error)}{advice}")
        return FAILED if isinstance(error, Failure) else exit_code(error)
    finally:
        drop_unwritable_output()


def json_line(value: object) -> str:
    """One JSON object on one line."""
    return json.dumps(json_values(value), allow_nan=False)


def print_json(value: object) -> None:
    """One JSON object on one line of standard output."""
    show(json_line(value))


def parse_share(text: str) -> tuple[int, int]:
    """(K - 1, N) of a text K/N: which of N commands side by side this one is. Raises ValueError for no such share."""
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise ValueError(f"--share {text}: K/N with 1 <= K <= N is needed, 1/2 and 2/2 for two commands")
    return int(k) - 1, int(n)
