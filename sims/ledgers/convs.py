"""The convolutional networks of the study: every linear operation commutes with the mean over positions.

Convolutions are 3x3 of stride 1 with circular padding, a pooling averages 2x2 positions of a map of even side, and norms act on
channels. The channel means after such an operation are an affine function of those before it, so that by the theorem it raises
no omega of the channel means either: they have a complete ledger of their own, in which only activations gain. What an activation
gains in it is new, or it was in the arrangement of the positions before. The states after the last pooling are small enough to be
measured whole: `tail`.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from sims.ledgers.nets import ACTIVATIONS, CELL_LOSSES, cell_name, check_choices

MAP_NORMS: dict[str, type[nn.Module] | None] = {"batch": nn.BatchNorm2d, "none": None}
SMALLEST_SIDE = 4  # maps of this side are not pooled any more


@dataclass(frozen=True)
class ConvCell:
    """One convolutional network of the study and how it is trained; `width` channels in two blocks, then twice as many."""

    loss: str = "mse"
    depth: int = 7
    width: int = 16
    norm: str = "batch"
    activation: str = "relu"
    residual: bool = False
    decay: float = 5e-4
    random_labels: bool = False
    epochs: int = 150
    rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self, {"loss": CELL_LOSSES, "activation": tuple(ACTIVATIONS), "norm": tuple(MAP_NORMS)})

    @property
    def name(self) -> str:
        """What sets the cell apart from the plain one, in words; seeds of a cell share it."""
        return f"conv {cell_name(self, ('depth', 'width', 'norm', 'activation', 'decay'))}"

    @property
    def measured(self) -> tuple[int, ...]:
        """Epochs whose ledger is taken: 0, a quarter, half, and the end."""
        return tuple(sorted({0, *(max(self.epochs // share, 1) for share in (4, 2)), self.epochs}))


class Block(nn.Module):
    """Convolution, norm, activation; added to the input where `residual`."""

    def __init__(self, cell: ConvCell, inputs: int, outputs: int) -> None:
        super().__init__()
        norm = MAP_NORMS[cell.norm]
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular", bias=norm is None)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = nn.Identity() if norm is None else norm(outputs)
        self.act = ACTIVATIONS[cell.activation]()
        self.residual = cell.residual and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, outputs, side, side)."""
        out = self.act(self.norm(self.conv(x)))
        return x + out if self.residual else out


class PositionMean(nn.Module):
    """The mean over positions: (b, channels, ...) to (b, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Means (b, channels)."""
        return x.flatten(2).mean(2)  # torch's adaptive pooling has no deterministic backward pass on a GPU


class ConvNet(nn.Module):
    """`depth` blocks, pooled after every other one while the side is even and above 4; channel means; a linear classifier.

    body  to the last pooling
    tail  the blocks after it, and the mean over positions
    """

    def __init__(self, cell: ConvCell, images: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, side, _ = images
        parts: list[tuple[str, nn.Module]] = []
        pooled = 0  # how many parts there are up to the last pooling
        for k in range(cell.depth):
            outputs = cell.width if k < 2 else 2 * cell.width
            parts.append((f"block{k + 1}", Block(cell, channels, outputs)))
            channels = outputs
            if k % 2 == 0 and k + 1 < cell.depth and side % 2 == 0 and side > SMALLEST_SIDE:
                parts.append((f"pool{k + 1}", nn.AvgPool2d(2)))
                side, pooled = side // 2, len(parts)
        parts.append(("means", PositionMean()))
        self.body = nn.Sequential(OrderedDict(parts[:pooled]))
        self.tail = nn.Sequential(OrderedDict(parts[pooled:]))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, C)."""
        return self.classifier(self.tail(self.body(x)))
