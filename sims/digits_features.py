"""`python -m sims.digits_features --out features.npz`: last-layer features of a real network, trained in seconds on digits.

A ReLU network 64-256-width-10 on scikit-learn's digits (1740 images of 8 x 8 pixels, 174 a class), mean squared error to one-hot
labels, SGD with momentum 0.9 and weight decay, to zero training error. The file holds `features` (n, P) float32, `labels` (n,),
the last layer `W` (C, P) and `b` (C,), and `config` (JSON text). Some ReLU units end dead, so Sigma_W is rank-deficient, as it
is for most real networks: `python -m ufm.flow --features features.npz` refuses it, and `--reduce` takes it.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from sims.command import Parser, print_json, run_command
from sims.training.digits import digits_table
from ufm.arrays import as_numpy
from ufm.files import store
from ufm.files.json_objects import JsonObject
from ufm.flow.progress import PROGRESS_SECONDS
from ufm.output import printable, say, show

DIGIT_CLASSES, IMAGES_PER_DIGIT = 10, 174  # the smallest of the ten classes has 174 images
HIDDEN_UNITS, DIGITS_BATCH, DIGITS_MOMENTUM = 256, 64, 0.9
LARGEST_WIDTH = 2**20  # a network of 1 GB, trained for days


@dataclass(frozen=True)
class Training:
    """What decides a training run, apart from the constants above. Raises ValueError for values out of range."""

    epochs: int = 120
    seed: int = 0
    width: int = 128
    learning_rate: float = 0.5
    weight_decay: float = 2e-4

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.width < 1:
            raise ValueError(f"epochs = {self.epochs}, width = {self.width}: both must be at least 1")
        if self.width > LARGEST_WIDTH:
            raise ValueError(f"width = {self.width}: the last layer has at most {LARGEST_WIDTH} features here")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed}: it must be in 0..2^63 - 1")
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning rate = {self.learning_rate}: it must be positive and finite")
        if not (np.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight decay = {self.weight_decay}: it must be finite and not negative")


def balanced_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The first 174 images of every digit, pixels in [0, 1], and their labels. (n, 64) float32, (n,) int64"""
    table = digits_table()
    pixels, labels = table[:, :-1].astype(np.float64), table[:, -1].astype(np.int64)
    rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:IMAGES_PER_DIGIT] for c in range(DIGIT_CLASSES)]))
    return torch.from_numpy((pixels[rows] / 16).astype(np.float32)), torch.from_numpy(labels[rows])


def relu_network(pixels: int, width: int) -> torch.nn.Sequential:
    """Linear, ReLU, Linear, ReLU, Linear: the features are what the last Linear is given. (n, pixels) -> (n, C)"""
    return torch.nn.Sequential(
        torch.nn.Linear(pixels, HIDDEN_UNITS),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN_UNITS, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, DIGIT_CLASSES),
    )


def train_network(images: torch.Tensor, labels: torch.Tensor, config: Training, quiet: bool = False) -> torch.nn.Sequential:
    """A network trained by SGD, learning rate falling as a cosine to zero; the same for the same seed, machine and versions.

    The loss is torch.nn.MSELoss, the mean over batch AND classes. Progress goes to standard error.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = relu_network(images.shape[1], config.width)
        targets = torch.nn.functional.one_hot(labels, DIGIT_CLASSES).to(images.dtype)
        optimizer = torch.optim.SGD(net.parameters(), config.learning_rate, DIGITS_MOMENTUM, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
        loss_of, told = torch.nn.MSELoss(), time.monotonic()
        for epoch in range(1, config.epochs + 1):
            for batch in torch.randperm(len(images)).split(DIGITS_BATCH):
                optimizer.zero_grad()
                loss_of(net(images[batch]), targets[batch]).backward()
                optimizer.step()
            schedule.step()
            if not quiet and (epoch == config.epochs or time.monotonic() - told > PROGRESS_SECONDS):
                told = time.monotonic()
                say(f"epoch {epoch} of {config.epochs}: {_standing(net, images, labels, targets)}")
    return net


@torch.no_grad()
def _standing(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> str:
    outputs = net(images)
    loss, wrong = float(torch.nn.functional.mse_loss(outputs, targets)), int((outputs.argmax(1) != labels).sum())
    return f"mean squared error {loss:.2e}, {wrong} of {len(labels)} misclassified"


@torch.no_grad()
def last_layer(net: torch.nn.Sequential, images: torch.Tensor) -> dict[str, np.ndarray]:
    """`features` (n, P), what the last Linear is given in eval mode, and that layer's `W` (C, P) and `b` (C,).

    Raises ValueError where training has diverged.
    """
    features, last = net.eval()[:-1](images), net[-1]
    if not bool(torch.isfinite(features).all()):
        raise ValueError("training diverged: the features are not finite; use a smaller learning rate")
    return {"features": as_numpy(features), "W": as_numpy(last.weight), "b": as_numpy(last.bias)}  # type: ignore[operator,union-attr]


def parser() -> Parser:
    """The command line."""
    p = Parser(
        prog="python -m sims.digits_features",
        description="Train a small ReLU network on scikit-learn's digits and write its last-layer features.",
        shared=("seed", "json", "quiet"),
    )
    defaults = Training()
    p.add_argument("--out", metavar="FILE.npz", required=True, help="where features, labels, W, b and config go")
    p.add_shared("epochs", default=defaults.epochs)
    p.add_argument("--width", type=int, default=defaults.width, help="features P of the last layer")
    rate = p.add_argument("--lr", type=float, default=defaults.learning_rate, help="learning rate")
    p.add_former("--learning-rate", rate)
    p.add_argument("--weight-decay", type=float, default=defaults.weight_decay, help="of SGD")
    return p


def write(out: Path, config: Training, quiet: bool) -> JsonObject:
    """Train, write the file, and return what is in it. Raises ValueError for an unwritable file or a training that diverges."""
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: the name must end in .npz")
    store.check_writable(out)
    images, labels = balanced_digits()
    arrays = last_layer(train_network(images, labels, config, quiet), images)
    facts = asdict(config) | {"batch": DIGITS_BATCH, "momentum": DIGITS_MOMENTUM} | store.provenance()
    text = np.array(json.dumps(facts, sort_keys=True))
    store.save_arrays(out, arrays | {"labels": as_numpy(labels), "config": text})
    n, P = arrays["features"].shape
    return {"file": str(out), "n": n, "C": DIGIT_CLASSES, "P": P, "dead": int((arrays["features"] == 0).all(0).sum())}


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), train_and_write, argv)


def train_and_write(args: argparse.Namespace) -> None:
    """Train as asked for, and tell what the file holds."""
    torch.set_num_threads(1)  # the network is too small for more, and the sums keep their order
    config = Training(args.epochs, args.seed, args.width, args.lr, args.weight_decay)
    about = write(Path(args.out), config, args.quiet)
    if args.json:
        print_json(about)
    elif not args.quiet:
        told = about | {"file": printable(about["file"])}
        show("{file}: {n} examples in {C} classes, {P} features, {dead} of them dead ReLU units (always 0)".format(**told))


if __name__ == "__main__":
    sys.exit(main())
