"""Experiments: real networks trained, measured and compared with the simulation."""

import contextlib
import os
import re
import signal
import sys
from types import FrameType


def command_started() -> str | None:
    """The command NAME that is being started as `python -m sims.NAME`; None where the package is merely imported."""
    if sys.argv[:1] != ["-m"]:  # what Python calls itself while it imports the packages of a module that it is to run
        return None
    words = iter(sys.orig_argv[1:])
    option = next((match for word in words if (match := re.fullmatch(r"-[bBdEiIOPqsSuvx]*m(.*)", word))), None)
    module = None if option is None else option[1] or next(words, "")
    return module if module and module.startswith(f"{__name__}.") else None


def leave_importing(_: int, __: FrameType | None) -> None:
    """Leave on Ctrl-C with one line: an interrupt among the imports of a command, before `sims.command` answers for it."""
    _tell(f"\n{_COMMAND}: interrupted; nothing was written\n")
    os._exit(130)


def refuse_deleted_folder(command: str) -> None:
    """End with one line where the working directory is gone: linear algebra libraries end the process while they load there."""
    try:
        os.getcwd()
    except OSError as error:
        _tell(f"{command}: error: the working directory cannot be used: {error.strerror}; change to another\n")
        sys.exit(2)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # a standard error that is closed or full takes no exit code
        os.write(2, text.encode())


_COMMAND = command_started()
if _COMMAND is not None:
    refuse_deleted_folder(_COMMAND)
if _COMMAND is not None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave_importing)
