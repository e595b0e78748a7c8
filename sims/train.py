"""`python -m sims.train`: train a network as the paper does, measure its collapse, resume where it was stopped."""

import argparse
import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sims.command import Parser, print_json, run_command
from sims.sweeps import DASK_HOST, ENGINES, PROCESSES
from sims.training.folder import CHECKPOINT, PROVENANCE, SEARCH
from sims.training.options import add_fields, config_of
from sims.training.protocol import LOSS_FUNCTIONS, TrainConfig
from sims.training.search import search
from sims.training.session import ProgressLine, check_launch, reproducible, set_threads, train
from ufm.distributed import world_size
from ufm.files.store import check_not_read
from ufm.monitor.record import TRAJECTORY
from ufm.options import device_of
from ufm.output import end_process, printable, say, show

__all__ = ["ProgressLine", "TrainConfig", "config_of", "main", "parser", "reproducible", "train"]

ACCELERATE_DEVICE = "ACCELERATE_TORCH_DEVICE"  # the variable that accelerate reads
PRINTED = ("train_error", "test_error", "nc1", "nc2_equinorm", "nc2_maxangle", "nc3", "nc4", "loss", "loss_perp", "robustness")


def parser() -> Parser:
    """The command line: a cell of the protocol, every field of its configuration as an option, and the folder of the run."""
    p = Parser(prog="python -m sims.train", description=__doc__, shared=("json", "quiet"))
    p.add_argument("--dataset", help="digits (default; embedded), mnist, fashionmnist, cifar10, svhn, stl10, cifar10-jpeg")
    p.add_argument("--net", help="mlp (default), vgg11, vgg13, resnet18, ..., densenet250")
    p.add_argument("--loss", choices=LOSS_FUNCTIONS, help="loss (default mse); a cell is a dataset, net and loss")
    p.add_argument("--config", metavar="FILE.json", help="a configuration (default: the shipped cell of dataset, net and loss)")
    p.add_argument("--out", metavar="RUN", help="folder of the run (default runs/DATASET-NET-LOSS); resumes an interrupted run")
    p.add_shared("epochs", "the cell's")
    add_fields(p)
    p.add_argument(
        "--search", action="store_true", help="train at every rate of --lr-grid first (25 unless given), then with the best"
    )
    p.add_argument("--engine", help=f"of the search (default {PROCESSES}): {ENGINES}")
    p.add_argument("--jobs", type=int, help="runs of the search at a time (default 1)")
    p.add_shared("device", "auto", default="auto")
    p.add_argument("--cpu", action="store_const", dest="device", const="cpu", help="do not use a GPU, same as --device cpu")
    p.add_shared("threads", "the library's own choice")
    p.add_argument("--tensorboard", action="store_true", help="log the measures for TensorBoard under RUN")
    return p


@contextlib.contextmanager
def accelerate_on(device: str, engine: str) -> Iterator[None]:
    """Have accelerate take a device like cuda:1, here and in the processes of a search; auto, cpu and cuda it knows by itself.

    Raises ValueError for a device that cannot be used, and for such a one with several processes or workers of a scheduler.
    """
    if device == "auto" or (name := device_of(device)) in ("cpu", "cuda"):
        yield
        return
    if world_size() > 1:
        raise ValueError(f"device {device!r} would be that of all {world_size()} processes: use cpu, cuda or auto")
    if engine.startswith(DASK_HOST):
        raise ValueError(f"device {device!r} is one of this machine: with dask://HOST:PORT use cpu, cuda or auto")
    import torch

    before = os.environ.get(ACCELERATE_DEVICE)
    os.environ[ACCELERATE_DEVICE] = name
    try:
        with torch.cuda.device(name) if name.startswith("cuda") else contextlib.nullcontext():  # the GPU that is stored
            yield
    finally:
        del os.environ[ACCELERATE_DEVICE]
        if before is not None:
            os.environ[ACCELERATE_DEVICE] = before


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`, the last checkpoint stays whatever happens."""
    return run_command(parser(), train_and_tell, argv, "repeat the command to go on from the last measured epoch")


def train_and_tell(args: argparse.Namespace) -> None:
    """Train what the options say, then print the table, or with `--json` the last epoch."""
    alone = [name for name in ("engine", "jobs", "lr_grid") if getattr(args, name) is not None]
    if alone and not args.search:
        raise ValueError(f"--{alone[0].replace('_', '-')} goes with --search: give both, or neither")
    config = config_of(args)
    out = Path(args.out or f"runs/{config.dataset}-{config.net}-{config.loss}")
    for name in (PROVENANCE, CHECKPOINT, SEARCH, TRAJECTORY):
        check_not_read(out / name, *([] if args.config is None else [args.config]))
    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"--threads {args.threads}: at least 1 is needed")
        set_threads(args.threads)
    engine = PROCESSES if args.engine is None else args.engine
    with accelerate_on(args.device, engine):
        if args.search:
            check_launch()
            how = engine, 1 if args.jobs is None else args.jobs, partial(say, quiet=args.quiet)
            config = search(config, out, args.device == "cpu", args.threads or 1, *how)
        record = train(config, out, args.device == "cpu", args.tensorboard, args.quiet)
    if not len(record.epochs) or os.environ.get("RANK", "0") != "0":  # process 0 answers for all
        return
    zero = record.zero_error_epoch
    if args.json:
        last = {name: float(record.arrays[name][-1]) for name in PRINTED if name in record.arrays}
        print_json({"run": str(out), "epoch": int(record.epochs[-1]), "zero_error_epoch": zero, **last})
    elif not args.quiet:
        from ufm.monitor.record import table

        show(table(record, PRINTED))
        reached = "not reached" if zero is None else f"epoch {zero}"
        show(f"zero training error (<= 0.1 %): {reached}; stored in {printable(str(out))}")


if __name__ == "__main__":
    end_process(main())
