"""Sweeps on every engine: the serial results bit for bit, failures reported, killed workers, schedulers that are gone."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sims import sweeps
from sims.sweeps import Outcome, sweep
from sims.training import session
from sims.training.session import Run, train_run
from tests.sims.runs import ROOT, assert_same_arrays, assert_same_bits, tiny
from tests.sims.tasks import square, square_in_too_much_memory, squared_once_killed
from ufm.files.write_lock import write_lock


def quiet(_: str) -> None:
    """No progress."""


def die_in_epoch_3(_: object, epoch: int, batch: int, batches: int) -> None:
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def trained_once_killed(run: Run) -> object:
    """Trains; the worker that is first given seed 1 is killed in its third epoch."""
    met = run.path.parent / "killed"
    if run.config.seed == 1 and not met.exists():
        met.touch()
        session.ProgressLine.advance = die_in_epoch_3  # type: ignore[method-assign]
    return train_run(run)


@pytest.mark.parametrize("engine", ["serial", "processes", pytest.param("dask", marks=pytest.mark.slow)])
def test_outcomes_come_in_the_order_of_the_tasks_and_a_failure_is_one_of_them(engine: str) -> None:
    told: list[str] = []
    outcomes = sweep(square, {f"of {k}": k for k in (5, 3, 2)}, engine, 2, told.append)
    assert list(outcomes.items()) == [("of 5", Outcome(25)), ("of 3", Outcome(None, "three\\nis refused")), ("of 2", Outcome(4))]
    assert len(told) == 3
    assert {line.split("] ")[1] for line in told} == {"of 5: done", "of 3: three\\nis refused", "of 2: done"}
    assert [line.split("]")[0] for line in told] == ["[1/3", "[2/3", "[3/3"]
    assert sweep(square, {}, engine, 2, told.append) == {}


@pytest.mark.parametrize("engine", ["processes", pytest.param("dask", marks=pytest.mark.slow)])
def test_a_killed_worker_costs_nothing_but_time_and_one_that_always_dies_its_own_task(engine: str, tmp_path: Path) -> None:
    outcomes = sweep(squared_once_killed, {f"{k}": (k, str(tmp_path)) for k in range(7)}, engine, 2, quiet)
    assert {name: outcome.value for name, outcome in outcomes.items() if name != "5"} == {
        f"{k}": k**2 for k in (0, 1, 2, 3, 4, 6)
    }
    assert outcomes["5"] == Outcome(None, "its worker died every time")
    assert (tmp_path / "2").exists()


def test_a_worker_that_stops_for_its_memory_is_replaced() -> None:
    """joblib warns of it in the thread that waits for the workers; were that an error, nobody would wait for them any more."""
    from joblib.externals.loky import get_reusable_executor

    outcomes = sweep(square_in_too_much_memory, {f"{k}": k for k in range(12)}, "processes", 2, quiet)
    get_reusable_executor().shutdown(wait=True)  # other sweeps get other workers
    assert outcomes == {f"{k}": Outcome(k**2) for k in range(12)}


@pytest.mark.parametrize("engine", ["processes", pytest.param("dask", marks=pytest.mark.slow)])  # its workers import torch anew
def test_training_is_the_serial_one_bit_for_bit_on_every_engine_though_a_worker_is_killed(engine: str, tmp_path: Path) -> None:
    configs = {f"seed-{seed}": tiny(4, robustness=0, seed=seed) for seed in range(2)}
    rows = {}
    for used in ("serial", engine):
        runs = {name: Run(config, tmp_path / used / name) for name, config in configs.items()}
        (tmp_path / used).mkdir()
        rows[used] = sweep(train_run if used == "serial" else trained_once_killed, runs, used, 2, quiet)
        assert all(outcome.error is None for outcome in rows[used].values())
    assert (tmp_path / engine / "killed").exists()
    for name in configs:
        assert_same_bits(tmp_path / "serial" / name, tmp_path / engine / name)
        assert_same_arrays(rows["serial"][name].value.arrays, rows[engine][name].value.arrays)  # type: ignore[union-attr]


def test_a_run_that_another_command_trains_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    runs = {f"seed-{seed}": Run(tiny(1, robustness=0, seed=seed), tmp_path / f"{seed}") for seed in range(2)}
    (tmp_path / "0").mkdir()
    with write_lock(tmp_path / "0"):
        outcomes = sweep(train_run, runs, "serial", progress=quiet)
    assert str(outcomes["seed-0"].error).startswith(f"another command is writing {tmp_path / '0'}: wait until")
    assert outcomes["seed-1"].value is not None
    assert sweep(train_run, runs, "serial", progress=quiet)["seed-0"].error is None


def test_a_running_scheduler_is_used_and_one_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        address = cluster.scheduler_address.removeprefix("tcp://")
        assert sweep(square, {"a": 4, "b": 5}, f"dask://{address}", progress=quiet) == {"a": Outcome(16), "b": Outcome(25)}
    monkeypatch.setattr(sweeps, "FIRST_ANSWER", 1)
    with pytest.raises(ValueError, match=r"no dask scheduler answers at 127\.0\.0\.1:1$"):
        sweep(square, {"a": 4}, "dask://127.0.0.1:1", progress=quiet)


@contextmanager
def scheduler_and_workers(port: int) -> Iterator[None]:
    """A dask scheduler and two workers, killed at the end of the block, all at once."""
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    options: dict[str, Any] = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "start_new_session": True}
    options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = [*dask[:2], f"{dask[2]}scheduler", "--host", "127.0.0.1", "--port", f"{port}", "--no-dashboard"]
    worker = [*dask[:2], f"{dask[2]}worker", f"127.0.0.1:{port}", "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    running = [subprocess.Popen(call, **options) for call in (scheduler, worker)]
    try:
        yield
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def stop_in_epoch_3(line: Any, epoch: int, batch: int, batches: int) -> None:
    if epoch == 3:
        time.sleep(600)


def trained_while_the_scheduler_is_lost(run: Run) -> object:
    """Trains; till there is another scheduler the run of seed 1 stops in its third epoch."""
    if run.config.seed == 1 and not (run.path.parent / "restarted").exists():
        (run.path.parent / "stopping").touch()
        session.ProgressLine.advance = stop_in_epoch_3  # type: ignore[method-assign]
    return train_run(run)


@pytest.mark.slow
def test_training_is_the_serial_one_bit_for_bit_though_the_scheduler_is_restarted(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = {
        used: {f"seed-{k}": Run(tiny(4, robustness=0, seed=k), tmp_path / used / f"seed-{k}") for k in range(3)}
        for used in ("serial", "dask")
    }
    for used in runs:
        (tmp_path / used).mkdir()
    serial = sweep(train_run, runs["serial"], "serial", progress=quiet)
    stopped, told = runs["dask"]["seed-1"].path / "checkpoint.pt", list[str]()

    def restart() -> None:
        with scheduler_and_workers(port):
            while not (tmp_path / "dask" / "stopping").exists() or not stopped.exists():
                time.sleep(0.05)
        (tmp_path / "dask" / "restarted").touch()
        with scheduler_and_workers(port):
            done.wait()

    done = threading.Event()
    helper = threading.Thread(target=restart, daemon=True)
    helper.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    try:
        outcomes = sweep(trained_while_the_scheduler_is_lost, runs["dask"], f"dask://127.0.0.1:{port}", progress=told.append)
    finally:
        done.set()
        helper.join()
    assert [outcome.error for outcome in outcomes.values()] == [None] * 3
    assert sum("is lost, waiting up to 120 s for one there" in line for line in told) == 1
    for name, outcome in serial.items():
        assert_same_bits(tmp_path / "serial" / name, tmp_path / "dask" / name)
        assert_same_arrays(outcome.value.arrays, outcomes[name].value.arrays)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("engine", "jobs", "message"),
    [
        ("ray", 1, "engine = 'ray': it is one of serial"),
        ("serial", 0, "jobs = 0"),
        ("dask://", 1, "engine = 'dask://': give the scheduler as dask://HOST:PORT"),
        ("dask://:8786", 1, "engine = 'dask://:8786': give"),
        ("dask://host:x", 1, "engine = 'dask://host:x': give"),
    ],
)
def test_unknown_engines_are_refused(engine: str, jobs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(square, {"a": 1}, engine, jobs, quiet)


@pytest.mark.parametrize("engine", ["serial", "processes", pytest.param("dask", marks=pytest.mark.slow)])
def test_an_interrupt_ends_a_sweep_and_its_workers(engine: str, tmp_path: Path) -> None:
    code = (
        "import sys, time; from sims import command; from sims.sweeps import sweep\n"
        "def wait(path):\n    import pathlib, time; pathlib.Path(path).touch(); time.sleep(60)\n"
        "def work(args):\n    sweep(wait, {f'{k}': sys.argv[2] + f'/{k}' for k in range(2)}, sys.argv[1], 2)\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(command.run_command(command.Parser('python -m sims.nothing'), work, [], 'runs go on'))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    (tmp_path / "sitecustomize.py").write_text(  # every worker of joblib but the first is slow to start
        "import pathlib, sys, time\n"
        "if any('popen_loky' in argument for argument in sys.orig_argv):\n"
        "    try:\n        pathlib.Path(__file__).with_name('started').touch(exist_ok=False)\n"
        "    except FileExistsError:\n        time.sleep(3)\n"
    )
    call = [sys.executable, str(script), engine, str(tmp_path)]
    process = subprocess.Popen(
        call,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job starts with it ignored
    )
    deadline = time.monotonic() + 60
    while not any((tmp_path / name).exists() for name in "01") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "\nsims.nothing: interrupted; runs go on\n"


KEEPS_WRITING = """
import sys, time
from pathlib import Path
from sims.sweeps import sweep

def keep_writing(path):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.02)

if __name__ == "__main__":
    sweep(keep_writing, {f"{k}": f"{sys.argv[2]}/{k}" for k in range(2)}, sys.argv[1], 2)
"""


@pytest.mark.parametrize("engine", ["processes", pytest.param("dask", marks=pytest.mark.slow)])
def test_no_worker_survives_the_process_that_started_it(engine: str, tmp_path: Path) -> None:
    """A repeat of the command would write into the same folders."""
    script, written = tmp_path / "script.py", [tmp_path / "0", tmp_path / "1"]
    script.write_text(KEEPS_WRITING)
    call = [sys.executable, str(script), engine, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(call, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not all(path.exists() for path in written):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.communicate(timeout=5)  # to the end of standard error, which the workers have open too
        before = [path.stat().st_size for path in written]
        time.sleep(0.5)
        assert [path.stat().st_size for path in written] == before
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_dask_in_a_script_without_the_guard_is_refused_by_its_name(tmp_path: Path) -> None:
    """Its workers import the script, and so come to its sweep again."""
    script = tmp_path / "script.py"
    script.write_text("from sims.sweeps import sweep\nsweep(abs, {'a': 1, 'b': 2}, 'dask', 2)\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    told = "engine = 'dask': no worker started (Nanny failed to start); a script needs its sweep below "
    assert done.stderr.splitlines()[-1] == f'ValueError: {told}`if __name__ == "__main__":`, since workers import it'


def test_dask_starts_beside_another_dashboard() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8787))  # dask's usual port
            taken.listen()
        except OSError:
            pass  # somebody else has it already, which serves as well
        assert sweep(square, {"one": 1, "two": 2}, "dask", 1, quiet) == {"one": Outcome(1), "two": Outcome(4)}
