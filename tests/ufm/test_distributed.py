"""What the environment of a launcher must be, before torch is asked."""

import io
import os
import subprocess
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from tests.fresh import FreshProcesses
from ufm.distributed import OneProcess, TorchProcesses, _join, processes, raised_in_all
from ufm.flow.command import main
from ufm.output import say


@pytest.mark.parametrize("value", ["abc", "0", "-1", "2.0", "", " 2", "²", "9" * 30])
def test_a_world_size_that_is_no_number_of_processes_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(ValueError, match=f"WORLD_SIZE = '{value}' in the environment: it is the number of processes"):
        processes()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "abc", "RANK = 'abc' in the environment: it is the number of this process"),
        ("RANK", "-1", "RANK = '-1' in the environment"),
        ("RANK", "2", "RANK = 2, and WORLD_SIZE = 2: ranks run from 0 to 1"),
        ("MASTER_PORT", "http", "MASTER_PORT = 'http' in the environment: it is the port of process 0"),
        ("MASTER_PORT", "70000", "MASTER_PORT = '70000' in the environment"),
    ],
)
def test_a_launcher_that_says_nonsense_is_named(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | {name: value}
    for variable, given in environment.items():
        monkeypatch.setenv(variable, given)
    with pytest.raises(ValueError, match=message):
        TorchProcesses()


def test_the_command_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("WORLD_SIZE", "abc")
    assert main(["--features", "*.npz"]) == 2
    assert capsys.readouterr().err.startswith("ufm.flow: error: WORLD_SIZE = 'abc' in the environment")


def test_one_process_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("1", None):
        monkeypatch.delenv("WORLD_SIZE") if value is None else monkeypatch.setenv("WORLD_SIZE", value)
        assert isinstance(processes(), OneProcess)


def test_a_group_that_nobody_launched_by_the_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.multiprocessing.spawn sets no WORLD_SIZE."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    stand_in: dict[str, Any] = {
        "is_initialized": lambda: True,
        "get_backend_config": lambda: "cpu:gloo",
        "get_rank": lambda: 1,
        "get_world_size": lambda: 2,
    }
    for name, function in stand_in.items():
        monkeypatch.setattr(dist, name, function)
    assert (processes().rank, processes().size) == (1, 2)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    assert isinstance(processes(), OneProcess)


class OfTwo(OneProcess):
    """Process 0 of two, the other of which says nothing."""

    size = 2

    def __init__(self) -> None:
        self.said: list[np.ndarray] = []

    def broadcast(self, values: np.ndarray, source: int) -> np.ndarray:
        """What was said."""
        assert source == 0
        self.said.append(values)
        return values


def test_the_others_hear_of_an_error_about_a_name_that_is_no_text() -> None:
    group = OfTwo()
    with pytest.raises(ValueError, match="no file b"), raised_in_all(group):
        raise ValueError("no file b\udcff")
    assert bytes(group.said[0][:16].tolist()) == b"no file b\\udcff\0"


def test_a_line_is_one_write_so_that_those_of_several_processes_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun starts Python without buffers, and all processes share one standard error."""
    written: list[bytes] = []

    class Unbuffered(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            written.append(bytes(data))
            return len(data)

    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(Unbuffered(), write_through=True))  # type: ignore[type-var]
    say("ufm.flow: error: what is wrong")
    assert [data for data in written if data] == [b"ufm.flow: error: what is wrong\n"]


SUM = """
import os
import numpy as np
from ufm.distributed import processes
print(processes().sum(np.ones(1)), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("attempt", "prefix"), [(None, None), ("0", None), ("2", "restart 2")])
def test_a_group_that_is_started_again_is_of_a_name_of_its_own(
    attempt: str | None, prefix: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun --max-restarts keeps one store for all attempts, with the addresses of the processes that are gone."""
    asked = list[tuple[Any, ...]]()
    fake = SimpleNamespace(
        rendezvous=lambda url: iter([(url, 1, 2)]),
        PrefixStore=lambda name, store: (name, store),
        init_process_group=lambda backend, store=None, rank=-1, world_size=-1: asked.append((backend, store, rank, world_size)),
    )
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    if attempt is not None:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
    _join(fake)
    assert asked == [("gloo", None, -1, -1) if prefix is None else ("gloo", (prefix, "env://"), 1, 2)]


@pytest.mark.slow
def test_processes_that_torchrun_starts_again_do_not_look_for_the_lost_ones(fresh: FreshProcesses) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    where |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    for attempt in ("0", "1"):
        own = [{**where, "RANK": rank, "TORCHELASTIC_RESTART_COUNT": attempt} for rank in ("0", "1")]
        running = [
            subprocess.Popen([fresh.python, "-c", SUM], env={**os.environ, **more}, stdout=PIPE, stderr=PIPE, text=True)
            for more in own
        ]
        try:
            said = [process.communicate(timeout=120) for process in running]
        finally:
            for process in running:
                process.kill()
        assert [process.returncode for process in running] == [0, 0], (attempt, said)
        assert [out for out, _ in said] == ["[2.]\n"] * 2
