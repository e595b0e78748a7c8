"""The lock of a run: one command at a time, whatever becomes of it, its children and its file system."""

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.fresh import FreshProcesses
from tests.ufm.flow.test_full_shares import Group, in_threads
from ufm.files import write_lock as module
from ufm.files.write_lock import write_lock

WAITS = """
import sys
from pathlib import Path
from ufm.files.write_lock import write_lock
with write_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.readline()
"""
FORKS = """
import os, sys, time
from pathlib import Path
from ufm.files.write_lock import write_lock
with write_lock(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(600)
    print(child, flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(python: str, path: Path, program: str = WAITS) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has the lock until it reads a line, and what it said when it had it."""
    call = [python, "-c", program, str(path)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def refused(path: Path, patience: float = 0.1) -> None:
    """Expect that another process has the lock."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "PATIENCE", patience)
        with pytest.raises(ValueError, match=f"^another command is writing {re.escape(str(path))}: wait"), write_lock(path):
            pass


@pytest.mark.parametrize(("name", "file"), [("", ".lock"), ("q.npz", ".q.npz.lock")])
def test_a_second_process_is_refused_until_the_first_has_ended_or_was_killed(name: str, file: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for killed in (False, True):
        with holder(sys.executable, path) as (process, said):  # of a fork server a kill arrives late
            assert said == "locked"
            refused(path)
            assert os.listdir(tmp_path) == [file]
            if killed:
                process.kill()
            process.communicate("")
        assert os.listdir(tmp_path) == [file] * killed
        with write_lock(path):
            assert os.listdir(tmp_path) == [file]
        assert os.listdir(tmp_path) == []


def test_a_child_that_outlives_its_killed_parent_has_no_lock(tmp_path: Path) -> None:
    with holder(sys.executable, tmp_path, FORKS) as (process, child):
        refused(tmp_path)
        process.kill()
        process.wait()
        try:
            os.kill(int(child), 0)  # it lives
            with write_lock(tmp_path):
                pass
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_command_leaves_the_lock_of_a_folder_that_was_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with write_lock(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        with holder(sys.executable, folder) as (process, said):
            assert said == "locked"
            with pytest.raises(ValueError, match="another command is writing"), write_lock(folder):
                pass
            process.kill()
    assert os.listdir(folder) == [".lock"]


def test_a_child_that_leaves_the_block_leaves_the_lock(tmp_path: Path) -> None:
    child = -1
    with suppress(RuntimeError), write_lock(tmp_path):
        child = os.fork()
        if child == 0:
            raise RuntimeError
        os.waitpid(child, 0)
        assert os.listdir(tmp_path) == [".lock"]
    if child == 0:
        os._exit(0)
    assert os.listdir(tmp_path) == []


def test_a_process_that_is_about_to_end_is_waited_for(tmp_path: Path, fresh: FreshProcesses) -> None:
    with holder(fresh.python, tmp_path) as (process, _):
        threading.Timer(0.3, process.kill).start()
        with write_lock(tmp_path):
            assert process.wait() == -signal.SIGKILL


def test_two_never_have_it_though_its_file_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    inside, most = 0, list[int]()

    def work() -> None:
        nonlocal inside
        for _ in range(40):
            with write_lock(tmp_path / "q"):
                inside += 1
                most.append(inside)
                os.stat(tmp_path)  # lets another thread go on
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 160
    assert os.listdir(tmp_path) == []


def test_the_first_of_several_processes_has_the_lock_and_all_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)

    def work(group: Group) -> None:
        with write_lock(tmp_path, group):
            assert os.listdir(tmp_path) == [".lock"]
            group.sum(np.zeros(1))  # the first stays until all have looked

    def none_gets_it(group: Group) -> None:
        words = "process 0 failed: " * (group.rank > 0) + f"another command is writing {tmp_path}"
        with pytest.raises(ValueError, match=f"^{re.escape(words)}"), write_lock(tmp_path, group):
            pass

    in_threads(3, work)
    with write_lock(tmp_path):
        in_threads(3, none_gets_it)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_nothing_is_left(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with write_lock(tmp_path):
            pass
        advice = "start no second command there before this one has ended"
        assert capsys.readouterr().err == f"warning: {tmp_path} cannot be locked ({os.strerror(code)}): {advice}\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_takes_no_file_is_named(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ValueError, match=rf"^cannot write {tmp_path}/\.lock: {os.strerror(code)}$"), write_lock(tmp_path):
        pass
