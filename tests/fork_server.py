"""Imports the libraries once and forks a process for every order of fork_client.py; ends when its standard input does."""

import ast
import atexit
import gc
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path


def read_order(connection: socket.socket) -> tuple[tuple[list[str], str, dict[str, str]], list[int]]:
    """Arguments, folder and environment of a process, and its three streams."""
    header, streams, *_ = socket.recv_fds(connection, 8, 3)
    order = b""
    while len(order) < int.from_bytes(header, "big"):
        order += connection.recv(1 << 20)
    return ast.literal_eval(order.decode()), streams


def run_python(arguments: list[str]) -> None:
    """What `python *arguments` does, for -m, -c and a script, after a -W."""
    first, *rest = arguments
    if first == "-u":  # as torchrun starts its processes; what is written is flushed at the end
        run_python(rest)
    elif first == "-W":
        warnings.simplefilter(rest[0])  # type: ignore[bad-argument-type] - error and the like, nothing longer
        run_python(rest[1:])
    elif first == "-m":
        sys.argv[:], sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv[:], sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first.startswith("-"):
        raise ValueError(f"the fork server knows -W, -m, -c and a script, not {first}")
    else:
        sys.argv[:], sys.path[0] = arguments, str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


def exit_code(work: Callable[[], None]) -> int:
    """What the interpreter exits with after some work."""
    try:
        work()
        code: object = None
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        return 1
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def become(order: tuple[list[str], str, dict[str, str]], streams: list[int]) -> None:
    """Be the process that was asked for, to its end."""
    arguments, folder, environment = order
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open to the end
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = exit_code(lambda: run_python(arguments))
    threading._shutdown()  # type: ignore[missing-attribute]
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    os._exit(code & 0xFF)


def keep(connection: socket.socket) -> None:
    """Fork the process of one order, wait for it and tell how it ended; kill it where nobody is there any more to be told."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    order, streams = read_order(connection)
    child = os.fork()
    if child == 0:
        connection.close()
        try:
            become(order, streams)
        finally:
            os._exit(1)
    for stream in streams:
        os.close(stream)
    ended = threading.Event()

    def kill_with_client() -> None:
        if not connection.recv(1) and not ended.is_set():
            os.kill(child, signal.SIGKILL)

    threading.Thread(target=kill_with_client, daemon=True).start()
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # its number is not given to another process yet
    ended.set()
    _, status = os.waitpid(child, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def serve(listener: socket.socket) -> None:
    """Fork a keeper for every connection."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing of a keeper is waited for
    while True:
        ready, *_ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            try:
                listener.close()
                keep(connection)
            finally:
                os._exit(0)
        connection.close()


if __name__ == "__main__":
    gc.disable()
    for library in sys.argv[2:]:
        import_module(library)
    gc.freeze()  # no process looks through it for garbage
    gc.enable()
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # at once, without taking the libraries down
