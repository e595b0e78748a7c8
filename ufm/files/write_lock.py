"""One command at a time writes a run: a lock of the operating system, released when its process ends, however it ends."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ufm.distributed import OneProcess, Processes, raised_in_all
from ufm.files.archive import reason_of
from ufm.output import say

PATIENCE = 2.0  # seconds for a process that is about to end, as the workers of a killed sweep do within one
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what file systems say that have none


@contextmanager
def write_lock(path: Path, group: Processes | None = None) -> Iterator[None]:
    """A block in which no other command writes `path`, a folder or a file; the first of several processes has its lock.

    Raises ValueError, in every process, where another command has it for longer than PATIENCE, or where its file, hidden in the
    folder or beside the file while the block lasts, cannot be written. A file system without locks is said, and there is none.
    """
    group = OneProcess() if group is None else group
    with ExitStack() as held:
        with raised_in_all(group):
            if group.rank == 0:
                held.enter_context(_lock(path))
        yield


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    file = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    lock = FileLock(file, timeout=PATIENCE, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another command is writing {path}: wait until it has ended, or write elsewhere") from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise ValueError(f"cannot write {file}: {reason_of(error)}") from error
        say(f"warning: {path} cannot be locked ({reason_of(error)}): start no second command there before this one has ended")
    owner, held = os.getpid(), file.stat() if file.exists() else None
    try:
        yield
    finally:
        if os.getpid() == owner:  # and not a child that leaves the block
            with suppress(OSError):
                if held is not None and os.path.samestat(held, file.stat()):  # and not that of another, of a folder made anew
                    file.unlink()  # before the release: who has opened it meanwhile sees that it is gone, and makes another
            lock.release()
