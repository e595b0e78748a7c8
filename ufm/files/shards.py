"""Features in many files, read in blocks of bounded size: .npz shards, or pairs of .npy.

A shard is a .npz with the members `features` (n, P) and `labels` (n,), or a .npy file with `features` in its name beside one that
has `labels` in its place. All shards together, in the order of their names, are one data set. Files are not mapped into memory:
of a mapped file what was read stays in memory, and one that is cut off meanwhile kills the reader. Rows before the wanted ones
are read of compressed arrays alone.
"""

import fnmatch
import glob
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ufm.files.archive import checked_header, reason_of
from ufm.files.rows import BLOCK_NUMBERS, check_kinds, share_of

LOCAL_HEADER = 30  # bytes before the name of a member of an archive
Written = tuple[tuple[int, int], ...]  # nanoseconds and bytes of the features' file and of the labels'


@dataclass(frozen=True)
class Shards:
    """The rows of some files: `paths` in order, rows of each, P, the dtype that all features fit in, when all were written."""

    paths: tuple[Path, ...]
    rows: tuple[int, ...]
    P: int
    dtype: np.dtype[Any]
    written: tuple[Written, ...]

    @classmethod
    def of(cls, pattern: str) -> "Shards":
        """The shards that a quoted pattern names. Only their headers are read.

        Raises ValueError where there is none, where one cannot be read, and where their features do not go together.
        """
        paths = tuple(Path(name) for name in sorted(glob.glob(pattern)) if _is_shard(Path(name)))
        if not paths:
            raise ValueError(f"{pattern}: no .npz, and no .npy with 'features' in its name, matches this pattern")
        _check_distinct(paths)
        written = tuple(_written(path) for path in paths)  # before anything of them is read
        headers = [_headers(path) for path in paths]
        widths = {shape[1] for shape, _, _ in headers}
        if len(widths) > 1:
            odd = next(k for k, (shape, _, _) in enumerate(headers) if shape[1] != headers[0][0][1])
            raise ValueError(f"{paths[odd]} has P = {headers[odd][0][1]} features, {paths[0]} has {headers[0][0][1]}")
        dtype = np.result_type(*(dtype for _, dtype, _ in headers))
        return cls(paths, tuple(shape[0] for shape, _, _ in headers), widths.pop(), dtype, written)

    @property
    def n(self) -> int:
        """Number of examples."""
        return sum(self.rows)

    @property
    def where(self) -> str:
        """What they lie in, in words."""
        return f"{len(self.paths)} shards"

    @property
    def described(self) -> str:
        """What is alike wherever the same rows are read."""
        return f"{[path.name for path in self.paths]} {self.rows} {self.dtype.name}"

    def files(self) -> tuple[str, ...]:
        """The files that are read."""
        return tuple(map(str, self.paths))

    def share(self, rank: int, size: int) -> range:
        """The rows of one of `size` processes: as many as those of any other, to one."""
        return share_of(self.n, rank, size)

    def labels(self, part: range) -> Iterator[np.ndarray]:
        """The labels of rows `part` as int64, file by file. (b,)"""
        for path, rows in self._parts(part):
            with _opened(path, "labels") as member:
                yield from map(_as_int64, member.blocks(rows, BLOCK_NUMBERS))

    def place(self, row: int) -> str:
        """Where a row lies, in words."""
        ((path, rows),) = self._parts(range(row, row + 1))
        return f"row {rows.start} of {path}"

    def blocks(self, part: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (b, P) and labels (b,) of rows `part`, in blocks of at most `BLOCK_NUMBERS` numbers."""
        step = max(1, BLOCK_NUMBERS // self.P)
        for path, rows in self._parts(part):
            with _opened(path, "features") as features, _opened(path, "labels") as labels:
                yield from zip(features.blocks(rows, step), map(_as_int64, labels.blocks(rows, step)), strict=True)

    def _parts(self, part: range) -> Iterator[tuple[Path, range]]:
        """The files that rows `part` lie in, and the rows of each. Raises ValueError for one that was written meanwhile."""
        start = 0
        for path, rows, written in zip(self.paths, self.rows, self.written, strict=True):
            inside = range(max(part.start - start, 0), min(part.stop - start, rows))
            if len(inside):
                if _written(path) != written:
                    raise ValueError(f"{path} was written while it was read: repeat the run when nothing writes there")
                yield path, inside
            start += rows


def is_named(pattern: str, path: Path) -> bool:
    """Whether a file at `path`, there or not, would be one of the shards of a pattern."""
    folder, name = os.path.split(pattern)
    hidden = path.name.startswith(".") and not name.startswith(".")
    if hidden or not _is_shard(path) or not fnmatch.fnmatch(path.name, name):
        return False
    return any(os.path.realpath(each) == os.path.realpath(path.parent) for each in glob.glob(folder or "."))


class _Member:
    """One array of a shard: its shape and dtype, and its rows in blocks."""

    def __init__(self, path: Path, name: str, source: IO[bytes], size: int, stored: tuple[Path, int] | None) -> None:
        self.path, self.name, self._source, self._stack = path, name, source, ExitStack()
        header = checked_header(source, name, size)
        self._numbers = None if stored is None else (stored[0], stored[1] + source.tell())  # file and place, where not compressed
        self.shape, self.dtype = header.shape, header.dtype
        if header.fortran and len(self.shape) > 1:
            raise ValueError(f"its {name} are stored by columns: save them by rows")

    def __enter__(self) -> "_Member":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def closing(self, stack: ExitStack) -> "_Member":
        """The same, which closes its files in the end."""
        self._stack = stack
        return self

    def blocks(self, rows: range, step: int) -> Iterator[np.ndarray]:
        """Rows (b, ...) in blocks of at most `step`. Raises ValueError where the file ends early."""
        self._skip(rows.start * self._row_bytes)
        for first in range(rows.start, rows.stop, step):
            yield self._take(first, min(step, rows.stop - first))

    @property
    def _row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def _skip(self, count: int) -> None:
        """Go on after so many bytes, which are read only where they are compressed."""
        if count and self._numbers is not None:
            file, start = self._numbers
            self._source = _read_or_refuse(self.path, lambda: self._stack.enter_context(file.open("rb")))
            self._source.seek(start + count)
            return
        while count > 0:
            piece = min(count, 1 << 24)
            count -= len(_read_or_refuse(self.path, lambda: self._source.read(piece))) or count  # noqa: B023 - called at once

    def _take(self, first: int, count: int) -> np.ndarray:
        data = _read_or_refuse(self.path, lambda: self._source.read(count * self._row_bytes))
        if len(data) < count * self._row_bytes:
            raise ValueError(f"cannot read {self.path}: its {self.name} end early")
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def _is_shard(path: Path) -> bool:
    return path.suffix == ".npz" or (path.suffix == ".npy" and "features" in path.name)


def _check_distinct(paths: tuple[Path, ...]) -> None:
    """Raise ValueError where two names are one file: its examples would count twice."""
    seen = dict[tuple[int, int], Path]()
    for path in paths:
        if not path.exists():  # a link to nowhere, which is told when it is opened
            continue
        info = path.stat()
        other = seen.setdefault((info.st_dev, info.st_ino), path)
        if other != path:
            raise ValueError(f"{path} is the same file as {other}: its examples would count twice; remove one of the two names")


def _headers(path: Path) -> tuple[tuple[int, int], np.dtype[Any], np.dtype[Any]]:
    """Shape and dtype of the features, dtype of the labels. Raises ValueError where the two do not go together."""
    with _opened(path, "features") as features, _opened(path, "labels") as labels:
        if len(features.shape) != 2 or features.shape[:1] != labels.shape or not features.shape[1]:
            raise ValueError(f"{path}: features must be (n, P) and labels (n,), got {features.shape} and {labels.shape}")
        check_kinds(path, features.dtype, labels.dtype)
        return (features.shape[0], features.shape[1]), features.dtype, labels.dtype


def _as_int64(labels: np.ndarray) -> np.ndarray:
    """Labels that numpy counts: of uint64 it refuses to. Those past 2^63 become negative."""
    return labels.astype(np.int64, copy=False)


def _written(path: Path) -> Written:
    """When the files of a shard were written, and their bytes."""
    files = {path, _path_beside(path, "labels")} if path.suffix == ".npy" else {path}
    states = [_read_or_refuse(file, file.stat) for file in sorted(files)]
    return tuple((state.st_mtime_ns, state.st_size) for state in states)


def _opened(path: Path, name: str) -> _Member:
    """A member of a shard. Raises ValueError for a file that is damaged or lacks it."""

    def open_it() -> _Member:
        with ExitStack() as stack:
            if path.suffix == ".npy":
                path_of_member = _path_beside(path, name)
                file = stack.enter_context(path_of_member.open("rb"))
                size = os.fstat(file.fileno()).st_size
                return _Member(path_of_member, name, file, size, (path_of_member, 0)).closing(stack.pop_all())
            archive = stack.enter_context(zipfile.ZipFile(path))
            info = archive.getinfo(f"{name}.npy")
            member = stack.enter_context(archive.open(info))
            return _Member(path, name, member, info.file_size, _place_of(path, info)).closing(stack.pop_all())

    return _read_or_refuse(_path_beside(path, name) if path.suffix == ".npy" else path, open_it)


def _place_of(path: Path, info: zipfile.ZipInfo) -> tuple[Path, int] | None:
    """The file of a member that is stored as it is, and the place of its first byte."""
    if info.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER)
    lengths = struct.unpack("<HH", header[-4:])  # of its name, and of what is extra
    return path, info.header_offset + LOCAL_HEADER + sum(lengths)


def _path_beside(path: Path, name: str) -> Path:
    """The .npy of this name that goes with the features of `path`."""
    return path.with_name(name.join(path.name.rsplit("features", 1)))


def _read_or_refuse(path: Path, read: Any) -> Any:
    try:
        return read()
    except KeyError as error:
        raise ValueError(f"{path} needs the arrays 'features' (n, P) and 'labels' (n,): {error.args[0]}") from error
    except Exception as error:  # a damaged archive or header raises anything, from SyntaxError to NotImplementedError
        raise ValueError(f"cannot read {path}: {reason_of(error)}") from error
