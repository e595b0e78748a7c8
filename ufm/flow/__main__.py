"""`python -m ufm.flow`."""

import io
import os
import sys


def guarded() -> int:
    """The exit code of the command; 141 for a reader that has left, 2 for an output that cannot be written, 130 for Ctrl-C."""
    try:
        from ufm.flow.command import main
    except KeyboardInterrupt:  # among the imports
        print("\nufm.flow: interrupted, before anything was computed", file=sys.stderr)
        return 130
    if sys.stdout is None:  # closed by the caller: results go to --out alone
        return main()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            code = main()
        finally:  # --help leaves by SystemExit
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
