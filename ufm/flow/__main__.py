"""`python -m ufm.flow`."""

import io
import os
import sys

from ufm.flow.command import main


def guarded() -> int:
    """The exit code of the command, and 141 for a reader that has left, 2 for a standard output that cannot be written."""
    if sys.stdout is None:  # closed by the caller: results go to --out alone
        return main()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
        if isinstance(error, BrokenPipeError):  # nobody is there to be told
            return 141
        print(f"ufm.flow: error: cannot write standard output: {error.strerror}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(guarded())
