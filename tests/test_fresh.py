"""What stands for `python` in the tests has the streams, the folder, the arguments and the end of a process of its own."""

import signal
import subprocess
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
    assert "knows -m, -c and a script, not -O" in done.stderr
