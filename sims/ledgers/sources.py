"""Where ledgers come from: the folder of a `sims.train` run, saved features, or a function of the user's own."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from sims.ledgers.entry import entry
from sims.training.data import Data, balanced, load
from sims.training.examples import Examples
from sims.training.folder import RunFolder, load_run
from sims.training.loop import Trainer, network
from sims.training.loss_and_optimizer import decay_of_body, mean_loss
from sims.training.nets import CLASSIFIER
from sims.training.protocol import TrainConfig
from ufm.files.features import FLOATS, epoch_of
from ufm.files.json_objects import JsonObject
from ufm.files.store import load_arrays, load_features
from ufm.ledger import ledger, ledger_of_features
from ufm.ledger.force_balance import ForceBalance, force_balance
from ufm.ledger.reductions import StateReduction
from ufm.monitor.layers import linear_layer

Entries = Iterator[JsonObject]


@dataclass(frozen=True, eq=False)
class Reread:
    """Batches of a split, as often as they are asked for."""

    examples: Examples

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.examples.in_order()


@dataclass(frozen=True)
class Wanted:
    """What is measured: training and test examples a class (None for all), the reduction, forces or not, seed of intervals."""

    reduction: StateReduction
    per_class: int | None = None
    forces: bool = False
    seed: int = 0


def of_run(path: Path, wanted: Wanted, epochs: tuple[int, ...] = ()) -> Entries:
    """Ledgers of a run, training and test set: at its last checkpoint, or at `epochs`, for which it is trained again.

    Training is deterministic on a CPU, so that it is the same network; the folder of the run is only read.
    Raises ValueError for a folder without a checkpoint and for epochs outside the run.
    """
    config, _ = load_run(path)
    data = load(config.data)
    if epochs:
        yield from _trained_again(path, config, data, wanted, epochs)
        return
    saved = RunFolder(path, config).load_checkpoint()
    if saved is None:
        raise ValueError(f"{path} has no checkpoint: train it, or choose epochs, for which it is trained again")
    epoch, state, _ = saved
    model = network(config, data)
    model.load_state_dict(state["model"])
    yield from _both(model, data, config, str(path), epoch, wanted, None)


def _trained_again(path: Path, config: TrainConfig, data: Data, wanted: Wanted, epochs: tuple[int, ...]) -> Entries:
    from accelerate import Accelerator

    from sims.train import reproducible

    outside = [epoch for epoch in epochs if not 0 <= epoch <= config.epochs]
    if outside:
        raise ValueError(f"epoch {outside[0]} is outside 0..{config.epochs} of {path}")
    with reproducible():
        trainer = Trainer(config, data, Accelerator(cpu=True))
        for epoch in range(max(epochs) + 1):
            if epoch:
                trainer.train_epoch(epoch, lambda *_: None)
            if epoch in epochs:
                yield from _both(trainer.bare, data, config, str(path), epoch, wanted, trainer.optimizer)


def _both(
    model: nn.Module, data: Data, config: TrainConfig, source: str, epoch: int, wanted: Wanted, optimizer: Optimizer | None
) -> Entries:
    device = next(model.parameters()).device
    for split, what in ((data.train, "train"), (data.test, "test")):
        if wanted.per_class is not None:
            split = balanced(split, wanted.per_class, data.classes, np.random.default_rng(wanted.seed), what)
        loader = Reread(Examples.of(split, data.normalizer, device))
        forces: ForceBalance | None = None
        if wanted.forces and what == "train":
            head = linear_layer(model, CLASSIFIER)
            forces = force_balance(model, loader, head, mean_loss(config), decay_of_body(config), optimizer, config.feature_decay)
        yield entry(ledger(model, loader, wanted.reduction, wanted.seed), source, what, epoch, forces)


def of_features(paths: list[Path], wanted: Wanted) -> JsonObject:
    """One ledger of saved features, a file an operation in the order given, all of the same examples in the same order.

    Raises ValueError for files whose labels differ and for features that are not (n, P) floats.
    """
    layers: dict[str, np.ndarray] = {}
    labels, epochs = np.zeros(0), set[int | None]()
    for path in paths:
        H, y = load_features(path)
        if H.dtype not in FLOATS or H.ndim != 2 or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"{path}: features are {H.dtype} {H.shape}, labels {y.dtype}; floats (n, P) and integers are needed")
        if layers and not np.array_equal(labels, y):
            raise ValueError(f"{path} has other labels than {paths[0]}: a ledger needs the same examples in the same order")
        if path.stem in layers:
            raise ValueError(f"two files are called {path.stem}: name them after their operations")
        layers[path.stem], labels = H, y
        epochs |= {epoch_of(load_arrays(path, ("epoch",)), path)} - {None}
    measured = ledger_of_features(layers, labels, wanted.reduction, wanted.seed)
    return entry(measured, ", ".join(map(str, paths)), "features", epochs.pop() if len(epochs) == 1 else None)


def of_function(spec: str, wanted: Wanted) -> Entries:
    """Ledgers of MODULE:FUNCTION, called without arguments for (model, loader) or (model, loader, test loader)."""
    module, _, name = spec.partition(":")
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import {spec}: {error}") from error
    given = function()
    if not isinstance(given, (tuple, list)) or not 2 <= len(given) <= 3 or not isinstance(given[0], nn.Module):
        what = ", ".join(type(part).__name__ for part in given) if isinstance(given, (tuple, list)) else type(given).__name__
        raise ValueError(f"{spec} gave {what or 'nothing'}: return (model, loader) or (model, loader, test loader)")
    model, *loaders = given
    for loader, what in zip(loaders, ("train", "test"), strict=False):
        yield entry(ledger(model, loader, wanted.reduction, wanted.seed), spec, what, None)
