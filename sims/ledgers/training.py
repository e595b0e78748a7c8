"""Training and measuring a network of the study, on a CPU or a GPU; no global state is touched."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sims.ledgers.convs import ConvCell, ConvNet
from sims.ledgers.entry import entry, force_rows, plain
from sims.ledgers.nets import Cell, Perceptron
from sims.ledgers.summary import MEANS
from sims.training.data import Data
from sims.training.examples import Examples
from sims.training.session import reproducible
from ufm.files.json_objects import JsonObject
from ufm.ledger import ChannelMeans, Sketch, ledger
from ufm.ledger.force_balance import ForceBalance, force_balance

BATCH_SIZE = 100
GPU_MEASURING_BATCH = 4096  # for networks this small a GPU needs as long for a few examples as for many
MOMENTUM = 0.9
LAST_STAGE_FEATURES = 1024  # features of a state of the last stage, with its skip, on images of 32 x 32
WHOLE_STATES, LAST_STAGE = "states", "last stage"  # what a ledger is of, beside the channel means
NetworkCell = Cell | ConvCell
BatchLoss = Callable[[Tensor, Tensor], Tensor]
BatchList = list[tuple[Tensor, Tensor]]


def loss_of(cell: NetworkCell) -> BatchLoss:
    """What is minimised, as a mean over a batch: cross-entropy, or torch's mean square against one-hot labels."""
    if cell.loss == "ce":
        return F.cross_entropy
    return lambda logits, y: F.mse_loss(logits, F.one_hot(y, logits.shape[1]).to(logits.dtype))


def run_cell(cell: NetworkCell, data: Data, forces: bool = True, device: str = "cpu") -> Iterator[JsonObject]:
    """Train a cell and yield its ledgers of training and test examples at the measured epochs; no global state is touched.

    SGD with momentum, the rate divided by 10 at two thirds and five sixths. Labels, where random, are permuted with the seed.
    On a GPU with deterministic kernels. Raises ValueError where training diverges.
    """
    train, test = (Examples.of(split, data.normalizer, torch.device(device)) for split in (data.train, data.test))
    if cell.random_labels:
        shuffled = np.random.default_rng(cell.seed).permutation(data.train.labels)
        train = replace(train, labels=torch.from_numpy(shuffled).to(device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        net = _network(cell, data).to(device)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], cell.rate, MOMENTUM, weight_decay=cell.decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * cell.epochs // 3, 5 * cell.epochs // 6])
    for epoch in range(cell.epochs + 1):
        with reproducible():
            if epoch:
                _train_epoch(cell, net, train, optimizer, epoch)
                schedule.step()
            entries: list[JsonObject] = []
            if epoch in cell.measured:
                entries = list(_measured_entries(cell, net, train, test, optimizer, epoch, forces))
        yield from entries


def _network(cell: NetworkCell, data: Data) -> nn.Module:
    channels, height, width = data.train.images.shape[1:]
    if isinstance(cell, ConvCell):
        return ConvNet(cell, (channels, height, width), data.classes)
    return Perceptron(cell, channels * height * width, data.classes)


def _train_epoch(cell: NetworkCell, net: nn.Module, train: Examples, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    net.train()
    n, loss = len(train.labels), loss_of(cell)
    order = torch.from_numpy(np.random.default_rng((cell.seed, epoch)).permutation(n)).to(train.labels.device)
    value = torch.zeros(())
    for start in range(0, n - 1, BATCH_SIZE):
        x, y = train.batch(order[start : start + BATCH_SIZE])
        optimizer.zero_grad()
        value = loss(net(x), y)
        value.backward()
        optimizer.step()
    if not bool(torch.isfinite(value)):
        raise ValueError(f"{cell.name}, seed {cell.seed}: training diverged in epoch {epoch}; lower the rate {cell.rate}")


def _measured_entries(
    cell: NetworkCell, net: Any, train: Examples, test: Examples, optimizer: torch.optim.Optimizer, epoch: int, forces: bool
) -> Iterator[JsonObject]:
    for examples, what in ((train, "train"), (test, "test")):
        batches = _measuring_batches(examples)
        balance, training_forces = None, None
        if forces and what == "train":
            balance = force_balance(net, batches, net.classifier, loss_of(cell), cell.decay, optimizer)
            if isinstance(cell, Cell) and cell.norm == "batch":
                training_forces = plain(force_rows(_in_training(net, batches, cell, optimizer)))
        net.eval()
        with torch.no_grad():
            wrong = sum(int((net(x).argmax(1) != y).sum()) for x, y in batches)
        facts = {"error": wrong / len(examples.labels), "seed": cell.seed, "training_forces": training_forces}
        if isinstance(cell, Cell):
            measured = ledger(net, batches, Sketch(), cell.seed)
            yield entry(measured, cell.name, what, epoch, balance) | facts | {"view": WHOLE_STATES}
        else:
            measured = ledger(net, batches, ChannelMeans(always=True, on_cpu=True), cell.seed)
            yield entry(measured, cell.name, what, epoch, balance) | facts | {"view": MEANS}
            if epoch < cell.epochs:
                continue
            tail = deepcopy(nn.Sequential(net.tail, net.classifier)).cpu()
            measured = ledger(tail, _maps(net, batches), Sketch(LAST_STAGE_FEATURES), cell.seed)
            yield entry(measured, cell.name, what, epoch) | facts | {"view": LAST_STAGE}


def _in_training(net: Any, batches: BatchList, cell: Cell, optimizer: torch.optim.Optimizer) -> ForceBalance:
    """The forces with batch norm as in training, all examples in one batch."""
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return force_balance(net, [(x, y)], net.classifier, loss_of(cell), cell.decay, optimizer, batch_statistics=True)


def _measuring_batches(examples: Examples) -> BatchList:
    labels = examples.labels
    if labels.device.type == "cpu":
        return list(examples.in_order())
    return [examples.batch(rows) for rows in torch.arange(len(labels), device=labels.device).split(GPU_MEASURING_BATCH)]


def _maps(net: Any, batches: BatchList) -> BatchList:
    """What the last stage of a convolutional network reads, in the memory of the CPU: its covariances are too small for a GPU."""
    with torch.no_grad():
        return [(net.body(x).cpu(), y.cpu()) for x, y in batches]
