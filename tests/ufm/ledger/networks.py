"""Networks of every kind of linear part, drawn at random, and models that a user could bring."""

import numpy as np
import torch
from torch import Tensor, nn


class Blocks(nn.Module):
    """Residual, concatenating and pooling blocks around an activation, an image in, C logits out; all of it in float64."""

    def __init__(self, rng: np.random.Generator, C: int, activation: type[nn.Module]) -> None:
        super().__init__()
        channels = int(rng.integers(2, 4))
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = activation()
        self.branch = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.mixed = nn.Conv2d(2 * channels, 2, 1)
        self.pool = nn.AvgPool2d(2)
        self.hidden = nn.Linear(8, int(rng.integers(5, 12)))
        self.layernorm = nn.LayerNorm(self.hidden.out_features) if rng.random() < 0.5 and activation is not nn.Identity else None
        self.head = nn.Linear(self.hidden.out_features, C)
        self.order = rng.random() < 0.5
        with torch.no_grad():
            self.norm.get_buffer("running_mean").normal_()
            self.norm.get_buffer("running_var").uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = x + self.act(self.branch(x))  # the skip and the branch are the state in between
        x = torch.cat([x, self.act(x * 0.5)], 1) if self.order else torch.cat([self.act(-x), x], 1)
        x = self.pool(self.mixed(x))
        x = self.hidden(x.flatten(1))
        x = self.act(x if self.layernorm is None else self.layernorm(x))
        return self.head(x)


class DataDependent(nn.Module):
    """Control flow that torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if h.sum() > 1e9:
            h = -h
        return self.second(torch.relu(h))


class InPlaceSkip(nn.Module):
    """A skip whose tensor an in-place ReLU of the branch changes: what is added is the changed one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.head = nn.Linear(6, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.head(h + 0.5 * self.act(h))


class Remembering(nn.Module):
    """A model that stores what it computed, has dropout, and uses a layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop, self.head = nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.drop(torch.tanh(self.layer(torch.tanh(self.layer(x)))))
        return self.head(self.last)


def images(rng: np.random.Generator, C: int, n: int, side: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Batches of images (b, 1, side, side) in float64 with unequal classes and class means far from zero."""
    y = np.concatenate(
        [np.arange(C), np.arange(C), np.arange(C), rng.choice(C, n - 3 * C, p=np.arange(1, C + 1) / sum(range(C + 1)))]
    )
    rng.shuffle(y)
    x = rng.standard_normal((n, 1, side, side)) + 2 * rng.standard_normal((C, 1, side, side))[y] + 5
    return [(torch.from_numpy(x[k : k + 64]), torch.from_numpy(y[k : k + 64])) for k in range(0, n, 64)]


def vectors(n: int = 120, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    """Batches of vectors (b, 6), three classes."""
    torch.manual_seed(4)
    y = torch.arange(n) % 3
    x = torch.randn(n, 6, dtype=dtype) + 2 * torch.randn(3, 6, dtype=dtype)[y]
    return [(x[k : k + 50], y[k : k + 50]) for k in range(0, n, 50)]
