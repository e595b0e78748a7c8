"""The one home of files: features in, results and checkpoints out; atomic, never pickled."""

import json
import os
import platform
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ufm.version import __version__


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then fsync and rename it: the file is the old one or the whole new one.

    Raises ValueError where the folder does not exist or cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)


def check_writable(path: Path) -> None:
    """Raise ValueError where a file cannot be created beside `path`, before anything is computed for it."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    probe = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(probe, "wb"):
            pass
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as an uncompressed .npz, atomically."""
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def load_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """All arrays of an .npz, nothing unpickled. Raises ValueError for a missing, unreadable or truncated file."""
    try:
        with open(path, "rb") as file:
            if file.read(2) not in (b"PK", b"\x93N"):
                raise ValueError("it is no .npz archive")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds a single array, an .npz with named arrays is needed")
            return {name: loaded[name] for name in loaded.files}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path}: {reason}") from error
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def provenance() -> dict[str, Any]:
    """Versions of the project and of what it runs on, the commit where there is one, and facts of the host."""
    versions = {name: module.__version__ for name in ("numpy", "scipy", "torch") if (module := sys.modules.get(name)) is not None}
    return {
        "project": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
    }


def _commit() -> str | None:
    """The commit of this source, None where there is none, where git is missing, and where it does not answer."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() if head.returncode == 0 else None


def load_features(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """`features` (n, P) and `labels` (n,) of an .npz. Raises ValueError with the names found where these are missing."""
    arrays = load_arrays(path)
    if not {"features", "labels"} <= arrays.keys():
        names = ", ".join(sorted(arrays)) or "none"
        raise ValueError(f"{path} needs the arrays 'features' (n, P) and 'labels' (n,); it has: {names}")
    return arrays["features"], arrays["labels"]


def save_checkpoint(path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the state of a run and the configuration it belongs to, atomically."""
    save_arrays(path, {**arrays, "config": np.array(json.dumps(config, sort_keys=True))})


def load_checkpoint(path: Path, config: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """The state saved for exactly this configuration, or None where there is no checkpoint.

    Raises ValueError for a checkpoint of another configuration, naming what differs.
    """
    if not path.exists():
        return None
    arrays = load_arrays(path)
    saved = json.loads(str(arrays.pop("config")))
    current = json.loads(json.dumps(config))
    differing = sorted(key for key in saved.keys() | current.keys() if saved.get(key) != current.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path} belongs to another run ({key} = {saved.get(key)!r}, now {current.get(key)!r}): "
            "repeat its options to resume it, or delete it"
        )
    return arrays
