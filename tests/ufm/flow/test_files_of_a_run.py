"""What a run reads is never overwritten, what it computed is never lost, and no damaged file becomes a number or a traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ufm.flow.checkpoints
import ufm.flow.stages
from tests.ufm.flow.test_command import ROOT, SMALL, refused, run, write_features
from ufm.files import store
from ufm.flow import result
from ufm.flow.config import FlowConfig
from ufm.flow.run import run_flow
from ufm.flow.start import prepare
from ufm.interrupt import Interrupted

FULL = [*SMALL, "--full", "--steps", "20", "--points", "10", "--growth", "3", "--quiet"]


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess:
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "ufm.flow", *arguments], cwd=ROOT, check=False, env=environment, capture_output=True, **options
    )


@pytest.mark.parametrize(
    ("features", "out", "options"),
    [
        ("q.npz", "q.npz", []),
        ("q.renormalized.npz", "q.npz", ["--flow", "all"]),
        ("q.partial.npz", "q.npz", ["--full"]),
        ("hard.npz", "q.npz", []),
        ("soft.npz", "q.npz", []),
        ("folder/../q.npz", "q.npz", []),
    ],
)
def test_no_input_is_overwritten(
    features: str, out: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    write_features(tmp_path / ("q.npz" if features in ("hard.npz", "soft.npz", "folder/../q.npz") else features))
    if features == "hard.npz":
        os.link(tmp_path / "q.npz", tmp_path / features)
    if features == "soft.npz":
        (tmp_path / features).symlink_to(tmp_path / "q.npz")
    before = (tmp_path / features).read_bytes()
    message = refused(capsys, "--features", tmp_path / features, "--out", tmp_path / out, *options)
    assert "would overwrite" in message
    assert (tmp_path / features).read_bytes() == before


def test_a_machine_without_git_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "run.npz"
    assert run(*FULL, "--out", out) == 0
    assert json.loads(str(store.load_arrays(out)["config"]))["provenance"]["commit"] is None


def test_a_checkpoint_goes_only_after_the_result_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ufm.flow.checkpoints, "CHECKPOINT_SECONDS", 0.0)
    save = store.save_arrays

    def full_disk(path: Path, arrays: dict) -> None:
        if path.name == "run.npz":
            raise ValueError("cannot write: No space left on device")
        save(path, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(store, "save_arrays", full_disk)
        assert run(*FULL, "--out", tmp_path / "run.npz") == 2
    assert os.listdir(tmp_path) == ["run.partial.npz"]
    assert run(*FULL, "--out", tmp_path / "run.npz") == 0
    assert os.listdir(tmp_path) == ["run.npz"]


def test_ctrl_c_in_the_library_reaches_the_caller_with_what_was_computed() -> None:
    config = FlowConfig(C=4, N=20, P=7, points=20)

    def stop(stage: str, share: float) -> None:
        if stage == "scheme" and share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        run_flow(config, prepare(config), stop)
    assert isinstance(interrupted.value, Interrupted)
    part, whole = interrupted.value.partial, run_flow(config, prepare(config))
    assert part.complete is False
    assert whole.complete is True
    assert 400 < len(part.scheme.t) < 600
    np.testing.assert_array_equal(part.scheme.omega, whole.scheme.omega[: len(part.scheme.t)])
    np.testing.assert_array_equal(part.flow.omega, whole.flow.omega)


@pytest.mark.parametrize(("stage", "at"), [("flow", 0.0), ("flow", 1.0), ("scheme", 0.0), ("scheme", 1.0)])
def test_ctrl_c_in_a_stage_of_the_whole_tensor_reaches_the_caller(stage: str, at: float) -> None:
    """Even after its last moment: the scheme does not begin, and what was stopped is not taken for a run that was left to end."""
    config = FlowConfig(C=4, N=20, P=7, points=10, growth=3.0, steps=20, full=True)

    def stop(now: str, share: float) -> None:
        if now == stage and share >= at:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as interrupted:
        run_flow(config, prepare(config), stop)
    part, whole = interrupted.value.partial, run_flow(config, prepare(config))
    assert (part.complete, whole.complete) == (False, True)
    counts = len(part.flow.t), len(part.scheme.t)
    assert (1 < counts[0] <= 10, counts[0] < 10) == (True, (stage, at) == ("flow", 0.0))
    assert (counts[1] > 1, counts[1] < 21) == (stage == "scheme", (stage, at) != ("scheme", 1.0))
    np.testing.assert_array_equal(part.flow.omega, whole.flow.omega[: counts[0]])
    np.testing.assert_array_equal(part.scheme.omega, whole.scheme.omega[: counts[1]])


def test_an_interrupted_stage_is_not_returned_as_if_it_had_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FlowConfig(C=4, N=20, P=7, points=3, steps=2, full=True)
    start = prepare(config)
    times = np.array([0.0, 1.0, 2.0])
    stages = (
        ufm.flow.stages.FlowStage(config, start.features.astype(np.float64), times, start, np.ones(3, dtype=bool)),
        ufm.flow.stages.SchemeStage(config, start.features.astype(np.float64), 1.0, np.arange(3), start),
    )

    def stop(self: object, *arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ufm.flow.stages.Stage, "record", stop)
    for stage in stages:
        with pytest.raises(Interrupted) as interrupted:
            stage.run(ufm.flow.checkpoints.Checkpoint(None, {}, ()), result.silent)
        assert interrupted.value.partial is stage


def test_an_interrupted_file_says_that_it_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: object, *arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ufm.flow.stages.SchemeStage, "record", stop)
        assert run(*FULL, "--out", tmp_path / "run.npz") == 130
    assert not store.load_arrays(tmp_path / "run.npz")["complete"]
    assert run(*FULL, "--out", tmp_path / "run.npz") == 0
    assert store.load_arrays(tmp_path / "run.npz")["complete"]


def test_a_full_run_resumes_after_its_folder_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    write_features(tmp_path / "old" / "features.npz")
    monkeypatch.setattr(ufm.flow.checkpoints, "CHECKPOINT_SECONDS", 0.0)
    options = ["--full", "--steps", "20", "--points", "10", "--growth", "3", "--quiet"]

    def stop(self: object, *arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ufm.flow.stages.SchemeStage, "record", stop)
        assert run("--features", tmp_path / "old" / "features.npz", *options, "--out", tmp_path / "old" / "run.npz") == 130
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    with monkeypatch.context() as patched:
        patched.setattr("ufm.tensor.integrate.dormand_prince", None)  # the flow is finished: it is not integrated again
        assert run("--features", "features.npz", *options, "--out", "run.npz") == 0
    assert sorted(os.listdir()) == ["features.npz", "run.npz"]


def test_an_integration_that_fails_has_the_exit_code_of_a_failed_computation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(self: object, *arguments: object) -> None:
        raise RuntimeError("the step size fell to 1e-20 at t = 1: the field is not smooth there")

    monkeypatch.setattr(ufm.flow.stages.FlowStage, "record", fail)
    assert run(*FULL) == 1
    assert capsys.readouterr().err == "ufm.flow: error: the step size fell to 1e-20 at t = 1: the field is not smooth there\n"


def interrupted_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ufm.flow.checkpoints, "CHECKPOINT_SECONDS", 0.0)
    record, calls = ufm.flow.stages.SchemeStage.record, []

    def stop(self: object, M: object) -> None:
        calls.append(M)
        if len(calls) > 5:
            raise KeyboardInterrupt
        record(self, M)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(ufm.flow.stages.SchemeStage, "record", stop)
        assert run(*FULL, "--out", tmp_path / "run.npz") == 130
    return tmp_path / "run.partial.npz"


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("scheme_state", lambda a: a[:, :-1]),
        ("scheme_state", lambda a: 3 * a),
        ("scheme_state", lambda a: a * np.nan),
        ("scheme_omega", lambda a: a[:-1]),
        ("scheme_V", lambda a: a.astype(str)),
        ("scheme_count", lambda a: np.array(10**6)),
        ("scheme_count", lambda a: np.array(0)),
        ("flow_size", lambda a: np.array([1.0, 2.0])),
        ("flow_omega", None),
        ("config", lambda a: np.array("[" * 100_000)),
        ("config", None),
    ],
)
def test_a_crafted_checkpoint_is_refused_in_one_line(
    name: str, spoil: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = interrupted_checkpoint(tmp_path, monkeypatch)
    arrays = store.load_arrays(path)
    capsys.readouterr()
    if spoil is None:
        del arrays[name]
    else:
        arrays[name] = spoil(arrays[name])  # type: ignore[operator]
    store.save_arrays(path, arrays)
    message = refused(capsys, *FULL, "--out", tmp_path / "run.npz")
    assert "run.partial.npz" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("omega", np.zeros((3, 2))),
        ("t", np.zeros(5)),
        ("V", np.ones((4, 2))),
        ("eta", np.array(0.0)),
        ("eta", np.array(-1.0)),
        ("omega_discrete", np.full((21, 3), np.nan)),
        ("U", np.zeros(3)),
        ("config", np.array("[" * 100_000)),
        ("config", np.array('{"C": ' + "9" * 5000 + "}")),
        ("config", np.array('{"C": "4", "N": 20}')),
        ("config", np.array("[1, 2]")),
        ("t", np.array(["a", "b"])),
    ],
)
def test_a_damaged_trajectory_is_refused_with_what_is_wrong(name: str, value: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    assert run(*SMALL, "--steps", "20", "--points", "10", "--quiet", "--out", path) == 0
    store.save_arrays(path, store.load_arrays(path) | {name: value})
    with pytest.raises(ValueError, match=r"run\.npz"):
        result.load_flow(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX shell")
def test_a_full_or_closed_standard_output_is_one_line_and_the_results_are_whole(tmp_path: Path) -> None:
    out = tmp_path / "run.npz"
    script = f"{sys.executable} -m ufm.flow {' '.join(SMALL)} --out {out}"
    for redirect, code, lines in ((">/dev/full", 2, 1), (">&-", 0, 0)):
        done = subprocess.run(["bash", "-c", script + redirect], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (code, lines), done.stderr
        assert store.load_arrays(out)["complete"]
        out.unlink()


def test_a_terminal_that_is_not_utf_8_is_no_error(tmp_path: Path) -> None:
    done = command(*SMALL, "--out", str(tmp_path / "Ω.npz"), env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert done.stderr == b""
    assert (tmp_path / "Ω.npz").exists()


def test_signals_are_not_left_changed() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run(*SMALL, "--quiet") == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["x" * 300 + ".npz", "=--", "a\0b.npz"])
def test_strange_names_are_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert refused(capsys, *SMALL, f"--out={tmp_path / name}").count("\n") == 1
    assert os.listdir(tmp_path) == []
