"""Processes of their own, forked from one that has imported the libraries: they start at once and leave no trace."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


class FreshProcesses:
    """The fork server of a test session.

    `python` stands for the interpreter in a command line, with -m, -c or a script: folder, environment, streams and exit code or
    signal are those of a process of its own, while a signal sent to it does not arrive. `path` is where modules are looked for.
    """

    def __init__(self, path: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ufm-"))  # the name of a socket has at most 107 characters
        self.python = str(self.folder / "python")
        address = self.folder / "socket"
        client = [sys.executable, "-I", "-S", str(HERE / "fork_client.py"), str(address)]
        Path(self.python).write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
        Path(self.python).chmod(0o755)
        paths = [str(self.folder), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environment = {**os.environ, "PYTHONPATH": str(path), "PATH": os.pathsep.join(paths)}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen()
            self.server = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(listener.fileno())],
                stdin=subprocess.PIPE,
                env=self.environment,
                cwd=path,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def run(self, script: Path, timeout: float = 300) -> tuple[int, str]:
        """Exit code and output of a script, run in its own folder. Ends the server and raises TimeoutError after the timeout."""
        log = script.with_suffix(".log")
        with log.open("w") as file:
            call = [self.python, str(script)]
            try:
                done = subprocess.run(
                    call, cwd=script.parent, env=self.environment, stdout=file, stderr=file, check=False, timeout=timeout
                )
            except subprocess.TimeoutExpired:
                os.killpg(self.server.pid, signal.SIGKILL)
                raise TimeoutError(f"{script} runs for more than {timeout} s: {log.read_text()}") from None
        return done.returncode, log.read_text()

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=60)
        shutil.rmtree(self.folder)
