"""Stands for `python` where a fork server runs what is asked: passes arguments, folder, environment and streams on to it.

Runs with -I -S, so that it starts in some milliseconds, and ends as the process that it stands for: by its code or its signal.
"""

import os
import signal
import socket
import sys


def main(address: str, arguments: list[str]) -> int:
    """The exit code of `python *arguments`, run by the server that listens at `address`."""
    order = repr((arguments, os.getcwd(), dict(os.environ))).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(order).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(order)
        status = int(server.recv(8))
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
