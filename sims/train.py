"""`python -m sims.train`: train a network as the paper does, measure its collapse, resume where it was stopped."""

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sims.command import Parser, run_command, say
from sims.training.config import LOSSES, TrainConfig
from sims.training.options import add_fields, config_of

if TYPE_CHECKING:
    from ufm.monitor.measurement import Measurement
    from ufm.monitor.record import Record

SHOWN = ("train_error", "test_error", "nc1", "nc2_equinorm", "nc2_maxangle", "nc3", "nc4", "loss", "loss_perp", "robustness")
MEASURING_LIMIT = timedelta(hours=6)  # after which processes that wait for a measurement give up


def parser() -> Parser:
    """The command line: a cell of the protocol, every field of its configuration as an option, and the folder of the run."""
    p = Parser(prog="python -m sims.train", description=__doc__, shared=("json", "quiet"))
    p.add_argument("--dataset", help="digits (default; embedded), mnist, fashionmnist, cifar10, svhn, stl10, cifar10-jpeg")
    p.add_argument("--net", help="mlp (default), vgg11, vgg13, resnet18, ..., densenet250")
    p.add_argument("--loss", choices=LOSSES, help="of the cell (default mse)")
    p.add_argument("--config", metavar="FILE.json", help="a configuration instead of the shipped cell of dataset, net and loss")
    p.add_argument("--out", metavar="RUN", help="folder of the run (default runs/DATASET-NET-LOSS); resumes what it holds")
    p.add_argument("--epochs", type=int, help="scale the whole schedule to so many epochs")
    add_fields(p)
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one")
    p.add_argument("--cpu", action="store_const", dest="device", const="cpu", help="leave a GPU alone, as device cpu")
    p.add_argument("--threads", type=int, help="CPU threads (another number may change the last bits)")
    p.add_argument("--tensorboard", action="store_true", help="log the measures for TensorBoard under RUN")
    return p


def train(config: TrainConfig, out: Path, cpu: bool = False, tensorboard: bool = False, quiet: bool = True) -> "Record":
    """Train into the folder `out`, going on where it stands. Returns the Record of what was measured.

    A finished run is answered from its record, without its data. Raises ValueError for what cannot be trained or does not belong
    into the folder, ImportError without the extra 'train'.
    """
    from sims.training.folder import RunFolder

    folder = RunFolder(out, config)
    record = folder.finished()
    if record is not None:
        return record
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    from sims.training.data import load
    from sims.training.loop import Trainer, run

    data = load(config.data)
    tracker = "tensorboard" if tensorboard else None
    # process 0 measures while the others wait for it, far longer than any exchange of gradients takes
    waiting = InitProcessGroupKwargs(timeout=MEASURING_LIMIT)
    accelerator = Accelerator(
        cpu=cpu, mixed_precision=config.mixed_precision, log_with=tracker, project_dir=out, kwargs_handlers=[waiting]
    )
    if tensorboard:
        accelerator.init_trackers("tensorboard")
    line = ProgressLine(config, quiet or not accelerator.is_main_process)

    def report(epoch: int, loss: float, found: "Measurement") -> None:
        line.note(epoch, found)
        if tensorboard:
            accelerator.log({"training_loss": loss, **found.scalars}, step=epoch)

    try:
        with reproducible():
            return run(Trainer(config, data, accelerator), folder, line.advance, report)
    finally:
        line.close()
        if tensorboard:
            accelerator.end_training()


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Ask torch for the same bits every time and for float32 that is float32, on a GPU too; it warns where it cannot.

    Torch's flags and random state are the caller's again afterwards.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    strict, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = ((torch.backends.cudnn, "deterministic", True), (torch.backends.cudnn, "benchmark", False))
    flags += ((torch.backends.cudnn, "allow_tf32", False), (torch.backends.cuda.matmul, "allow_tf32", False))
    before = [getattr(place, name) for place, name, _ in flags]
    try:
        with torch.random.fork_rng():
            torch.use_deterministic_algorithms(True, warn_only=True)
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
        self._epochs, self._quiet = config.epochs, quiet or sys.stderr is None
        self._bar: Any = None

    def advance(self, epoch: int, batch: int, batches: int) -> None:
        """Draw the share of the epochs done."""
        if self._bar is None:  # a resumed run has its rate from what it does itself
            from tqdm import tqdm

            form = "epoch {n:.1f}/{total} |{bar:20}| {rate_fmt}, {remaining} left{postfix}"
            how = {"unit": "epoch", "disable": self._quiet, "file": sys.stderr, "mininterval": 0.5, "bar_format": form}
            self._bar = tqdm(total=self._epochs, initial=epoch - 1, **how)
        self._bar.update(epoch - 1 + batch / batches - self._bar.n)

    def note(self, epoch: int, found: "Measurement") -> None:
        """Show the measures of an epoch, and say what is undefined."""
        s = found.scalars
        if self._bar is not None:
            self._bar.set_postfix(error=f"{s['train_error']:.2%}", nc1=f"{s['nc1']:.3g}", nc3=f"{s['nc3']:.3g}")
        if found.undefined and not self._quiet:
            text = f"epoch {epoch}: undefined: {'; '.join(found.undefined)}"
            say(text) if self._bar is None else self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`, the last checkpoint stays whatever happens."""
    return run_command(parser(), train_and_tell, argv, "repeat the command to go on from the last measured epoch")


def train_and_tell(args: argparse.Namespace) -> None:
    """Train what the options say, then print the table, or with `--json` the last epoch."""
    config = config_of(args)
    out = Path(args.out or f"runs/{config.dataset}-{config.net}-{config.loss}")
    if args.threads is not None:
        _set_threads(args.threads)
    if args.device == "cuda":
        _check_cuda()
    record = train(config, out, args.device == "cpu", args.tensorboard, args.quiet)
    if not len(record.epochs) or os.environ.get("RANK", "0") != "0":  # process 0 speaks for all
        return
    zero = record.zero_error_epoch
    if args.json:
        last = {name: float(record.arrays[name][-1]) for name in SHOWN if name in record.arrays}
        last = {name: value if math.isfinite(value) else None for name, value in last.items()}  # JSON has no NaN
        print(json.dumps({"run": str(out), "epoch": int(record.epochs[-1]), "zero_error_epoch": zero, **last}))
    elif not args.quiet:
        from ufm.monitor.record import table

        print(table(record, SHOWN))
        print(f"zero training error (<= 0.1 %): {'not reached' if zero is None else f'epoch {zero}'}; stored in {out}")


def _check_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU")


def _set_threads(count: int) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    if count < 1:
        raise ValueError(f"--threads {count}: at least 1 is needed")
    torch.set_num_threads(count)
    threadpool_limits(count)  # numpy's products have a pool of their own


if __name__ == "__main__":
    sys.exit(main())
