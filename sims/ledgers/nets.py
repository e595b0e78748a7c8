"""The perceptrons of the study, whose every ingredient is a choice; the convolutional networks are in `convs`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sims.training.nets import freeze_as_simplex_etf

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "identity": nn.Identity}
CELL_LOSSES = ("mse", "ce")
FLAGS = ("residual", "random_labels", "fixed_etf")
NORMS: dict[str, type[nn.Module] | None] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": None}


@dataclass(frozen=True)
class Cell:
    """One perceptron of the study and how it is trained."""

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
        check_choices(self, {"loss": CELL_LOSSES, "activation": tuple(ACTIVATIONS), "norm": tuple(NORMS)})

    @property
    def name(self) -> str:
        """What sets the cell apart from the plain one, in words; seeds of a cell share it."""
        return cell_name(self, ("depth", "width", "norm", "activation", "decay"))

    @property
    def measured(self) -> tuple[int, ...]:
        """Epochs whose ledger is taken: 0, a twentieth, a quarter, half, and the end."""
        return tuple(sorted({0, *(max(self.epochs // share, 1) for share in (20, 4, 2)), self.epochs}))


def check_choices(cell: object, allowed: dict[str, tuple[str, ...]]) -> None:
    """Raise ValueError for a field of a cell that is none of those allowed, and for sizes that are not positive."""
    for name, values in allowed.items():
        if getattr(cell, name) not in values:
            raise ValueError(f"{name} = {getattr(cell, name)!r}: it is one of {', '.join(values)}")
    for name in ("depth", "width", "epochs", "rate"):
        if not getattr(cell, name) > 0:
            raise ValueError(f"{name} = {getattr(cell, name)}: it must be positive")


def cell_name(cell: Any, told: tuple[str, ...]) -> str:
    """The loss, those fields in `told` that are not the default, and the flags that are set."""
    plain = type(cell)()
    differing = [f"{key}={getattr(cell, key)}" for key in told if getattr(cell, key) != getattr(plain, key)]
    return " ".join([cell.loss, *differing, *(key for key in FLAGS if getattr(cell, key, False))])


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
