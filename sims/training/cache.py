"""Folders of a cache on disk, named by the content they are made from, and made once however many processes ask for them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder() -> Path:
    """Where what can be made again is kept: `ufm` in $XDG_CACHE_HOME, which is ~/.cache where it is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ufm"


def cached(kind: str, digest: str, make: Callable[[Path], None]) -> Path:
    """The folder KIND/DIGEST of the cache. Where there is none, `make` fills it; others that ask meanwhile wait for it.

    A folder is there whole or not at all. Raises ValueError where it cannot be written, and what `make` raises.
    """
    whole = cache_folder() / kind / digest
    try:
        if not whole.is_dir():
            whole.parent.mkdir(parents=True, exist_ok=True)
            with _one_process(whole.with_name(f"{digest}.lock")):
                if not whole.is_dir():
                    _make(whole, make)
    except OSError as error:
        raise ValueError(f"cannot write {whole}: {error.strerror or error}; XDG_CACHE_HOME sets another folder") from error
    return whole


def _make(whole: Path, make: Callable[[Path], None]) -> None:
    """Fill a folder beside `whole`, then rename it; what a killed process left of it goes first."""
    partial = whole.with_name(f"{whole.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        make(partial)
        with suppress(AttributeError):  # elsewhere than on POSIX
            os.sync()  # one call for all files; a name that outlives a power cut must not stand for an empty one
        partial.rename(whole)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    """A block that one process at a time is in. The system lets go of it when a process ends, however that happens."""
    with lock.open("wb") as file:
        with suppress(ImportError):  # elsewhere than on POSIX: whoever comes second finds the name taken
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
