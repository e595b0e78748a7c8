"""What a log held before a training that begins anew: it is kept beside it."""

import shutil
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def begins_anew(logged: Sequence[int], epoch: int) -> bool:
    """Whether a training whose first epoch is this would replace more of the logged epochs than it leaves: it is another one.

    One that goes on from a checkpoint repeats the last few.
    """
    replaced = sum(past >= epoch for past in logged)
    return replaced > len(logged) - replaced


def keep_file(path: Path, logged: Sequence[int]) -> Path:
    """Copy a file to NAME.earlier-K.SUFFIX beside it, the first K that is free, and say so in a warning."""
    kept = _free(path.parent, path.stem, path.suffix)
    shutil.copy2(path, kept)
    _warn_of_earlier(path, kept, logged)
    return kept


def keep_folder(folder: Path, shared: Sequence[Path], own: Sequence[Path], logged: Sequence[int]) -> Path:
    """Put files of a run, `shared` as copies and `own` for good, into FOLDER/earlier-K, and say so in a warning.

    Whatever kills this half way leaves every file in one of the two places.
    """
    kept = _free(folder, "", "")
    kept.mkdir()
    for file in shared:
        shutil.copy2(file, kept / file.name)
    for file in own:
        file.rename(kept / file.name)
    _warn_of_earlier(folder, kept, logged)
    return kept


class OwnEpochs:
    """The epochs that one log wrote, and the callback that writes them."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, -1
        self._owner: Callable[[], object] = _nobody

    def claim(self, owner: object) -> None:
        """The log is that of a callback now. Raises ValueError where it is that of another one."""
        if self._owner() not in (None, owner):
            raise ValueError(f"{self._path} is written by another callback already: give every callback a log of its own")
        self._owner = weakref.ref(owner)

    def add(self, epoch: int) -> None:
        """Warn where an epoch of this log is replaced; a callback may measure an epoch several times, and is alone."""
        if epoch <= self._last and self._owner() is None:
            replaced = f"{self._path}: the epochs {epoch} to {self._last}, which this log wrote, are replaced"
            warnings.warn(f"{replaced}: a second watch needs a log of its own", stacklevel=3)
        self._last = epoch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_owner": _nobody}


def _nobody() -> None:
    """The owner of a log that no callback has."""


def _free(folder: Path, stem: str, suffix: str) -> Path:
    number = 1
    while (path := folder / f"{stem}{'.' if stem else ''}earlier-{number}{suffix}").exists():
        number += 1
    return path


def _warn_of_earlier(path: Path, kept: Path, logged: Sequence[int]) -> None:
    warnings.warn(
        f"{path} held the epochs {min(logged)} to {max(logged)} of an earlier training, and this one begins anew: "
        f"they are kept in {kept}; give every training a file or folder of its own",
        stacklevel=4,
    )
