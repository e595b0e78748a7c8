"""`python -m benchmarks.cells`: what the fifteen cells of the paper cost, counted, timed on one core, and estimated for a GPU.

Writes docs/cells.md. Operations and memory are counted on tensors without data; the time of a training step is measured here.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.__main__ import machine
from sims.training.loop import network_of_images
from sims.training.protocol import TrainConfig, cells, protocol
from ufm.files.store import write_text

PAGE = Path(__file__).parents[1] / "docs" / "cells.md"
CLASSES, COUNTED_BATCH = 10, 2
DATA = {  # channels, side, training and test images as published
    "mnist": (1, 28, 60_000, 10_000),
    "fashionmnist": (1, 28, 60_000, 10_000),
    "svhn": (3, 32, 73_257, 26_032),
    "cifar10": (3, 32, 50_000, 10_000),
    "stl10": (3, 96, 5_000, 8_000),
}
STEP_FLOPS = 1.5e11  # about what a timed step may take
GPU_FLOPS, GPU_BYTES, PASSES = 20e12, 3e12, 6
HEAD = """# What the paper's networks cost: the fifteen cells

A *cell* is one pair of dataset and network in the paper's experiments. This page estimates the cost of one training run of each
(`python -m benchmarks.cells`): 350 epochs in batches of 128, float32, 50 of the epochs measured on the training and the test set.
The estimate does not include the robustness measure (100 images attacked by DeepFool), nor the search for the learning rate,
which trains 25 such runs.

"""
COLUMNS = (
    "cell",
    "images",
    "parameters",
    "FLOPs per epoch",
    "memory of a step",
    "all activations kept",
    "core-hours",
    "GPU-hours",
)
METHOD = """
- **FLOPs per epoch** (two per multiply-add): matrix products and convolutions of the forward and the backward pass, as counted by
  `torch.utils.flop_counter`, including what the memory-efficient DenseNets compute twice. Batch normalisation is not
  counted.
- **Memory of a step**: the tensors kept for the backward pass of 128 images, each counted once, and weights, gradients and
  momentum; additional memory of the library is not included. *All activations kept* is the same without recomputation.
- **Core-hours**: processor time of one thread for a training step of as many images as make about {step:.1e} FLOPs (at most 128),
  the median of three, scaled to the images of 350 epochs and to 50 measurements, which need the forward pass only. Timed on
  {where}
- **GPU-hours**: estimated, not measured. The FLOPs at 20 TFLOP/s (30 % of an H100's 67 in float32), plus six passes over all
  activations at 3 TB/s, which dominate for the DenseNets.
"""


@dataclass(frozen=True)
class Cost:
    """Of a cell: parameters; FLOPs of an image forward, and in training; bytes kept of an image, and without recomputing."""

    config: TrainConfig
    parameters: int
    forward: float
    training: float
    kept: float
    plainly_kept: float

    @property
    def images(self) -> int:
        """Training images of an epoch."""
        per_class = self.config.per_class
        return DATA[self.config.dataset][2] if per_class is None else per_class * CLASSES

    @property
    def measured_images(self) -> int:
        """Images of a measurement."""
        return self.images + DATA[self.config.dataset][3]

    def step_bytes(self, kept: float) -> float:
        """Bytes that a step needs: activations of a batch, and weights, gradients and momentum."""
        return kept * self.config.batch_size + 3 * 4 * self.parameters

    def hours(self, seconds_an_image: float) -> float:
        """Of a whole run, from the seconds that an image takes in training."""
        measuring = len(self.config.measured) * self.measured_images * self.forward / self.training
        return seconds_an_image * (self.config.epochs * self.images + measuring) / 3600

    @property
    def gpu_seconds(self) -> float:
        """What an image is estimated to take on a GPU."""
        return self.training / GPU_FLOPS + PASSES * self.plainly_kept / GPU_BYTES


def cost_of(config: TrainConfig) -> Cost:
    """The cost of a cell, counted on tensors without data."""
    with torch.device("meta"):
        model = _network(config).train()
        x = torch.empty(COUNTED_BATCH, *_shape(config))
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            model(x)
        kept: dict[int, int] = {}
        with FlopCounterMode(display=False) as training, _noted(kept, model):
            model(x).sum().backward()
    parameters = sum(p.numel() for p in model.parameters())
    counts = forward.get_total_flops() / COUNTED_BATCH, training.get_total_flops() / COUNTED_BATCH
    size = sum(kept.values()) / COUNTED_BATCH
    plainly = cost_of(replace(config, memory_efficient=False)).kept if config.memory_efficient else size
    return Cost(config, parameters, *counts, size, plainly)


@contextmanager
def _noted(kept: dict[int, int], model: nn.Module) -> Iterator[None]:
    """Note the bytes of every storage that is kept for the backward pass, the weights' own left out."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    alive: list[Tensor] = []  # so that no storage takes the place of another

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    def same(tensor: Tensor) -> Tensor:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, same):
        yield


def _network(config: TrainConfig) -> nn.Module:
    return network_of_images(config, _shape(config), CLASSES)


def _shape(config: TrainConfig) -> tuple[int, int, int]:
    channels, side = DATA[config.dataset][:2]
    return channels, config.pad_to or side, config.pad_to or side


def seconds_an_image(cost: Cost) -> float:
    """Processor time of a training step, of an image, on one thread; that of the optimiser is for batches of 128."""
    model, count = _network(cost.config).train(), int(min(128, max(COUNTED_BATCH, STEP_FLOPS / cost.training)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    x, y = torch.randn(count, *_shape(cost.config)), torch.zeros(count, CLASSES)

    def passes() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()

    def median(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
        return sorted(times)[1]

    passes()
    optimizer.step()
    return median(passes) / count + median(optimizer.step) / cost.config.batch_size


def line(cost: Cost, seconds: float) -> str:
    """The line of a cell."""
    config = cost.config
    name = f"{config.dataset}, {config.net}" + ", memory-efficient" * config.memory_efficient
    flops = f"{cost.training * cost.images:.2e}"
    memory, plainly = (f"{cost.step_bytes(kept) / 2**30:.1f} GiB" for kept in (cost.kept, cost.plainly_kept))
    hours, gpu = cost.hours(seconds), cost.hours(cost.gpu_seconds)
    return f"| {name} | {cost.images:,} | {cost.parameters:,} | {flops} | {memory} | {plainly} | {hours:,.0f} | {gpu:.2g} |"


def main(argv: list[str] | None = None) -> int:
    """Count, time, and write the page."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=__doc__)
    p.add_argument("--out", type=Path, default=PAGE, metavar="PAGE.md", help="where the page goes (default docs/cells.md)")
    out = p.parse_args(argv).out
    torch.set_num_threads(1)
    lines = []
    for cell in paper_cells():
        cost = cost_of(protocol(*cell.split("-")))
        lines.append(line(cost, seconds_an_image(cost)))
        print(lines[-1], flush=True)
    where = f"{machine()}; {datetime.date.today():%Y-%m-%d}, beside other processes."
    head = f"{HEAD}| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    write_text(out, head + "\n".join(lines) + "\n" + METHOD.format(step=STEP_FLOPS, where=where))
    return 0


def paper_cells() -> list[str]:
    """The cells of the MSE paper, by data set."""
    names = [cell for cell in cells() if cell.endswith("-mse") and cell.split("-")[0] in DATA and "mlp" not in cell]
    return sorted(names, key=lambda cell: list(DATA).index(cell.split("-")[0]))


if __name__ == "__main__":
    sys.exit(main())
