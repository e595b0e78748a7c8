"""`python -m sims.train`: train a network as the paper does, measure its collapse, resume where it was stopped."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from sims.training.config import LOSSES, TrainConfig, load_config, protocol

SHOWN = ("train_error", "test_error", "nc1", "nc2_equinorm", "nc2_maxangle", "nc3", "nc4", "loss", "loss_perp", "robustness")
CELL = {"dataset": "digits", "net": "mlp", "loss": "mse"}  # the default one
MEASURING_LIMIT = timedelta(hours=6)  # after which processes that wait for a measurement give up
NAMED = (*CELL, "epochs")  # options with a meaning of their own
NOTHING = object()  # an option that takes back what the configuration says
WORDS = {"per_class": "all", "test_per_class": "all", "pad_to": "none", "data_dir": "none", "hub": "none"}  # how it is written
HELP = {
    "lr": "learning rate (default: the tuned one of the protocol)",
    "data_dir": "folder with the official files, or none",
    "hub": "Hugging Face dataset to take instead, or none",
    "per_class": "training examples a class, or all",
    "test_per_class": "test examples a class, or all",
    "pad_to": "pad images with zeros to this side, or none",
    "normalization": "subtract mean and divide by deviation of every channel or pixel",
    "random_labels": "permute the training labels",
    "width": "factor on all channels",
    "batch_norm": "batch normalisation",
    "fixed_etf": "fix the classifier to a simplex ETF",
    "feature_decay": "penalty on features; weight decay is then the classifier's alone",
    "rescale_true": "k of Hui & Belkin",
    "rescale_target": "M of Hui & Belkin",
    "robustness": "test images attacked with DeepFool, 0 for none",
    "save_features": "measured epochs whose features are written",
    "mixed_precision": "no, fp16 or bf16",
}


def parser() -> argparse.ArgumentParser:
    """The command line: a cell of the protocol, every field of its configuration as an option, and the folder of the run."""
    p = argparse.ArgumentParser(prog="python -m sims.train", description=__doc__, allow_abbrev=False)
    p.add_argument("--dataset", help="digits (default, embedded), mnist, fashionmnist, cifar10, svhn, stl10, cifar10-jpeg")
    p.add_argument("--net", help="mlp (default), vgg11, vgg13, resnet18, ..., densenet250")
    p.add_argument("--loss", choices=LOSSES, help="default mse")
    p.add_argument("--config", metavar="FILE.json", help="a configuration instead of the shipped cell of dataset, net and loss")
    p.add_argument("--out", metavar="RUN", help="folder of the run (default runs/DATASET-NET-LOSS); resumes what it holds")
    p.add_argument("--epochs", type=int, help="scale the whole schedule to so many epochs")
    for field in fields(TrainConfig):
        if field.name not in NAMED:
            _add(p, field.name, field.type)
    p.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    p.add_argument("--threads", type=int, help="CPU threads (another number may change the last bits)")
    p.add_argument("--tensorboard", action="store_true", help="log the measures for TensorBoard under RUN")
    p.add_argument("--quiet", action="store_true", help="no progress and no table")
    return p


def config_of(args: argparse.Namespace) -> TrainConfig:
    """The configuration asked for: the file or the cell, scaled, with the options given put over it."""
    cell = {name: getattr(args, name) for name in CELL if getattr(args, name) is not None}
    if args.config is not None and cell:
        raise ValueError(f"--config says what to train, and --{next(iter(cell))} says it again: give one of them")
    config = protocol(**CELL | cell) if args.config is None else load_config(Path(args.config))
    if args.epochs is not None:
        config = config.scaled(args.epochs)
    names = [field.name for field in fields(TrainConfig) if field.name not in NAMED]
    given: dict[str, Any] = {}
    values: dict[str, Any] = {name: getattr(args, name) for name in names}
    for name, value in values.items():
        if value is not None:
            value = None if value is NOTHING else value
            changed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value}
            given |= changed
    config = replace(config, **given)
    _ = config.rate
    return config


def train(config: TrainConfig, out: Path, cpu: bool = False, tensorboard: bool = False, quiet: bool = True) -> Any:
    """Train into the folder `out`, going on where it stands. Returns the Record of what was measured."""
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    from sims.training.data import load
    from sims.training.folder import RunFolder
    from sims.training.loop import Trainer, run

    folder = RunFolder(out, config)
    data = load(config.data)
    make_deterministic()
    tracker = "tensorboard" if tensorboard else None
    # process 0 measures while the others wait for it, far longer than any exchange of gradients takes
    waiting = InitProcessGroupKwargs(timeout=MEASURING_LIMIT)
    accelerator = Accelerator(
        cpu=cpu, mixed_precision=config.mixed_precision, log_with=tracker, project_dir=out, kwargs_handlers=[waiting]
    )
    if tensorboard:
        accelerator.init_trackers("tensorboard")
    line = ProgressLine(config, quiet or not accelerator.is_main_process)

    def report(epoch: int, loss: float, found: Any) -> None:
        line.note(epoch, found)
        if tensorboard:
            accelerator.log({"training_loss": loss, **found.scalars}, step=epoch)

    try:
        return run(Trainer(config, data, accelerator), folder, line.advance, report)
    finally:
        line.close()
        if tensorboard:
            accelerator.end_training()


def make_deterministic() -> None:
    """Ask torch for the same bits every time and for float32 that is float32, on a GPU too; it warns where it cannot."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


class ProgressLine:
    """Batches done, their rate and the time left on standard error, with the last measures."""

    def __init__(self, config: TrainConfig, quiet: bool) -> None:
        from tqdm import tqdm

        form = "epoch {n:.1f}/{total} |{bar:20}| {rate_fmt}, {remaining} left{postfix}"
        self._bar = tqdm(total=config.epochs, unit="epoch", disable=quiet, file=sys.stderr, mininterval=0.5, bar_format=form)
        self._started = False

    def advance(self, epoch: int, batch: int, batches: int) -> None:
        """Draw the share of the epochs done."""
        done = epoch - 1 + batch / batches
        if not self._started:  # a resumed run has its rate from what it does itself
            self._bar.initial, self._started = epoch - 1, True
            self._bar.n = self._bar.initial
        self._bar.update(done - self._bar.n)

    def note(self, epoch: int, found: Any) -> None:
        """Show the measures of an epoch, and say what is undefined."""
        s = found.scalars
        self._bar.set_postfix(error=f"{s['train_error']:.2%}", nc1=f"{s['nc1']:.3g}", nc3=f"{s['nc3']:.3g}")
        if found.undefined and not self._bar.disable:
            self._bar.write(f"epoch {epoch}: undefined: {'; '.join(found.undefined)}", file=sys.stderr)

    def close(self) -> None:
        """End the line."""
        self._bar.close()


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 done, 2 bad input with one line on standard error, 130 interrupted (the last checkpoint stays)."""
    args = parser().parse_args(argv)
    try:
        config = config_of(args)
        out = Path(args.out or f"runs/{config.dataset}-{config.net}-{config.loss}")
        if args.threads is not None:
            _set_threads(args.threads)
        record = train(config, out, args.cpu, args.tensorboard, args.quiet)
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)  # torch adds a trace of its own
        print(f"sims.train: error: {first}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sims.train: interrupted; repeat the command to go on from the last measured epoch", file=sys.stderr)
        return 130
    if not args.quiet and len(record.epochs):
        from ufm.monitor.record import table

        print(table(record, SHOWN))
        zero = record.zero_error_epoch
        print(f"zero training error (<= 0.1 %): {'not reached' if zero is None else f'epoch {zero}'}; stored in {out}")
    return 0


def _set_threads(count: int) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    if count < 1:
        raise ValueError(f"--threads {count}: at least 1 is needed")
    torch.set_num_threads(count)
    threadpool_limits(count)  # numpy's products have a pool of their own


def _add(p: argparse.ArgumentParser, name: str, kind: Any) -> None:
    """The option of one field of the configuration; None, its default, leaves the field as it is."""
    option, text = f"--{name.replace('_', '-')}", HELP.get(name)
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if kind is bool:
        p.add_argument(option, action=argparse.BooleanOptionalAction, help=text, default=None)
    elif get_args(kind):
        p.add_argument(option, type=get_args(kind)[0], nargs="+", help=text)
    else:
        p.add_argument(option, type=_or_word(kind, WORDS[name]) if name in WORDS else kind, help=text)


def _or_word(kind: type, word: str) -> Callable[[str], object]:
    """What turns the text of an option into its type, or the word into NOTHING."""

    def parse(text: str) -> object:
        return NOTHING if text == word else kind(text)

    parse.__name__ = f"{kind.__name__} or {word!r}"  # argparse names it where it fails
    return parse


if __name__ == "__main__":
    sys.exit(main())
