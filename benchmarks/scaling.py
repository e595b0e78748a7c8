"""What a second process gives on two cores: measuring, `ufm.flow` on shards, and a sweep; `python -m benchmarks scaling`.

Times are wall times, of one process, of two that share the work, and of two that each do all of it at once: what the machine
itself gives a second process bounds what sharing can. One thread a process; at most five minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, seconds
from benchmarks.timing import Paired, paired
from ufm.distributed import OneProcess, Processes, TorchProcesses

PAIRS, SWEEPS = 7, 3
TASKS = 6
Work = Callable[[Processes], object]  # what one process does of it


@dataclass(frozen=True)
class Scaled:
    """One process beside two that share its work, and beside two that each do all of it at the same time."""

    shared: Paired
    apart: Paired

    def row(self, quantity: str) -> Row:
        """The line of the table: t1 / (2 t2), and t1 / t2 of two that share nothing."""
        times, alone = self.shared, self.apart
        efficiency = f"efficiency {_share(0.5 / times.ratio)} ({_share(0.5 / times.high)} to {_share(0.5 / times.low)})"
        bound = f"two that share nothing {_share(1 / alone.ratio)} ({_share(1 / alone.high)} to {_share(1 / alone.low)})"
        return Row(quantity, seconds(times.ours), f"1 process: {seconds(times.other)}", f"{efficiency}; {bound}")


def scaling() -> Iterator[Row]:
    """A line for each: the efficiency of two processes over one."""
    for case in CASES.values():
        yield launched(case.name, case.size, PAIRS).row(case.quantity(case.size))
    yield swept(TASKS, EPOCHS, SWEEPS)


@dataclass(frozen=True)
class Case:
    """Work on so many examples that processes share, made in a folder that all of them see."""

    name: str
    size: int
    quantity: Callable[[int], str]
    made: Callable[[int, Path], Work]


def measuring(examples: int, _: Path) -> Work:
    """Measuring a ResNet18 a quarter as wide on images of 3 x 32 x 32."""
    import torch

    from sims.training.examples import EVALUATION_BATCH
    from sims.training.nets import CLASSIFIER, Shape, build
    from ufm.monitor.network import measure_network

    torch.manual_seed(0)
    model = build("resnet18", Shape(3, 32, 10, 0.25)).eval()
    images, labels = torch.randn(examples, 3, 32, 32), torch.arange(examples) % 10

    def work(group: Processes) -> object:
        mine = (x[group.rank :: group.size].split(EVALUATION_BATCH) for x in (images, labels))
        return measure_network(model, list(zip(*mine, strict=True)), CLASSIFIER, 0.01, group=group)

    return work


def flow_on_shards(examples: int, folder: Path) -> Work:
    """What `ufm.flow --features 'shards'` does once it has started, on 4 shards of P = 128 features in float32."""
    from ufm.flow.config import FlowConfig
    from ufm.flow.run import run_flow
    from ufm.flow.source import started

    if not list(folder.glob("*.npz")):
        rng = np.random.default_rng(0)
        means = rng.standard_normal((10, 128), dtype=np.float32)
        for k in range(4):
            labels = np.arange(examples // 4) % 10
            features = means[labels] + rng.standard_normal((len(labels), 128), dtype=np.float32)
            np.savez(folder / f"{k}.npz", features=features, labels=labels)
    config = FlowConfig(features=str(folder / "*.npz"), points=100, steps=100)
    return lambda group: run_flow(config, started(config, group, left_vectors=False))


CASES = {
    case.name: case
    for case in (
        Case("measuring", 1024, lambda n: f"measuring resnet18 of width 0.25, {n:,} images of 3 x 32 x 32", measuring),
        Case("flow", 600_000, lambda n: f"ufm.flow on 4 shards, {n:,} examples, P = 128, float32", flow_on_shards),
    )
}
EPOCHS = 12


def two_processes(work: Work, group: Processes, meet: Callable[[], object], pairs: int) -> Scaled:
    """The times of process 0 from meeting to meeting; both processes call this, and do the same in the same order."""
    alone: Work = work if group.rank == 0 else lambda _: None

    def until_all_have(do: Work, processes: Processes) -> None:
        do(processes)
        meet()

    one, shared = partial(until_all_have, alone, OneProcess()), partial(until_all_have, work, group)
    apart = partial(until_all_have, work, OneProcess())
    clock = time.perf_counter
    return Scaled(paired(shared, one, pairs, clock=clock), paired(apart, one, max(pairs // 3, 3), clock=clock))


def launched(name: str, size: int, pairs: int) -> Scaled:
    """What process 0 of two that torchrun starts has timed."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "benchmarks.scaling"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*launch, name, folder, str(size), str(pairs)], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    told = json.loads(done.stdout)
    return Scaled(Paired(**told["shared"]), Paired(**told["apart"]))


def swept(tasks: int, epochs: int, pairs: int) -> Row:
    """A sweep over `tasks` seeds of a small training, in this process and by two workers, which have been started before."""
    from sims.sweeps import sweep

    def with_jobs(jobs: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            work = partial(trained, epochs=epochs, folder=folder)
            outcomes = sweep(work, {f"seed {seed}": seed for seed in range(tasks)}, jobs=jobs, progress=lambda _: None)
        failed = [outcome.error for outcome in outcomes.values() if outcome.error is not None]
        if failed:
            raise RuntimeError(f"a run of the sweep failed: {failed[0]}")

    times = paired(partial(with_jobs, 2), partial(with_jobs, 1), pairs, clock=time.perf_counter)
    measured = f"efficiency {_share(0.5 / times.ratio)} ({_share(0.5 / times.high)} to {_share(0.5 / times.low)})"
    quantity = f"sweep --engine processes, {tasks} runs of {epochs} epochs of the MLP on digits"
    return Row(quantity, seconds(times.ours), f"1 worker: {seconds(times.other)}", measured)


def trained(seed: int, epochs: int, folder: str) -> float:
    """Train and measure the digits once."""
    from dataclasses import replace

    from sims.training.protocol import protocol
    from sims.training.session import Run, train_run

    config = replace(protocol("digits", "mlp", "mse").scaled(epochs), seed=seed, robustness=0, measured=(epochs,))
    return float(train_run(Run(config, Path(folder) / str(seed))).arrays["loss"][-1])


def _share(value: float) -> str:
    return f"{value:.2f}"


def main(name: str, folder: str, size: str, pairs: str) -> None:
    """One of two processes: time a case of so many examples, and print the times as JSON in process 0."""
    import torch
    import torch.distributed as dist
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    group, case = TorchProcesses(), CASES[name]
    with threadpool_limits(1):
        if group.rank == 0:
            case.made(int(size), Path(folder))  # the files, before the others look for them
        dist.barrier()
        times = two_processes(case.made(int(size), Path(folder)), group, dist.barrier, int(pairs))
    if group.rank == 0:
        print(json.dumps(asdict(times)))
    dist.destroy_process_group()


SECTIONS = (scaling,)

if __name__ == "__main__":
    main(*sys.argv[1:])
