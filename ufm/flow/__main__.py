"""`python -m ufm.flow`."""

import gc
from typing import NoReturn

from ufm.output import (
    INTERRUPTED,
    NO_READER,
    REFUSED,
    drop_unwritable_output,
    end_process,
    flush_output,
    one_line,
    replace_unknown_characters,
    say,
)


def guarded(alone: bool = False) -> int:
    """The exit code of the command; 141 for a reader that has left, 2 for an output that cannot be written, 130 for Ctrl-C.

    `alone`: the process is the command's, and what it imports stays: it is searched for garbage neither now nor at the end.
    """
    if alone:
        gc.disable()
    try:
        from ufm.flow.command import main
    except KeyboardInterrupt:  # among the imports
        say("\nufm.flow: interrupted, before anything was computed")
        return INTERRUPTED
    finally:
        if alone:
            gc.freeze()
            gc.enable()
    replace_unknown_characters()
    try:
        try:
            return main()
        finally:  # --help leaves by SystemExit
            flush_output()
    except BrokenPipeError:  # no reader for a message
        return NO_READER
    except OSError as error:
        say(f"ufm.flow: error: {one_line(error)}")
        return REFUSED
    finally:
        drop_unwritable_output()


def run_and_end() -> NoReturn:
    """Run the command and end."""
    end_process(guarded(alone=True))


if __name__ == "__main__":
    run_and_end()
