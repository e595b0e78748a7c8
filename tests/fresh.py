"""Processes of their own, forked from one that has imported the libraries: they start at once and leave no trace."""

import fcntl
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
LIBRARIES = (
    *("matplotlib.pyplot", "scipy.integrate", "scipy.optimize", "scipy.stats"),
    *("torch", "torch._dynamo", "torchmetrics", "manifolds", "ufm"),
)


def start_server(folder: Path, path: Path, libraries: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """A fork server in a folder: what stands for `python`, its socket, and `users`, at whose last writer's end it ends."""
    address, users, python = folder / "socket", folder / "users", folder / "python"
    client = [sys.executable, "-I", "-S", str(HERE / "fork_client.py"), str(address)]
    python.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
    python.chmod(0o755)
    os.mkfifo(users)
    reading = os.open(users, os.O_RDONLY | os.O_NONBLOCK)  # a writer may come at once
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(listener.fileno()), *libraries],
            stdin=reading,
            env={**os.environ, "PYTHONPATH": str(path)},
            cwd=path,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    os.close(reading)
    return server


class FreshProcesses:
    """The fork server of a test session, one for all its workers: `shared` is the file that says where it is and how many use it.

    `python` stands for the interpreter in a command line, with -W, -m, -c or a script: folder, environment, streams and exit code
    or signal are those of a process of its own. Of the signals sent to it SIGKILL alone arrives. `path` is where modules are
    looked for, `libraries` are those that it has imported.
    """

    def __init__(self, path: Path, shared: Path, libraries: tuple[str, ...] = LIBRARIES) -> None:
        self.shared, self.server = shared, None
        with self.locked() as (folder, users):
            self.folder = folder or Path(tempfile.mkdtemp(prefix="ufm-"))  # the name of a socket has at most 107 characters
            self.server = None if folder else start_server(self.folder, path, libraries)
            self.using = os.open(self.folder / "users", os.O_WRONLY)
            shared.write_text(f"{self.folder}\n{users + 1}")
        self.python = str(self.folder / "python")
        paths = [str(self.folder), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment = {**os.environ, "PYTHONPATH": str(path), "PATH": os.pathsep.join(paths)}

    @contextmanager
    def locked(self) -> Iterator[tuple[Path | None, int]]:
        """What the file says, while no other worker reads or writes it: the folder of a server, and its users."""
        with self.shared.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            said = self.shared.read_text().splitlines() if self.shared.exists() else []
            yield (Path(said[0]), int(said[1])) if said else (None, 0)

    def run(self, script: Path, timeout: float = 300) -> tuple[int, str]:
        """Exit code and output of a script, run in its own folder. Ends it and raises TimeoutError after the timeout."""
        log = script.with_suffix(".log")
        with log.open("w") as file:
            call = [self.python, str(script)]
            try:
                done = subprocess.run(
                    call, cwd=script.parent, env=self.environment, stdout=file, stderr=file, check=False, timeout=timeout
                )
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"{script} runs for more than {timeout} s: {log.read_text()}") from None
        return done.returncode, log.read_text()

    def close(self) -> None:
        """Leave the server, which ends with the last of its users; wait for that where it was started here."""
        with self.locked() as (_, users):
            os.close(self.using)
            self.shared.write_text(f"{self.folder}\n{users - 1}" if users > 1 else "")
        if self.server is not None:
            self.server.wait()
            shutil.rmtree(self.folder)
