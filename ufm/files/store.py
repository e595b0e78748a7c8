"""All files of the package: features are read, results and checkpoints written; atomic, never pickled."""

import contextlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ufm.files.archive import read_members, reason_of
from ufm.files.json_objects import parse_json
from ufm.version import __version__

TEMPORARY = re.compile(r"\.(\w*)-(\d{1,20})-[0-9a-f]{12}\.tmp")  # host, process, random digits


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then fsync and rename it: the file is the old one or the whole new one.

    Raises ValueError where the folder does not exist or cannot be written, and for a device or a pipe, which would be replaced;
    nothing is left behind.
    """
    _check_replaceable(path)
    remove_stale(path.parent)
    temporary = path.with_name(temporary_name())
    try:
        # O_EXCL takes no file and no link that is there already; the mode is that of the umask
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
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


def temporary_name() -> str:
    """A name that tells its host and process, so that others can see whether they still live."""
    return f".{_host()}-{os.getpid()}-{os.urandom(6).hex()}.tmp"


def _host() -> str:
    """The host, and on Linux the namespace of its processes: containers may share a name and a folder, and not their numbers."""
    return f"{''.join(c if c.isalnum() else '_' for c in platform.node())[:64]}_{_process_namespace()}"


def _process_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def remove_stale(folder: Path, other_hosts: bool = False) -> None:
    """Remove what dead processes of this host left in a folder, files and folders, with `other_hosts` that of others too."""
    for left in folder.glob(".*.tmp"):
        name = TEMPORARY.fullmatch(left.name)
        if name is None or not (_has_ended(int(name[2])) if name[1] == _host() else other_hosts):
            continue
        with contextlib.suppress(OSError):  # another user's, in a folder that all may write to
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)


def check_writable(path: Path, *read: Path | str) -> None:
    """Raise ValueError where a file cannot be created at `path`, or is one that is `read`, before anything is computed for it."""
    _check_replaceable(path)
    check_not_read(path, *read)
    try:
        _probe(path.parent)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error


def check_folder_writable(out: Path) -> None:
    """Raise ValueError where no file can be created in a folder, made or to be made, before anything is computed for it."""
    try:
        _probe(next(folder for folder in (out, *out.parents) if folder.exists()))
    except OSError as error:
        raise ValueError(f"cannot write into {out}: {error.strerror or error}") from error


def _probe(folder: Path) -> None:
    probe = folder / temporary_name()
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    probe.unlink()


def check_not_read(path: Path, *read: Path | str) -> None:
    """Raise ValueError where `path` is a file that is `read`, whatever it is called there."""
    for given in read:
        same = os.path.realpath(path) == os.path.realpath(given)
        if same or (path.exists() and os.path.exists(given) and os.path.samefile(path, given)):
            raise ValueError(f"{path} would overwrite {given}, which is read: choose another name")


def _check_replaceable(path: Path) -> None:
    """Raise ValueError for what a rename must not put a file in the place of: a folder, a device, a pipe."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"cannot write {path}: it is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as an uncompressed .npz, atomically."""
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def load_arrays(path: Path | str, names: Collection[str] | None = None, beside: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz, all or those of `names` that it has; nothing unpickled, no other member read.

    Raises ValueError for a missing, unreadable, damaged or truncated file, whatever is wrong with it, for arrays that do not fit
    into memory, and for one far larger than the one called `beside`.
    """
    try:
        with open(path, "rb") as file:
            _check_magic(file)
            return read_members(file, names, beside)
    except MemoryError as error:
        raise ValueError(f"cannot read {path}: it does not fit into memory ({error})") from error
    except Exception as error:  # a damaged archive or header raises anything, from SyntaxError to NotImplementedError
        raise ValueError(f"cannot read {path}: {reason_of(error)}") from error


def _check_magic(file: BinaryIO) -> None:
    """Raise ValueError unless it begins as an archive does; zipfile would look for the end, which a device need not have."""
    magic = file.read(2)
    if magic == b"\x93N":
        raise ValueError("it holds a single array, an .npz with named arrays is needed")
    if magic != b"PK":
        raise ValueError("it is no .npz archive" if magic else "it is damaged or cut off (0 bytes)")
    file.seek(0)


def array_names(path: Path | str) -> list[str]:
    """The sorted names of the arrays of an .npz, none of them read. Raises ValueError where it is no archive."""
    import zipfile

    try:
        with open(path, "rb") as file:
            _check_magic(file)
            archive = zipfile.ZipFile(file)
            return sorted(name.removesuffix(".npy") for name in archive.namelist())
    except Exception as error:  # as above
        raise ValueError(f"cannot read {path}: {reason_of(error)}") from error


def provenance() -> dict[str, object]:
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
    """The commit of this source, None where there is none, and where git is missing or does not answer.

    A repository around an installed copy, in which this file is not tracked, is not the source's.
    """
    here = Path(__file__)
    call = ["git", "rev-parse", "HEAD", f"HEAD:./{here.name}"]
    try:
        told = subprocess.run(call, cwd=here.parent, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.split()[0] if told.returncode == 0 else None


def load_features(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """`features` (n, P) and `labels` (n,) of an .npz. Raises ValueError with the names found where these are missing."""
    arrays = load_arrays(path, ("features", "labels"), beside="features")
    if not {"features", "labels"} <= arrays.keys():
        names = ", ".join(array_names(path)) or "none"
        raise ValueError(f"{path} needs the arrays 'features' (n, P) and 'labels' (n,); it has: {names}")
    return arrays["features"], arrays["labels"]


def save_checkpoint(path: Path, config: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the state of a run and the configuration it belongs to, atomically."""
    save_arrays(path, {**arrays, "config": np.array(json.dumps(config, sort_keys=True))})


def load_checkpoint(path: Path, config: Mapping[str, object], names: Collection[str]) -> dict[str, np.ndarray] | None:
    """The arrays of `names` saved for exactly this configuration, or None where there is no checkpoint.

    Raises ValueError for a checkpoint of another configuration, naming what differs.
    """
    if not path.exists():
        return None
    if "config" not in array_names(path):
        raise ValueError(f"{path} is no checkpoint, it has no configuration: move it away or choose another file")
    saved = parse_json(str(load_arrays(path, ("config",))["config"]), path)
    current = json.loads(json.dumps(config))
    differing = sorted(key for key in saved.keys() | current.keys() if saved.get(key) != current.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path} belongs to another run ({key} = {saved.get(key)!r}, now {current.get(key)!r}): "
            "repeat its options to resume it, or delete it"
        )
    return load_arrays(path, names)
