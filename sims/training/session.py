"""One training session: a configuration into a folder, from wherever the folder stands to the last epoch."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sims.training.protocol import TrainConfig
from ufm.distributed import Processes, broadcast_text, check_alike, raised_in_all, wait_for_all
from ufm.files.one_folder import check_one_folder
from ufm.files.write_lock import write_lock
from ufm.lost_process import lost_process_told
from ufm.output import StandardError, printable, say

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sims.training.folder import RunFolder
    from ufm.monitor.measurement import Measurement
    from ufm.monitor.record import Record

# where launchers say how many processes they start
PROCESS_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Run:
    """What a worker of a sweep trains: the configuration, the folder, whether a GPU is left alone, and the CPU threads."""

    config: TrainConfig
    path: Path
    cpu: bool = True
    threads: int = 1


def train_run(run: Run) -> "Record":
    """`train` as a task of `sims.sweeps.sweep`: the same bits on every engine, because the number of threads is the same."""
    set_threads(run.threads)
    return train(run.config, run.path, run.cpu)


def train(config: TrainConfig, out: Path, cpu: bool = False, tensorboard: bool = False, quiet: bool = True) -> "Record":
    """Train into the folder `out`, going on where it stands. Returns the Record of what was measured, in process 0 of several.

    A finished run is answered from its record, without its data. Raises ValueError for what cannot be trained or does not belong
    into the folder, and where another command trains into it, LostProcess where one of several processes ends,
    ImportError without the extra 'train'.
    """
    from sims.training.folder import RunFolder, identity_of

    if not _launched() and (record := RunFolder(out, config).finished()) is not None:
        return record
    check_launch()
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    from sims.training.processes import MEASURING_LIMIT, check_device_alike, processes_of
    from ufm.monitor.record import Record

    tracker = "tensorboard" if tensorboard else None
    # the processes wait for each other's measuring, and for process 0's robustness, far longer than for gradients
    waiting = InitProcessGroupKwargs(timeout=MEASURING_LIMIT)
    port = check_device_alike("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    accelerator = Accelerator(
        cpu=cpu, mixed_precision=config.mixed_precision, log_with=tracker, project_dir=out, kwargs_handlers=[waiting]
    )
    del port  # which their group has open now
    check_started(accelerator.num_processes)
    group = processes_of(accelerator)
    check_alike(group, identity_of(config) | {"out": out.name})  # --threads may differ between machines
    with raised_in_all(group):
        folder = RunFolder(out, config)
    record = None if group.rank else folder.finished()
    if broadcast_text(group, "" if record is None else "finished"):  # whose folder may be one that nobody may write into
        wait_for_all(group)
        return record or Record.empty()
    check_one_folder(out, group)
    with write_lock(out, group), lost_process_told(f"the same command goes on from {out}"):
        return _train_locked(folder, accelerator, group, tensorboard, quiet)


def _train_locked(folder: "RunFolder", accelerator: "Accelerator", group: Processes, tensorboard: bool, quiet: bool) -> "Record":
    """Train into a folder of which no other command has the lock."""
    from sims.training.data import load
    from sims.training.loop import Trainer, run

    config = folder.config
    with raised_in_all(group):
        data = load(config.data, quiet)
    if tensorboard:
        accelerator.init_trackers("tensorboard")
    line = ProgressLine(config, quiet or not accelerator.is_main_process)

    def report(epoch: int, loss: float, measurement: "Measurement") -> None:
        line.note(epoch, measurement)
        if tensorboard:
            accelerator.log({"training_loss": loss, **measurement.scalars}, step=epoch)

    try:
        with reproducible(config.deterministic, config.tf32):
            return run(Trainer(config, data, accelerator, group), folder, line.advance, report)
    finally:
        line.close()
        if tensorboard:
            accelerator.end_training()


def _launched() -> bool:
    """Whether a launcher tells of several processes: they answer together, and only once they are known to train one run."""
    return any(os.environ.get(name, "1") != "1" for name in PROCESS_COUNTS)


def check_launch() -> None:
    """Raise ValueError where `accelerate launch` was asked for several processes and has started one, as it does on CPUs.

    It tells that one where they would meet, which it does for several only, but not how many they are.
    """
    if {"ACCELERATE_USE_CPU", "MASTER_PORT"} <= os.environ.keys() and not os.environ.keys() & set(PROCESS_COUNTS):
        raise ValueError(
            "accelerate launch was asked for several processes and has started one, as it does without several GPUs: on CPUs "
            "start N of them with `torchrun --nproc_per_node N`, or one without a launcher"
        )


def check_started(processes: int) -> None:
    """Raise ValueError where the environment states another number of processes than train together.

    Each would train all by itself, into one folder: `WORLD_SIZE` without `RANK` and `LOCAL_RANK`, or mpirun around GPUs.
    """
    for name in PROCESS_COUNTS:
        said = os.environ.get(name, str(processes))
        if said != str(processes):
            raise ValueError(
                f"{name} = {said} in the environment, and {processes} of them trains here: start them with "
                f"`torchrun --nproc_per_node N`, or unset {name} for one process"
            )


@contextlib.contextmanager
def reproducible(deterministic: bool = True, tf32: bool = False) -> Iterator[None]:
    """Ask torch for the same bits every time and for float32 that is float32, on a GPU too; it warns where it cannot.

    `deterministic` False leaves torch the faster of its kernels, `tf32` True the 10 bits of TF32 in float32 products.
    Torch's flags and random state are the caller's again afterwards.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    strict, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = ((torch.backends.cudnn, "deterministic", deterministic), (torch.backends.cudnn, "benchmark", not deterministic))
    flags += ((torch.backends.cudnn, "allow_tf32", tf32), (torch.backends.cuda.matmul, "allow_tf32", tf32))
    before = [getattr(place, name) for place, name, _ in flags]
    try:
        with torch.random.fork_rng():
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            for place, name, value in flags:
                setattr(place, name, value)
            yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        for (place, name, _), value in zip(flags, before, strict=True):
            setattr(place, name, value)


class ProgressLine:
    """Batches done, their rate and the time left on standard error, with the last measures; drawn from the first batch on."""

    def __init__(self, config: TrainConfig, quiet: bool) -> None:
        self._epochs, self._quiet = config.epochs, quiet
        self._bar: Any = None

    def advance(self, epoch: int, batch: int, batches: int) -> None:
        """Draw the share of the epochs done."""
        if self._bar is None:  # a resumed run has its rate from what it does itself
            from tqdm import tqdm

            form = "epoch {n:.1f}/{total} |{bar:20}| {rate_fmt}, {remaining} left{postfix}"
            how = {"unit": "epoch", "disable": self._quiet, "file": StandardError(), "mininterval": 0.5, "bar_format": form}
            self._bar = tqdm(total=self._epochs, initial=epoch - 1, **how)
        self._bar.update(epoch - 1 + batch / batches - self._bar.n)

    def note(self, epoch: int, measurement: "Measurement") -> None:
        """Show the measures of an epoch, and say what is undefined."""
        s = measurement.scalars
        if self._bar is not None:
            self._bar.set_postfix(error=f"{s['train_error']:.2%}", nc1=f"{s['nc1']:.3g}", nc3=f"{s['nc3']:.3g}")
        if measurement.undefined and not self._quiet:
            text = f"epoch {epoch}: undefined: {'; '.join(measurement.undefined)}"
            say(text) if self._bar is None else self._bar.write(printable(text), file=StandardError())

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()


def set_threads(count: int) -> None:
    """Set the CPU threads of torch and numpy. Raises ValueError for none."""
    import torch
    from threadpoolctl import threadpool_limits

    if count < 1:
        raise ValueError(f"{count} threads: at least 1 is needed")
    torch.set_num_threads(count)
    threadpool_limits(count)  # numpy's products have a pool of their own
