"""Archives of data files, .tar.gz, .tar.bz2, .tar.xz and .zip, unpacked once into the cache, without trusting their contents.

A member is a regular file or a folder below the top, written by its own name once; modes, owners and links are not taken.
"""

import bz2
import gzip
import hashlib
import lzma
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sims.training.cache import cache_folder, cached
from sims.training.progress import with_progress
from ufm.files.archive import reason_of

SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz", ".zip")
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}  # by the first two bytes
EXPANSION = 50  # times its bytes that an archive may unpack to: images as raw bytes take 5 to 10 times their archive's
ALWAYS_ALLOWED = 1 << 20  # bytes that it always may
MOST_FILES = 1_000_000
RESERVED = 1 << 28  # bytes of the disk that stay free
TOO_LARGE = f"it unpacks to more than {EXPANSION} times its size: unpack it yourself if you trust it"


def is_archive(path: Path) -> bool:
    """Whether a path is a file called as an archive is."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def unpacked(path: Path, quiet: bool = True) -> Path:
    """The folder with what an archive holds, below folders that hold one folder and nothing else.

    Raises ValueError for what is no archive, damaged or encrypted, or unpacks to more than `EXPANSION` times its size, more than
    the disk has free or more than `MOST_FILES` files, and for members outside of it, links, devices and repeated names.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {reason_of(error)}") from error
    return top(cached("archives", digest, lambda folder: _unpack(path, folder, quiet)))


def top(folder: Path) -> Path:
    """The first folder from here down that holds anything else than one folder."""
    while len(inside := [entry for entry in folder.iterdir() if entry.name != "__MACOSX"]) == 1 and inside[0].is_dir():
        folder = inside[0]
    return folder


@dataclass(frozen=True)
class _Entry:
    """What is written: name, bytes, and where they are read; None for a folder."""

    name: str
    size: int
    content: IO[bytes] | None


def _unpack(path: Path, folder: Path, quiet: bool) -> None:
    limit, number = EXPANSION * path.stat().st_size + ALWAYS_ALLOWED, 0
    free = shutil.disk_usage(cache_folder()).free - RESERVED
    try:
        with path.open("rb") as file:
            for member in with_progress(_members(file, limit), f"unpacking {path.name}", "files", quiet):
                number, limit, free = number + 1, limit - member.size, free - member.size
                if number > MOST_FILES:
                    raise ValueError(f"it has more than {MOST_FILES:,} members")
                if limit < 0:
                    raise ValueError(TOO_LARGE)
                if free < 0:
                    raise ValueError(
                        f"the disk of {cache_folder()} has too little free space (XDG_CACHE_HOME sets another folder)"
                    )
                _write(member, folder)
    except FileExistsError as error:
        raise ValueError(f"cannot unpack {path}: it has {Path(error.filename).relative_to(folder)} twice") from error
    except Exception as error:  # a damaged archive raises anything, from zlib.error to NotImplementedError
        raise ValueError(f"cannot unpack {path}: {reason_of(error)}") from error


def _members(file: IO[bytes], limit: int) -> Iterator[_Entry]:
    magic = file.read(2)
    file.seek(0)
    if magic == b"PK":
        return _zip_members(file)
    if magic not in OPENERS:
        raise ValueError("it is neither a zip archive nor a compressed tar archive")
    return _tar_members(_Bounded(OPENERS[magic](file), limit))


def _zip_members(file: IO[bytes]) -> Iterator[_Entry]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                yield _Entry(info.filename, 0, None)
            elif kind not in (0, stat.S_IFREG):
                raise ValueError(f"its member {info.filename!r} is no regular file")
            else:
                with archive.open(info) as content:  # compares the checksum at the end
                    yield _Entry(info.filename, info.file_size, content)


def _tar_members(file: "_Bounded") -> Iterator[_Entry]:
    with tarfile.open(fileobj=file, mode="r|") as archive:  # type: ignore[call-overload]
        for info in archive:
            archive.members.clear()  # type: ignore[attr-defined] # it would keep all of them
            if info.isdir():
                yield _Entry(info.name, 0, None)
            elif not info.isreg() or info.issparse():
                raise ValueError(f"its member {info.name!r} is no regular file")
            else:
                yield _Entry(info.name, info.size, archive.extractfile(info))
    while file.read(1 << 20):  # to the end, where the checksum is compared
        pass


class _Bounded:
    """A stream that ends in ValueError after so many bytes: what a tar says of itself in headers is bounded, too."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._left = file, limit

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        block = self._file.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise ValueError(TOO_LARGE)
        return block


def _write(member: _Entry, folder: Path) -> None:
    """Write a member below `folder`. Raises ValueError for a name that leads elsewhere and for fewer bytes than announced."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts or any(c in member.name for c in "\\:\0"):
        raise ValueError(f"its member {member.name!r} does not lie below the archive")
    path = folder.joinpath(*parts)
    if member.content is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(member.content, file)
        if file.tell() != member.size:
            raise ValueError(f"its member {member.name!r} has {file.tell()} bytes, not {member.size}")
