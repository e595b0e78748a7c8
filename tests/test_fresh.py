"""What stands for `python` in the tests has the streams, the folder, the arguments and the end of a process of its own."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.fresh import FreshProcesses


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('no')", 1),
        ("raise ValueError('no')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_a_process_ends_as_it_does(code: str, ended: int, fresh: FreshProcesses) -> None:
    done = subprocess.run([fresh.python, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ended, "")
    assert ("no" in done.stderr) == (ended == 1)


def test_folder_arguments_environment_and_streams_are_passed_on(tmp_path: Path, fresh: FreshProcesses) -> None:
    (tmp_path / "module.py").write_text(
        "import os, sys\nfor word in (__name__, os.getcwd(), sys.argv[1:], os.environ['OWN'], sys.stdin.read()): print(word)"
    )
    call = [fresh.python, "-m", "module", "a b", "-c"]
    done = subprocess.run(call, cwd=tmp_path, env={"OWN": "one"}, input="in", capture_output=True, text=True, check=True)
    assert done.stdout == f"__main__\n{tmp_path}\n['a b', '-c']\none\nin\n"


def test_an_option_of_the_interpreter_is_refused(fresh: FreshProcesses) -> None:
    done = subprocess.run([fresh.python, "-O", "module"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "knows -W, -m, -c and a script, not -O" in done.stderr


def test_a_warning_is_an_error_where_that_is_asked_for(fresh: FreshProcesses) -> None:
    for options, ended in (((), 0), (("-W", "error"), 1)):
        call = [fresh.python, *options, "-c", "import warnings; warnings.warn('here')"]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert (done.returncode, "UserWarning: here" in done.stderr) == (ended, True)


def test_a_killed_process_is_dead(fresh: FreshProcesses) -> None:
    call = [fresh.python, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    process.kill()
    assert process.stdout.read() == ""  # nobody holds the other end any more
    process.communicate()
    for _ in range(500):
        if not Path(f"/proc/{number}").exists():
            return
        time.sleep(0.01)
    raise AssertionError(number)


def test_workers_share_a_server_that_ends_with_the_last_of_them(tmp_path: Path) -> None:
    first, second = (FreshProcesses(Path(__file__).parents[1], tmp_path / "server", ()) for _ in range(2))
    assert first.folder == second.folder
    assert second.server is None
    assert first.server is not None
    second.close()
    assert subprocess.run([first.python, "-c", "exit(7)"], check=False).returncode == 7
    first.close()
    assert first.server.returncode == 0
    assert not first.folder.exists()
    assert (tmp_path / "server").read_text() == ""
