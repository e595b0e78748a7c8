"""Runs that are interrupted, moved, damaged or out of disk: the same bits in the end, or a clear error and nothing lost."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sims import train as command
from sims.training.folder import RunFolder, load_run
from tests.fresh import FreshProcesses
from tests.sims.runs import ROOT, assert_same_arrays, assert_same_bits, interrupted_at, tiny, write_mnist
from tests.ufm.flow.test_full_shares import Group, in_threads
from tests.ufm.flow.test_shards_of_a_run import free_port
from ufm.monitor.record import Record


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "lr": 1e-3}, {"optimizer": "lbfgs", "lr": 0.5, "batch_size": 300}])
def test_an_interrupted_run_ends_with_the_same_bits(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**changes)
    command.train(config, tmp_path / "whole")
    interrupted_at(2, config, tmp_path / "parts", monkeypatch)
    np.testing.assert_array_equal(Record.load(tmp_path / "parts" / "trajectory.npz").epochs, [1, 2])
    command.train(config, tmp_path / "parts")
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")
    assert len(json.loads((tmp_path / "parts" / "provenance.json").read_text())) == 2


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


STOPPING = """
import os, sys, time
from sims.train import main
from sims.training.session import ProgressLine

def stop(line, epoch, batch, batches):
    if epoch == 3 and os.environ.get("RANK") == os.environ.get("VICTIM"):
        print(os.getpid(), flush=True)
        time.sleep(600)

ProgressLine.advance = stop
sys.exit(main(sys.argv[1:]))
"""


SHORT = ["--per-class", "30", "--test-per-class", "6", "--width", "0.05", "--batch-size", "50", "--robustness", "0"]
SHORT += ["--epochs", "5", "--quiet", "--threads", "1", "--device", "cpu", "--out"]


def test_a_second_command_is_refused_until_the_first_is_killed_and_then_resumes_to_the_same_bits(
    tmp_path: Path, fresh: FreshProcesses, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [fresh.python, "-c", STOPPING, *SHORT, str(tmp_path / "killed")]
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number, before = int(process.stdout.readline()), files_in(tmp_path / "killed")
    assert command.main([*SHORT, str(tmp_path / "killed")]) == 2
    said = f"another command is writing {tmp_path / 'killed'}: wait until it has ended, or write elsewhere"
    assert capsys.readouterr().err == f"sims.train: error: {said}\n"
    assert files_in(tmp_path / "killed") == before
    os.kill(number, signal.SIGKILL)  # in the middle of its third epoch
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert 1 <= Record.load(tmp_path / "killed" / "trajectory.npz").epochs[-1] < 3
    for name in ("killed", "whole"):
        assert command.main([*SHORT, str(tmp_path / name)]) == 0
    assert_same_bits(tmp_path / "killed", tmp_path / "whole")
    assert not list(tmp_path.glob("*/.*"))


def two_processes(fresh: FreshProcesses, *call: str, **more: str) -> list[subprocess.Popen[str]]:
    """A program in two processes, as torchrun starts them."""
    where = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **more}
    own = [where | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return [subprocess.Popen([fresh.python, *call], cwd=ROOT, env=each, text=True, **streams) for each in own]


@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_process_killed_within_an_epoch_ends_the_other_in_one_line_and_the_same_command_goes_on(
    victim: str, tmp_path: Path, fresh: FreshProcesses
) -> None:
    out = tmp_path / "run"
    running = two_processes(fresh, "-c", STOPPING, *SHORT, str(out), VICTIM=victim)
    lost, other = running[int(victim)], running[1 - int(victim)]
    assert lost.stdout is not None
    os.kill(int(lost.stdout.readline()), signal.SIGKILL)
    said = [process.communicate(timeout=120)[1] for process in (lost, other)]
    assert (lost.returncode, other.returncode) == (-signal.SIGKILL, 1)
    assert said[0] == ""
    way_out = f"; the same command goes on from {out}\n"
    assert re.fullmatch(r"sims\.train: error: another process was lost, or does not answer; .* \([A-Z].*\)" + way_out, said[1])
    again = two_processes(fresh, "-m", "sims.train", *SHORT, str(out))
    assert [process.communicate(timeout=120)[1] for process in again] == ["", ""]
    assert load_run(out)[1].epochs[-1] == 5
    assert [session["processes"] for session in json.loads((out / "provenance.json").read_text())] == [2, 2]
    assert not list(out.glob(".*"))


WITH_A_GPU = """
import os, sys, torch
from sims.train import main
torch.cuda.is_available = lambda: os.environ["RANK"] == os.environ["VICTIM"]
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("victim", ["0", "1"])
def test_processes_of_which_one_has_a_gpu_are_told_and_do_not_wait_for_each_other(
    victim: str, tmp_path: Path, fresh: FreshProcesses
) -> None:
    call = ["-c", WITH_A_GPU, *SHORT, str(tmp_path / "run"), "--device", "auto"]
    running = two_processes(fresh, *call, VICTIM=victim)
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [2, 2]
    way_out = "start all of them by the same command"
    for rank, line in enumerate(said):
        device = "cuda" if str(rank) == victim else "cpu"
        assert line == f"sims.train: error: the processes are given different devices, this one {device}: {way_out}\n"
    assert not (tmp_path / "run").exists()


def test_repeating_a_finished_run_changes_nothing(finished: Path) -> None:
    before = (finished / "checkpoint.pt").read_bytes()
    command.train(tiny(save_features=(2, 4)), finished)
    assert (finished / "checkpoint.pt").read_bytes() == before


def test_a_finished_run_is_answered_without_its_data(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("the data is read")

    monkeypatch.setattr("sims.training.data.load", read)
    call = ["--config", str(finished / "config.json"), "--out", str(finished)]
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert command.main(call) == 0
    captured = capsys.readouterr()
    assert "zero training error" in captured.out
    assert captured.err == ""  # no bar of a run that does not run
    assert command.main([*call, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["epoch"]) == (str(finished), 4)
    assert told["test_error"] == load_run(finished)[1].arrays["test_error"][-1]
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_a_finished_run_is_answered_without_torch_and_scipy(finished: Path) -> None:
    program = (
        "import sys; from sims.train import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'scipy', 'matplotlib', 'sklearn'} & sys.modules.keys(); sys.exit(f'{heavy}' if heavy else code)"
    )
    call = [sys.executable, "-c", program, "--config", str(finished / "config.json"), "--out", str(finished)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "zero training error" in done.stdout


def test_process_0_tells_the_others_of_a_finished_run_and_none_of_them_writes(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lie on a disk that takes no more, and the data of another process in another place."""
    here = threading.local()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr("sims.training.data.load", refuse)
    monkeypatch.setattr("accelerate.Accelerator", lambda **_: SimpleNamespace(num_processes=2))
    monkeypatch.setattr("sims.training.processes.processes_of", lambda _: here.group)
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = tiny(save_features=(2, 4))

    def work(group: Group) -> tuple[int, tuple[int, ...]]:
        here.group = group
        record = command.train(replace(config, hub="elsewhere") if group.rank else config, finished)
        return len(record.epochs), group.sent[-1]

    # the last message is none that one of them needs: the process that leaves first may break it
    assert in_threads(2, work) == [(4, (1,)), (0, (1,))]


@pytest.mark.parametrize("name", ["checkpoint.pt", "trajectory.npz", "provenance.json", "config.json"])
def test_a_finished_run_is_what_it_was_or_is_looked_at_again(name: str, finished: Path, tmp_path: Path) -> None:
    config = tiny(save_features=(2, 4))
    shutil.copytree(finished, tmp_path / "run")
    folder = RunFolder(tmp_path / "run", config)
    assert folder.finished() is not None
    assert RunFolder(tmp_path / "run", replace(config, hub="elsewhere")).finished() is None
    for content in (b"", b"[]", b"[3]", b'[{"finished": 3}]', b"[" * 100_000, None):
        if content is None:
            (tmp_path / "run" / name).unlink()
        else:
            (tmp_path / "run" / name).write_bytes(content)
        assert folder.finished() is None


def test_a_machine_without_git_trains(tmp_path: Path, fresh: FreshProcesses) -> None:
    small = ["--epochs", "1", "--per-class", "12", "--test-per-class", "2", "--width", "0.01", "--robustness", "0", "--quiet"]
    call = [fresh.python, "-m", "sims.train", *small, "--out", str(tmp_path / "run")]
    subprocess.run(call, cwd=ROOT, check=True, env=os.environ | {"PATH": str(tmp_path)})
    session = json.loads((tmp_path / "run" / "provenance.json").read_text())[0]
    assert session["commit"] is None
    assert session["learning_rate_source"].startswith("picked by us")


def test_a_damaged_checkpoint_is_an_error_and_the_trajectory_stays(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    whole = (run / "checkpoint.pt").read_bytes()
    trajectory = (run / "trajectory.npz").read_bytes()
    (run / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    assert command.main(["--config", str(run / "config.json"), "--out", str(run), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot read the checkpoint" in error
    assert (run / "trajectory.npz").read_bytes() == trajectory


def loaded_or_error(folder: RunFolder) -> tuple[Any, str | None]:
    try:
        return folder.load_checkpoint(), None
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_of_a_checkpoint_is_noticed_or_without_meaning(seed: int, finished: Path, tmp_path: Path) -> None:
    folder, config = RunFolder(tmp_path, tiny(save_features=(2, 4))), tiny(save_features=(2, 4))
    whole = (finished / "checkpoint.pt").read_bytes()
    before = RunFolder(finished, config).load_checkpoint()
    assert before is not None
    rng, noticed = np.random.default_rng(seed), 0
    for position in rng.integers(0, len(whole), 40):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        after, error = loaded_or_error(folder)
        if error is not None:
            assert "cannot read the checkpoint" in error
            noticed += 1
        else:  # padding between records, and dates
            assert str(after[1]) == str(before[1])
            assert_same_arrays(after[2].arrays, before[2].arrays)
            assert all(torch.equal(value, before[1]["model"][name]) for name, value in after[1]["model"].items())
    assert noticed > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: torch.zeros(3), "cannot read the checkpoint"),
        (lambda whole: {**whole, "record": torch.zeros(3)}, "cannot read the checkpoint"),
        (lambda whole: {name: value for name, value in whole.items() if name != "model"}, "KeyError: 'model'"),
        (lambda whole: {**whole, "model": {"weight": torch.zeros(3)}}, "RuntimeError: Error(s) in loading state_dict"),
        (lambda whole: {**whole, "optimizer": {"state": {}, "param_groups": []}}, "cannot read the checkpoint"),
        (lambda whole: {**whole, "epoch": 10**6}, "it stands after epoch 1000000 of "),
        (lambda whole: {**whole, "epoch": -1}, "it stands after epoch -1 of "),
        (lambda whole: {**whole, "epoch": 2}, "it stands after epoch 2 of "),
        (lambda whole: {**whole, "model": {name: w * float("nan") for name, w in whole["model"].items()}}, "is not finite"),
    ],
)
def test_a_checkpoint_that_holds_something_else_is_one_line(
    change: Callable[[Any], Any], message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    torch.save(change(torch.load(run / "checkpoint.pt", weights_only=True)), run / "checkpoint.pt")
    assert command.main(["--config", str(run / "config.json"), "--out", str(run), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_another_configuration_does_not_write_into_a_run(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"another run \(seed = 0, now 1\): repeat its options"):
        RunFolder(finished, tiny(save_features=(2, 4), seed=1))


def test_a_checkpoint_of_another_configuration_is_refused(finished: Path, tmp_path: Path) -> None:
    command.train(tiny(1), tmp_path / "other")
    other = RunFolder(tmp_path / "other", tiny(1))
    (tmp_path / "other" / "checkpoint.pt").write_bytes((finished / "checkpoint.pt").read_bytes())
    with pytest.raises(ValueError, match=r"belongs to another configuration than config\.json"):
        other.load_checkpoint()


def test_data_may_move_but_not_change_while_a_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("here", "moved", "changed")]
    for folder in folders:
        write_mnist(folder, seed=folder.name == "changed")
    configs = [tiny(3, dataset="mnist", data_dir=str(folder)) for folder in folders]
    interrupted_at(1, configs[0], tmp_path / "run", monkeypatch)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(
        ValueError, match=r"was trained on other data \(fingerprint [0-9a-f]{12}, now [0-9a-f]{12}\): give the same"
    ):
        command.train(configs[2], tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    command.train(configs[1], tmp_path / "run")
    command.train(configs[0], tmp_path / "whole")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")
    assert load_run(tmp_path / "run")[0].data_dir == str(folders[1])


def test_a_checkpoint_from_before_fingerprints_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(3)
    interrupted_at(1, config, tmp_path, monkeypatch)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del checkpoint["data"]
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    assert list(command.train(config, tmp_path).epochs) == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), r"cannot write .*checkpoint.pt: No space left"),
        (
            RuntimeError("[enforce fail at inline_container.cc] unexpected pos"),
            r"cannot write .*: is the disk full\? .*unexpected",
        ),
    ],
)
def test_a_full_disk_loses_nothing(error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny()
    interrupted_at(2, config, tmp_path / "run", monkeypatch)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(ValueError, match=message):
            command.train(config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))
    command.train(config, tmp_path / "whole")
    command.train(config, tmp_path / "run")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")


def test_a_run_begun_before_test_vectors_were_stored_goes_on_without_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(3)
    interrupted_at(1, config, tmp_path, monkeypatch)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name in ("test_V", "test_U", "test_dropped", "test_lost_signal"):
        del checkpoint["record"][name]
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    arrays = command.train(config, tmp_path).arrays
    assert len(arrays["test_omega"]) == len(arrays["epoch"]) == 3
    assert not {"test_V", "test_U"} & arrays.keys()


def test_a_record_that_claims_to_be_compressed_is_a_damaged_checkpoint(finished: Path, tmp_path: Path) -> None:
    whole = bytearray((finished / "checkpoint.pt").read_bytes())
    whole[whole.index(b"PK\x01\x02") + 10] = 8  # the method of the first entry of the directory: deflated
    (tmp_path / "checkpoint.pt").write_bytes(whole)
    with pytest.raises(ValueError, match=r"cannot read the checkpoint .* is compressed, which torch never writes"):
        RunFolder(tmp_path, tiny(save_features=(2, 4))).load_checkpoint()


@pytest.mark.parametrize("text", ["[", "3"])
def test_a_damaged_provenance_is_named_and_nothing_is_written(text: str, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(ValueError, match=r"cannot read .*provenance\.json: .*; move it away"):
        command.train(tiny(1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["provenance.json"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".container-7-0123456789ab.tmp").write_bytes(b"half")  # of a host that is gone
    command.train(tiny(1), tmp_path)
    assert not list(tmp_path.glob(".*"))
