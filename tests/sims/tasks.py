"""Tasks of sweeps in a module that imports next to nothing: every worker imports the module of its task."""

import os
import signal
from pathlib import Path


def square(number: int) -> int:
    if number == 3:
        raise ValueError("three\nis refused")
    return number**2


def squared_once_killed(task: tuple[int, str]) -> int:
    """Dies of SIGKILL the first time that it is given 2, and every time that it is given 5."""
    number, folder = task
    met = Path(folder) / str(number)
    if number == 5 or (number == 2 and not met.exists()):
        met.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def square_in_too_much_memory(number: int) -> int:
    """Its worker stops after each task but its first, as joblib's do that have grown by 300 MB."""
    from joblib.externals.loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE, process_executor._MEMORY_LEAK_CHECK_DELAY = -1, 0.0
    return number**2
