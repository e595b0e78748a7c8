"""The networks and the training of the study: multilayer perceptrons whose every ingredient is a choice, and their ledgers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sims.ledgers.entry import entry
from sims.training.data import Data
from sims.training.examples import Examples
from sims.training.nets import freeze_as_simplex_etf
from ufm.arrays import as_numpy
from ufm.ledger import Sketch, ledger
from ufm.ledger.force_balance import force_balance

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "identity": nn.Identity}
NORMS: dict[str, type[nn.Module] | None] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": None}
BATCH = 100
MOMENTUM = 0.9


@dataclass(frozen=True)
class Cell:
    """One network of the study and how it is trained; `epochs` measured are at 0, a twentieth, a quarter, and the end."""

    loss: str = "mse"
    depth: int = 3
    width: int = 64
    norm: str = "batch"
    activation: str = "relu"
    residual: bool = False
    decay: float = 5e-4
    random_labels: bool = False
    fixed_etf: bool = False
    epochs: int = 150
    rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("loss", ("mse", "ce")), ("activation", tuple(ACTIVATIONS)), ("norm", tuple(NORMS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r}: it is one of {', '.join(allowed)}")
        for name in ("depth", "width", "epochs", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be positive")

    @property
    def name(self) -> str:
        """What sets the cell apart from the plain one, in words; seeds of a cell share it."""
        plain = Cell()
        told = [
            f"{key}={getattr(self, key)}"
            for key in ("depth", "width", "norm", "activation", "decay")
            if getattr(self, key) != getattr(plain, key)
        ]
        flags = [key for key in ("residual", "random_labels", "fixed_etf") if getattr(self, key)]
        return " ".join([self.loss, *told, *flags])

    @property
    def measured(self) -> tuple[int, ...]:
        """Epochs whose ledger is taken."""
        return tuple(sorted({0, max(self.epochs // 20, 1), max(self.epochs // 4, 1), self.epochs}))


class Perceptron(nn.Module):
    """`depth` times linear, norm, activation (added to a skip where residual), then a linear classifier."""

    def __init__(self, cell: Cell, inputs: int, classes: int) -> None:
        super().__init__()
        widths = [inputs] + [cell.width] * cell.depth
        bias = cell.norm != "batch"
        self.linears = nn.ModuleList([nn.Linear(widths[k], widths[k + 1], bias=bias) for k in range(cell.depth)])
        norm = NORMS[cell.norm]
        self.norms = nn.ModuleList([nn.Identity() if norm is None else norm(cell.width) for _ in range(cell.depth)])
        self.acts = nn.ModuleList([ACTIVATIONS[cell.activation]() for _ in range(cell.depth)])
        self.classifier = nn.Linear(cell.width, classes)
        self.residual = cell.residual
        if cell.fixed_etf:
            freeze_as_simplex_etf(self.classifier, torch.Generator().manual_seed(cell.seed))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, C)."""
        x = x.flatten(1)
        for k, (linear, norm, act) in enumerate(zip(self.linears, self.norms, self.acts, strict=True)):
            out = act(norm(linear(x)))
            x = x + out if self.residual and k else out
        return self.classifier(x)


def loss_of(cell: Cell) -> Callable[[Tensor, Tensor], Tensor]:
    """What is minimised, as a mean over a batch: cross-entropy, or torch's mean square against one-hot labels."""
    if cell.loss == "ce":
        return F.cross_entropy
    return lambda logits, y: F.mse_loss(logits, F.one_hot(y, logits.shape[1]).to(logits.dtype))


def run_cell(cell: Cell, data: Data, forces: bool = True) -> Iterator[dict[str, Any]]:
    """Train a cell and yield its ledgers of training and test examples at the measured epochs; no global state is touched.

    SGD with momentum, the rate divided by 10 at two thirds and five sixths. Labels, where random, are permuted with the seed.
    Raises ValueError where training diverges.
    """
    device = torch.device("cpu")
    train, test = (Examples.of(split, data.normalizer, device) for split in (data.train, data.test))
    if cell.random_labels:
        shuffled = np.random.default_rng(cell.seed).permutation(as_numpy(train.labels))
        train = replace(train, labels=torch.from_numpy(shuffled))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        net = Perceptron(cell, int(np.prod(data.train.images.shape[1:])), data.classes)
    loss, n = loss_of(cell), len(train.labels)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], cell.rate, MOMENTUM, weight_decay=cell.decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * cell.epochs // 3, 5 * cell.epochs // 6])
    for epoch in range(cell.epochs + 1):
        if epoch:
            net.train()
            order = torch.from_numpy(np.random.default_rng((cell.seed, epoch)).permutation(n))
            for start in range(0, n - 1, BATCH):
                x, y = train.batch(order[start : start + BATCH])
                optimizer.zero_grad()
                value = loss(net(x), y)
                value.backward()
                optimizer.step()
            if not bool(torch.isfinite(value)):
                raise ValueError(f"{cell.name}, seed {cell.seed}: training diverged in epoch {epoch}; lower the rate {cell.rate}")
            schedule.step()
        if epoch in cell.measured:
            yield from _measured_entries(cell, net, train, test, loss, optimizer, epoch, forces)


def _measured_entries(
    cell: Cell, net: Perceptron, train: Examples, test: Examples, loss: Any, optimizer: Any, epoch: int, forces: bool
) -> Iterator[dict[str, Any]]:
    for examples, what in ((train, "train"), (test, "test")):
        batches = list(examples.in_order())
        balance = force_balance(net, batches, net.classifier, loss, cell.decay, optimizer) if forces and what == "train" else None
        stored = entry(ledger(net, batches, Sketch(), cell.seed), cell.name, what, epoch, balance)
        net.eval()
        with torch.no_grad():
            wrong = sum(int((net(x).argmax(1) != y).sum()) for x, y in batches)
        yield stored | {"error": wrong / len(examples.labels), "seed": cell.seed}
