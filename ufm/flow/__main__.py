"""`python -m ufm.flow`."""

import os
import sys
from typing import NoReturn

from ufm.output import (
    INTERRUPTED,
    NO_READER,
    REFUSED,
    drop_unwritable_output,
    flush_output,
    one_line,
    replace_unknown_characters,
    say,
)


def guarded() -> int:
    """The exit code of the command; 141 for a reader that has left, 2 for an output that cannot be written, 130 for Ctrl-C."""
    try:
        from ufm.flow.command import main
    except KeyboardInterrupt:  # among the imports
        say("\nufm.flow: interrupted, before anything was computed")
        return INTERRUPTED
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
    """Run the command and end. Among several processes torch's own threads may abort a regular end."""
    code = guarded()
    if "torch.distributed" in sys.modules and os.environ.get("WORLD_SIZE", "1") != "1":
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run_and_end()
