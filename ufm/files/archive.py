"""The members of an .npz archive: the wanted ones, each read once, none larger than it says it is, nothing unpickled."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import numpy as np

from ufm.memory import free_memory, in_words
from ufm.output import printable

SLACK = 1 << 16  # bytes that an array beside the features may always have
BESIDE = 8  # times the bytes of the features that any array beside them may have; int64 labels of one float16 have 4 times


@dataclass(frozen=True)
class Header:
    """What a .npy says of itself: its shape, whether it is stored by columns, its dtype, and the bytes of its numbers."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return self.dtype.itemsize * math.prod(self.shape)


def reason_of(error: Exception) -> str:
    """What an error of reading says, in one line that is never empty."""
    if str(error) == "File is not a zip file":  # zipfile, of one without the table of contents at its end
        return "it is damaged or cut off (no whole zip archive)"
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__


def read_header(source: IO[bytes]) -> Header:
    """The header of a .npy, read to its end. Raises ValueError for one that is damaged, and for objects."""
    version = np.lib.format.read_magic(source)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header = Header(*read(source))
    if header.dtype.hasobject:
        raise ValueError("it holds objects, which are never unpickled")
    if min(header.shape, default=0) < 0:
        raise ValueError(f"its header says shape {header.shape}")
    return header


def checked_header(source: IO[bytes], name: str, size: int) -> Header:
    """The header of a .npy of so many bytes. Raises ValueError where it promises more of them, or fewer."""
    header = read_header(source)
    if source.tell() + header.size != size:
        promised = f"{printable(name)} is {header.dtype} {header.shape}, {in_words(header.size)}"
        raise ValueError(f"{promised}, of which there are {in_words(max(size - source.tell(), 0))}")
    return header


def read_members(file: BinaryIO, names: Collection[str] | None, beside: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of an archive, all or those of `names` that it has; none may be far larger than the one called `beside`.

    Raises ValueError for members that are no arrays, whose size is not that of their header, and that do not fit into memory.
    """
    import zipfile

    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        members = {name: member for name, member in members.items() if names is None or name in names}
        sizes = {name: _checked_size(archive, name, member) for name, member in members.items()}
        check_sizes(sizes, beside)
        arrays = {}
        for name, member in members.items():
            with archive.open(member) as source:
                arrays[name] = np.lib.format.read_array(source, allow_pickle=False)
                if source.read(1):  # to the end, where zipfile compares the checksum
                    raise ValueError(f"{printable(name)} goes on after its end")
        return arrays


def check_sizes(sizes: dict[str, int], beside: str | None) -> None:
    """Raise ValueError where arrays of so many bytes do not fit into memory, or one is far larger than that called `beside`."""
    check_memory(sizes)
    most = max(BESIDE * sizes.get(beside or "", 0), SLACK)
    large = [name for name, size in sizes.items() if beside in sizes and name != beside and size > most]
    if large:
        raise ValueError(
            f"{printable(large[0])} has {in_words(sizes[large[0]])}, far more than {beside} with {in_words(sizes[str(beside)])}"
        )


def check_memory(sizes: dict[str, int]) -> None:
    """Raise ValueError where arrays of so many bytes do not fit into the memory that is free."""
    free, needed = free_memory(), sum(sizes.values())
    if free is not None and needed > free:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(f"{printable(largest)} has {in_words(sizes[largest])}, with {in_words(free)} of memory free")


def _checked_size(archive: Any, name: str, member: Any) -> int:
    """The bytes of a member. Raises ValueError where it is no array, and where its header and the archive disagree on them."""
    with archive.open(member) as source:
        if source.peek(6)[:6] != b"\x93NUMPY":
            raise ValueError(f"its member {printable(name)} is no array")
        return checked_header(source, name, member.file_size).size
