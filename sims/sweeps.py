"""Many runs on one engine: processes of this machine, or dask workers here or anywhere; a failed run is reported, not fatal.

A result depends on its task alone, so it is the same on every engine, in every order, and after a worker has died.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import cache
from multiprocessing import current_process, resource_tracker
from typing import Any, Generic, TypeVar

from ufm.output import one_line, say

Task = TypeVar("Task")
Result = TypeVar("Result")
SERIAL, PROCESSES, DASK, DASK_HOST = "serial", "processes", "dask", "dask://"
ENGINES = "serial, processes, dask (workers of its own on this machine), dask://HOST:PORT (a running scheduler)"
ATTEMPTS = 3  # times that tasks are given to processes together before those whose process dies every time are tried alone
PORT = 8786  # where dask schedulers listen
FIRST_ANSWER, RESTART = 10, 120  # seconds that a dask scheduler is waited for at first, and when it was lost
WATCH = 0.5  # seconds between two looks of a joblib worker whether its parent lives; dask's workers see to it themselves
DIED = "its worker died every time"


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What a task gave: its value, or why it has none."""

    value: Result | None
    error: str | None = None


def sweep(
    work: Callable[[Task], Result],
    tasks: Mapping[str, Task],
    engine: str = PROCESSES,
    jobs: int = 1,
    progress: Callable[[str], None] = say,
) -> dict[str, Outcome[Result]]:
    """`work` on every task, by name and in the order of the tasks; `progress` gets a line a finished one.

    work   a function that a worker can be sent; what it raises is the outcome of its task
    jobs   how many tasks at a time, one of them in this process; with "dask://..." as many as the scheduler has workers for

    A worker that dies costs its tasks another attempt, a scheduler those not finished, given to the next one at its address.
    Raises ValueError for an unknown engine, a scheduler that does not answer, and dask workers that do not start; an interrupt
    goes through. A script that starts dask workers needs the guard `if __name__ == "__main__":`.
    """
    if jobs < 1:
        raise ValueError(f"jobs = {jobs}: at least 1 is needed")
    if engine not in (SERIAL, PROCESSES, DASK) and not engine.startswith(DASK_HOST):
        raise ValueError(f"engine = {engine!r}: it is one of {ENGINES}")
    if engine == SERIAL:
        pairs: Iterator[tuple[str, Outcome[Result]]] = (_attempted(work, name, task, os.getpid()) for name, task in tasks.items())
    else:
        pairs = _on_dask(work, tasks, engine, jobs, progress) if engine.startswith(DASK) else _in_processes(work, tasks, jobs)
    outcomes = {}
    for name, outcome in pairs:
        outcomes[name] = outcome
        progress(f"[{len(outcomes)}/{len(tasks)}] {name}: {outcome.error or 'done'}")
    return {name: outcomes[name] for name in tasks}


def _attempted(work: Callable[[Any], Any], name: str, task: Any, caller: int, child: bool = False) -> tuple[str, Outcome[Any]]:
    """What a task gives; in a `child` of the caller it ends with the caller."""
    if os.getpid() != caller:
        if child:
            _end_with(caller)
        with contextlib.suppress(ValueError):  # not the main thread of a dask worker
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of a terminal is for the caller, who ends the workers
    try:
        return name, Outcome(work(task))
    except Exception as error:
        return name, Outcome(None, one_line(error))


@cache
def _end_with(parent: int) -> None:
    """End this worker, as a kill would, soon after its parent: a repeat of the sweep writes into the same folders."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits till the end of the block; processes started in it never see it, since they inherit the blocked signal."""
    resource_tracker.ensure_running()  # the start of multiprocessing's helper would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_processes(work: Callable[[Any], Any], tasks: Mapping[str, Any], jobs: int) -> Iterator[tuple[str, Outcome[Any]]]:
    """joblib's processes. One that dies takes the pool with it: what is not finished is begun again, alone in the end."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool

    left = dict(tasks)

    def attempt(some: list[str]) -> Iterator[tuple[str, Outcome[Any]]]:
        calls = [delayed(_attempted)(work, name, left[name], os.getpid(), child=True) for name in some]
        with contextlib.suppress(BrokenProcessPool):
            with _interrupts_held():  # a worker that is still importing would die with a traceback of its own
                outcomes = Parallel(jobs, "loky", return_as="generator_unordered", batch_size=1, pre_dispatch="all")(calls)
            for name, outcome in outcomes:
                del left[name]
                yield name, outcome

    for _ in range(ATTEMPTS):
        if left:
            yield from attempt(list(left))
    for name in list(left):
        yield from attempt([name])
    yield from ((name, Outcome(None, DIED)) for name in left)


def _on_dask(
    work: Callable[[Any], Any], tasks: Mapping[str, Any], engine: str, jobs: int, progress: Callable[[str], None]
) -> Iterator[tuple[str, Outcome[Any]]]:
    """dask's futures. A scheduler that is lost has forgotten them: what is not finished is begun again by the next one there."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("dask's scheduler is not installed: pip install 'neural-collapse-flow[cluster]'") from error
    where, left, patience = engine if engine == DASK else _scheduler_of(engine), dict(tasks), FIRST_ANSWER
    for _ in range(ATTEMPTS):
        try:
            client = _with_own_workers(jobs) if engine == DASK else Client(f"tcp://{where}", timeout=patience)
        except OSError as error:
            raise ValueError(f"no dask scheduler answers at {where}" + _undone(tasks, left)) from error
        try:
            with client:
                yield from _futures(client, work, left)
            return
        except (OSError, CancelledError):
            patience = RESTART
            progress(f"the dask scheduler at {where} is lost, waiting up to {RESTART} s for one there{_undone(tasks, left)}")
    raise ValueError(f"the dask scheduler at {where} was lost {ATTEMPTS} times{_undone(tasks, left)}")


def _scheduler_of(engine: str) -> str:
    """The address in dask://HOST:PORT, with dask's port where none is given. Raises ValueError where it has no host."""
    host, _, port = engine.removeprefix(DASK_HOST).partition(":")
    if not host or not (port or f"{PORT}").isdigit():
        raise ValueError(f"engine = {engine!r}: give the scheduler as dask://HOST:PORT")
    return f"{host}:{port or PORT}"


def _with_own_workers(jobs: int) -> Any:
    """A client with workers on this machine. Raises ValueError where they do not start, as in a script without its guard."""
    from distributed import Client

    if getattr(current_process(), "_inheriting", False):  # such a worker, which imports the script: its caller tells
        raise SystemExit(1)
    try:  # a port of its own, for this machine alone: beside another scheduler the usual one is taken
        return Client(n_workers=jobs, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50)
    except RuntimeError as error:
        guard = 'a script needs its sweep below `if __name__ == "__main__":`, since workers import it'
        raise ValueError(f"engine = {DASK!r}: no worker started ({one_line(error).rstrip('.')}); {guard}") from None


def _undone(tasks: Mapping[str, Any], left: Mapping[str, Any]) -> str:
    return f" ({len(tasks) - len(left)} of {len(tasks)} are done)" if len(left) < len(tasks) else ""


def _futures(client: Any, work: Callable[[Any], Any], left: dict[str, Any]) -> Iterator[tuple[str, Outcome[Any]]]:
    """The outcomes of what is left, taken from it one by one: the scheduler gives the tasks of a worker that dies to others.

    It tells which tasks have killed theirs too often; those are tried alone. Raises OSError or CancelledError where it is lost.
    """
    from distributed import as_completed, wait

    def submitted(name: str) -> Any:
        return client.submit(_attempted, work, name, left[name], os.getpid(), pure=False)

    def finished(future: Any, name: str) -> tuple[str, Outcome[Any]] | None:
        if future.status in ("cancelled", "lost"):
            raise CancelledError
        outcome = future.result() if future.status == "finished" else None
        if outcome is not None:
            del left[name]
        return outcome

    futures = {submitted(name): name for name in left}
    for future in as_completed(futures):
        outcome = finished(future, futures[future])
        if outcome is not None:
            yield outcome
    for name in list(left):  # alone: its worker may have died of another's task
        future = submitted(name)
        wait([future])
        outcome = finished(future, name) or (name, Outcome(None, DIED))
        left.pop(name, None)
        yield outcome
