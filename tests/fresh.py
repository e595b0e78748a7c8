"""Scripts in processes of their own, forked from one that has imported the libraries: they start at once and leave no trace."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PARENT = """
import atexit, json, os, runpy, sys, traceback

import matplotlib.pyplot, numpy, scipy.integrate, scipy.optimize, torch

import manifolds, ufm

for order in sys.stdin:
    script, folder, log = json.loads(order)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        with open(log, "w") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        sys.argv[:] = [script]
        sys.path[0] = folder
        code = 1
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
            print(left.code or '', file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class FreshProcesses:
    """The parent of all scripts of a test session; its environment is given once, as is `path`, where modules are looked for."""

    def __init__(self, path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        call = [sys.executable, "-c", PARENT]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.parent = subprocess.Popen(call, **pipes, env=environment, cwd=path, start_new_session=True)

    def run(self, script: Path, timeout: float = 300) -> tuple[int, str]:
        """Exit code and output of a script, run in its own folder. Ends the parent and raises TimeoutError after the timeout."""
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        log = script.with_suffix(".log")
        self.parent.stdin.write(json.dumps([str(script), str(script.parent), str(log)]) + "\n")
        self.parent.stdin.flush()
        if not select.select([self.parent.stdout], [], [], timeout)[0]:
            os.killpg(self.parent.pid, signal.SIGKILL)
            raise TimeoutError(f"{script} runs for more than {timeout} s: {log.read_text()}")
        code = int(self.parent.stdout.readline())
        return code, log.read_text()

    def close(self) -> None:
        """End the parent."""
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.close()
        self.parent.stdout.close()
        self.parent.wait(timeout=60)
