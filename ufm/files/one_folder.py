"""A folder that several processes write into together: the same one in all of them, on a disk that they share."""

from contextlib import suppress
from pathlib import Path

from ufm.distributed import Processes, broadcast_text, raised_in_all
from ufm.files.archive import reason_of
from ufm.files.store import temporary_name


def check_one_folder(folder: Path, group: Processes) -> None:
    """Raise ValueError, in every process, where `folder` is another one in one of them, or process 0 cannot write there."""
    if group.size == 1:
        return
    name = broadcast_text(group, temporary_name())
    try:
        with raised_in_all(group):
            if group.rank == 0:
                try:
                    (folder / name).touch()
                except OSError as error:
                    raise ValueError(f"cannot write into {folder}: {reason_of(error)}") from error
        with raised_in_all(group):
            check_seen(folder / name)
    finally:
        if group.rank == 0:
            with suppress(OSError):  # it is not there, or not to be removed, as on a disk that takes no more
                (folder / name).unlink()


def check_seen(made: Path) -> None:
    """Raise ValueError where this process does not see what process 0 has just made."""
    if not made.exists():
        raise ValueError(
            f"{made.absolute().parent} is not the folder that process 0 writes into: "
            "give all processes the same absolute path, on a disk that they share"
        )
