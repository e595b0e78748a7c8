"""`python -m ufm.flow --features 'DIR/*.npz'`: the same run as on one file, in one process or in two real ones."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fresh import FreshProcesses
from ufm.distributed import OneProcess, wait_for_all
from ufm.files.checkpoint_writer import save_rows
from ufm.flow.command import main
from ufm.flow.source import check_shared


@pytest.fixture(params=[1e-4])
def shards(tmp_path, request):
    """One file, and the same rows in three shards; the smallest deviation is that of the parameter."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(4), (50, 61, 32, 73)))
    mixing = np.linalg.qr(rng.standard_normal((9, 9)))[0] * np.geomspace(1, request.param, 9)
    rows = rng.standard_normal((len(labels), 9)) @ mixing + 0.1 * rng.standard_normal((4, 9))[labels] @ mixing + 30
    np.savez(tmp_path / "all.npz", features=rows, labels=labels)
    (tmp_path / "shards").mkdir()
    for k, part in enumerate(np.array_split(np.arange(len(labels)), 3)):
        np.savez(tmp_path / "shards" / f"{k}.npz", features=rows[part], labels=labels[part])
    return tmp_path


EVERY_STEP = (  # a state after every step, so that a kill meets every place
    "import sys, ufm.flow.checkpoints as c; c.CHECKPOINT_SECONDS = 0; from ufm.flow.__main__ import run_and_end; run_and_end()"
)
FULL_DISK = """
import ufm.files.store
from ufm.flow.__main__ import run_and_end

def save(path, arrays):
    raise ValueError(f"cannot write {path.name}: No space left on device")

ufm.files.store.save_arrays = save
print("begun")  # into a buffer, since it is no terminal
run_and_end()
"""
FULL = ("--full", "--growth", "2", "--points", "20", "--steps", "20")
KERNEL = ("--flow", "unnormalized", "--kernel-ratio", "3", "--t-end", "900")
RAW = ("--flow", "unnormalized", "--start", "raw", "--t-end", "9")
OPTIONS = ((), ("--flow", "embedded", "--ridge", "0.1"), KERNEL, RAW, FULL)


@pytest.mark.parametrize("shards", [0.3], indirect=True)
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_a_run_on_shards_is_the_run_on_one_file(shards, options):
    for features, out in (("all.npz", "one.npz"), ("shards/*.npz", "many.npz")):
        assert main(["--features", str(shards / features), "--out", str(shards / out), "--quiet", *options]) == 0
    close(shards / "one.npz", shards / "many.npz", 1e-9)


@pytest.mark.parametrize("options", [(), FULL], ids=["", "full"])
def test_two_processes_give_the_run_of_one(shards, fresh, options):
    pattern = str(shards / "shards" / "*.npz")
    assert main(["--features", pattern, "--out", str(shards / "one.npz"), "--quiet", *options]) == 0
    (shards / "two.partial.npz").write_bytes(b"of one process")  # which several neither read nor remove
    running = two_processes(fresh, "--features", pattern, "--out", str(shards / "two.npz"), "--json", *options)
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert json.loads(said[0][0])["config"]["C"] == 4
    assert said[1] == ("", "")
    close(shards / "one.npz", shards / "two.npz", 1e-13)
    assert (shards / "two.partial.npz").read_bytes() == b"of one process"


def test_singular_vectors_of_two_processes_are_those_of_one_to_rounding_over_the_gap(tmp_path, fresh):
    """At the end of the flow omega are nearly equal, and rounding turns the vectors most."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(3400) % 6)
    rows = rng.standard_normal((6, 12))[labels] + rng.standard_normal((3400, 12))
    for k, part in enumerate(np.array_split(np.arange(3400), 4)):
        np.savez(tmp_path / f"{k}.npz", features=rows[part], labels=labels[part])
    call = ["--features", str(tmp_path / "[0-3].npz"), "--growth", "30", "--quiet", "--out"]
    assert main([*call, str(tmp_path / "one.npz")]) == 0
    running = two_processes(fresh, *call, str(tmp_path / "two.npz"))
    assert [process.communicate(timeout=120) for process in running] == [("", "")] * 2
    one, two = (dict(np.load(tmp_path / name)) for name in ("one.npz", "two.npz"))
    np.testing.assert_allclose(two["u"], one["u"], rtol=3e-14)
    omega = np.sqrt(one["u"])
    gap = -np.diff(omega).max(axis=1) / omega[:, 0]
    assert gap[-1] < 1e-3
    for name in ("V_t", "U_t"):
        apart = np.linalg.norm(two[name] - one[name], axis=1).max(axis=1)
        assert (apart * gap).max() < 1e-14
    close(tmp_path / "one.npz", tmp_path / "two.npz", 1e-13, besides=("V_t", "U_t"))


def test_one_process_resumes_the_full_state_of_shards(shards, monkeypatch):
    call = ["--features", str(shards / "shards" / "*.npz"), "--quiet", *FULL, "--out"]
    assert main([*call, str(shards / "whole.npz")]) == 0

    def stop(self: object, *arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ufm.flow.stages.SchemeStage.record", stop)
        assert main([*call, str(shards / "again.npz")]) == 130
    assert (shards / "again.partial").is_dir()
    assert main([*call, str(shards / "again.npz")]) == 0
    close(shards / "whole.npz", shards / "again.npz", 0.0)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_which_tells_and_the_same_command_goes_on(shards, fresh, victim):
    pattern, options = str(shards / "shards" / "*.npz"), ("--full", "--growth", "2", "--steps", "100", "--points", "20")
    call = ["--features", pattern, *options, "--quiet", "--out"]
    whole = two_processes(fresh, *call, str(shards / "whole.npz"))
    assert [process.communicate(timeout=120)[1] for process in whole] == ["", ""]
    killed = two_processes(fresh, *call, str(shards / "two.npz"), call=(fresh.python, "-c", EVERY_STEP))
    while not any((shards / "two.partial").glob("[4-9]")):
        time.sleep(0.01)
        assert killed[0].poll() is None
    killed[victim].kill()
    said = [process.communicate(timeout=120)[1] for process in killed]
    assert killed[1 - victim].returncode == 1
    assert said[1 - victim].startswith("ufm.flow: error: another process was lost")
    assert said[1 - victim].endswith(f"the same command goes on from {shards / 'two.partial'}\n")
    assert said[1 - victim].count("\n") == 1
    assert not (shards / "two.npz").exists()
    assert sorted(path.name for path in (shards / "two.partial").iterdir())[-1].isdigit()
    again = two_processes(fresh, *call, str(shards / "two.npz"))
    assert [process.communicate(timeout=120)[1] for process in again] == ["", ""]
    close(shards / "whole.npz", shards / "two.npz", 0.0)
    assert not (shards / "two.partial").exists()


def test_a_lost_process_ends_the_others_without_a_result(shards, fresh):
    running = two_processes(fresh, "--features", str(shards / "shards" / "*.npz"), "--out", str(shards / "two.npz"), only=0)
    wait_for(port_of(running[0]))
    running += two_processes(fresh, "--features", str(shards / "nothing" / "*.npz"), port=port_of(running[0]), only=1)
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [2, 2], said
    assert "Traceback" not in said[0] + said[1]
    assert not (shards / "two.npz").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def narrow(path: Path) -> None:
    np.savez(path, features=np.zeros((72, 8)), labels=np.arange(72) % 4)


def lead_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def change_last_feature(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"labels.npy") - 200] ^= 1
    path.write_bytes(data)


DAMAGES = {
    truncate: "cannot read {path}: it is damaged or cut off",
    narrow: "{path} has P = 8 features, ",
    lead_nowhere: "cannot read {path}: No such file or directory",
    change_last_feature: "cannot read {path}: Bad CRC-32",
    Path.unlink: "the processes do not see the same ",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_one_process_cannot_read_ends_all_with_its_number_and_the_reason(shards, fresh, damage):
    """As on a disk of its own, or under another user."""
    shutil.copytree(shards / "shards", shards / "own")
    path = shards / "own" / "2.npz"
    damage(path)
    running = two_processes(fresh, "--features", str(shards / "shards" / "*.npz"), only=0)
    running += two_processes(fresh, "--features", str(shards / "own" / "*.npz"), port=port_of(running[0]), only=1)
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [2, 2], said
    assert said[1].startswith("ufm.flow: error: " + DAMAGES[damage].format(path=path))
    if damage is Path.unlink:
        assert "216 examples of P = 9 in process 0, 144 of P = 9 in process 1" in said[0]
    else:
        assert said[0] == said[1].replace("error: ", "error: process 1 failed: ")
    assert [text.count("\n") for text in said] == [1, 1]


def test_processes_whose_states_would_go_to_two_folders_are_refused_before_they_compute(shards, fresh):
    (shards / "other").mkdir()
    call = ("--full", "--features", str(shards / "shards" / "*.npz"), "--out")
    running = two_processes(fresh, *call, str(shards / "two.npz"), only=0)
    running += two_processes(fresh, *call, str(shards / "other" / "two.npz"), port=port_of(running[0]), only=1)
    said = [process.communicate(timeout=120)[1] for process in running]
    reason = f"{shards / 'other'} is not the folder that process 0 writes into: give all processes the same absolute path"
    assert said[0].startswith(f"ufm.flow: error: process 1 failed: {reason}")
    assert said[1].startswith(f"ufm.flow: error: {reason}")
    assert [path.name for path in shards.iterdir() if path.name.startswith(".")] == []


def test_what_one_process_cannot_write_ends_all_with_an_error_and_what_they_said_arrives(shards, fresh):
    """They leave by os._exit: nothing that was said is lost, and no process ends well where the result is not on disk."""
    call = ["--features", str(shards / "shards" / "*.npz"), "--out", str(shards / "two.npz"), "--json", "--quiet"]
    running = two_processes(fresh, *call, call=(fresh.python, "-c", FULL_DISK))
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [2, 2], said
    assert said[0] == ("begun\n", "ufm.flow: error: cannot write two.npz: No space left on device\n")
    assert said[1] == ("begun\n", "ufm.flow: error: process 0 failed: cannot write two.npz: No space left on device\n")


def test_the_first_process_that_comes_to_the_end_waits_for_the_others():
    """One that leaves earlier may break the last message to another."""
    asked = list[int]()

    class Group(OneProcess):
        size = 2

        def sum(self, values: np.ndarray) -> np.ndarray:
            asked.append(values.size)
            raise RuntimeError("another process was lost")

    wait_for_all(Group())
    assert asked == [1]
    wait_for_all(OneProcess())


@pytest.mark.parametrize("option", ["--balance", "--device=cpu"])
def test_options_that_need_all_features_are_refused(shards, option, capsys):
    assert main(["--features", str(shards / "shards" / "*.npz"), option]) == 2
    assert "needs all features in memory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flow.npz", "flow.renormalized.npz"])
def test_no_result_becomes_a_shard(shards, name, capsys):
    """The next run on the same pattern would take it for one, and fail."""
    options = ["--flow", "all"] if "renormalized" in name else []
    out = str(shards / "shards" / "flow.npz")
    assert main(["--features", str(shards / "s*" / "*.npz"), "--out", out, *options]) == 2
    assert f"{name} would be one of the shards" in capsys.readouterr().err
    assert main(["--features", str(shards / "shards" / "[0-9].npz"), "--out", out, "--quiet"]) == 0


def test_the_state_of_a_run_replaces_nothing(shards, capsys):
    (shards / "flow.partial").write_text("mine")
    assert main(["--features", str(shards / "shards" / "*.npz"), "--out", str(shards / "flow.npz"), "--full"]) == 2
    assert "flow.partial is no folder, and the run keeps its state there" in capsys.readouterr().err
    assert (shards / "flow.partial").read_text() == "mine"
    with np.load(shards / "all.npz") as arrays:
        save_rows(shards / "two.partial", arrays["features"], arrays["labels"])
    assert main(["--features", str(shards / "two.partial"), "--out", str(shards / "two.npz"), "--full"]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert (shards / "two.partial" / ".metadata").exists()


def test_no_shard_is_overwritten(shards, capsys):
    assert main(["--features", str(shards / "shards" / "*.npz"), "--out", str(shards / "shards" / "1.npz")]) == 2
    assert "would overwrite" in capsys.readouterr().err


def test_several_processes_without_shards_are_refused():
    with pytest.raises(ValueError, match=r"several processes share shards: there is no all\.npz; give"):
        check_shared("all.npz", OneProcess())
    with pytest.raises(ValueError, match="several processes share shards: give features"):
        check_shared(__file__, OneProcess())


def close(one: Path, other: Path, tolerance: float, besides: tuple[str, ...] = ()) -> None:
    """Every array of two runs but those is the same, to a tolerance relative to its largest entry; the shards note aside."""
    first, second = (dict(np.load(path)) for path in (one, other))
    assert first.keys() == second.keys()
    for name in first.keys() - {"config", "residual", *besides}:
        scale = abs(first[name]).max() if first[name].dtype.kind == "f" else 0
        np.testing.assert_allclose(second[name], first[name], rtol=0, atol=tolerance * scale, err_msg=name)


def two_processes(
    fresh: FreshProcesses,
    *arguments: str,
    port: int | None = None,
    only: int | None = None,
    call: tuple[str, ...] = (),
) -> list[subprocess.Popen[str]]:
    """The command in two processes as torchrun starts them, or one of the two."""
    port, call = port or free_port(), call or (fresh.python, "-m", "ufm.flow")
    started = []
    for rank in range(2) if only is None else (only,):
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **where}
        process = subprocess.Popen(
            [*call, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.port = port  # type: ignore[attr-defined]
        started.append(process)
    return started


def wait_for(port: int) -> None:
    """Until a process listens there; without a connection, which would be one of the group's."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(f":{port:04X} " in Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")):
            return
        time.sleep(0.05)


def port_of(process: subprocess.Popen[str]) -> int:
    """Where the processes meet."""
    return process.port  # type: ignore[attr-defined]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
