"""The configuration of a training run: frozen, checked on construction, strict JSON; and the table of the paper's cells.

The protocol is that of Papyan, Han & Donoho (2020), which the MSE paper repeats: SGD with momentum 0.9 and weight decay 5e-4,
batches of 128, 350 epochs, the rate divided by 10 at 1/3 and 2/3, 25 rates tried, 50 epochs measured.
"""

import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from sims.training.architectures import DENSENETS, NETS, STEMS, VGG_STAGES
from sims.training.readers import DATASETS, JPEG, NORMALIZATIONS, DataChoice
from ufm.files.json_objects import read_json

PROTOCOL = Path(__file__).parents[1] / "protocol" / "cells.toml"
LOSS_FUNCTIONS, OPTIMIZERS = ("mse", "ce"), ("sgd", "adam", "lbfgs")
GRID = tuple(float(f"{1e-4 * 2500 ** (k / 24):.9g}") for k in range(25))  # 1e-4 to 0.25 in equal ratios
EPOCHS, DECAYS = 350, (116, 233)
MEASURED = (
    *range(1, 15), 16, 17, 19, 20, 22, 24, 27, 29, 32, 35, 38, 42, 45, 50, 54, 59, 65, 71, 77, 85, 92, 101, 110, 121, 132, 144,
    158, 172, 188, 206, 225, 245, 268, 293, 320, 350,
)  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. Defaults are the protocol; `lr` has none where no tuned rate is known.

    `feature_decay` > 0 penalises features by feature_decay/2 Ave ||h||^2 and leaves weight decay to the classifier alone
    (Zhu et al. 2021). `rescale_true` and `rescale_target` are k and M of Hui & Belkin (2021): k on the true class's square, M
    as its target. `robustness` is the number of test images whose DeepFool perturbation is measured, 0 for none. `drop_last`
    leaves a short last batch of an epoch out. `sync_batch_norm` normalises by the batch of all processes; `tf32` and
    `deterministic` choose a GPU's kernels. `head_norm` is VGG's, `memory_efficient` DenseNet's: `sims.training.shape`.
    """

    dataset: str = "digits"
    net: str = "mlp"
    loss: str = "mse"
    lr: float | None = None
    lr_grid: tuple[float, ...] = ()
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    feature_decay: float = 0.0
    batch_size: int = 128
    drop_last: bool = False
    epochs: int = EPOCHS
    decays: tuple[int, ...] = DECAYS
    decay_factor: float = 0.1
    measured: tuple[int, ...] = MEASURED
    per_class: int | None = None
    test_per_class: int | None = None
    pad_to: int | None = None
    normalization: str = "channel"
    random_labels: bool = False
    stem: str = "3x3"
    width: float = 1.0
    batch_norm: bool = True
    sync_batch_norm: bool = False
    head_norm: bool = False
    memory_efficient: bool = False
    fixed_etf: bool = False
    rescale_true: float = 1.0
    rescale_target: float = 1.0
    robustness: int = 100
    save_features: tuple[int, ...] = ()
    velocity: tuple[int, ...] = ()
    data_dir: str | None = None
    hub: str | None = None
    mixed_precision: str = "no"
    tf32: bool = False
    deterministic: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dataset", DATASETS),
            ("net", NETS),
            ("loss", LOSS_FUNCTIONS),
            ("optimizer", OPTIMIZERS),
            ("normalization", NORMALIZATIONS),
            ("stem", STEMS),
            ("mixed_precision", ("no", "fp16", "bf16")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r}: it is one of {', '.join(allowed)}")
        self._check_signs()
        self._check_epochs()
        for name, nets in (("head_norm", VGG_STAGES), ("memory_efficient", DENSENETS)):
            if getattr(self, name) and self.net not in nets:
                raise ValueError(f"{name} belongs to {', '.join(nets)}, the network is {self.net}")
        if self.loss == "ce" and (self.rescale_true, self.rescale_target) != (1, 1):
            raise ValueError("the rescaling of Hui & Belkin belongs to the loss mse")

    def _check_signs(self) -> None:
        for name in ("batch_size", "epochs", "decay_factor", "width", "rescale_true", "rescale_target"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)}: it must be positive and finite")
        for name in ("momentum", "weight_decay", "feature_decay", "robustness", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)}: it must be finite and not negative")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ValueError(f"lr = {self.lr}: the learning rate must be positive and finite")

    def _check_epochs(self) -> None:
        for name in ("decays", "measured", "save_features", "velocity"):
            values = getattr(self, name)
            # several decays after one epoch divide the rate several times; an epoch is measured once
            ordered = sorted(values) if name == "decays" else sorted(set(values))
            if list(values) != ordered or not all(0 <= value <= self.epochs for value in values):
                raise ValueError(f"{name} must increase within 0..{self.epochs}, got {', '.join(map(str, values))}")
        if not self.measured:
            raise ValueError("no epoch is measured: name at least one")
        for what, wanted in (("features are saved", self.save_features), ("velocities are taken", self.velocity)):
            missing = sorted(set(wanted) - set(self.measured))
            if missing:
                raise ValueError(f"{what} at measured epochs only, and epoch {missing[0]} is not one")

    @property
    def data(self) -> DataChoice:
        """What of it decides the data."""
        return DataChoice(
            self.dataset,
            self.data_dir,
            self.hub,
            self.per_class,
            self.test_per_class,
            self.pad_to,
            self.normalization,
            self.random_labels,
            self.seed,
        )

    @property
    def rate(self) -> float:
        """The learning rate at the start. Raises ValueError where none is known."""
        if self.lr is None:
            grid = f", for example from the grid {self.lr_grid[0]:g} to {self.lr_grid[-1]:g}" if self.lr_grid else ""
            raise ValueError(f"no tuned learning rate is known for {self.dataset}, {self.net}, {self.loss}: give lr{grid}")
        return self.lr

    def rate_at(self, epoch: int) -> float:
        """The learning rate during an epoch (1, 2, ...): it is decayed after each epoch of `decays`."""
        return self.rate * self.decay_factor ** sum(epoch > decay for decay in self.decays)

    def scaled(self, epochs: int) -> "TrainConfig":
        """The same schedule over another number of epochs: decays and measured epochs keep their share, the last is measured.

        Decays stay after the first epoch and apart from each other; one with no epoch left for it comes after the last.
        """
        if epochs < 1:
            raise ValueError(f"epochs = {epochs}: at least 1 is needed")

        def moved(values: tuple[int, ...]) -> list[int]:
            # epoch 0 is the untrained network and stays it; no other becomes it
            return [max(round(value * epochs / self.epochs), min(value, 1)) for value in values]

        decays: list[int] = []
        for decay in moved(self.decays):
            decays.append(min(max(decay, decays[-1] + 1) if decays else decay, epochs))
        moved_to = {"measured": {*moved(self.measured), epochs}, "save_features": {*moved(self.save_features)}}
        moved_to["velocity"] = {*moved(self.velocity)}
        changes: dict[str, Any] = {name: tuple(sorted(values)) for name, values in moved_to.items()}
        return replace(self, epochs=epochs, decays=tuple(decays), **changes)

    def to_json(self) -> str:
        """All fields, one a line."""
        return json.dumps(asdict(self), indent=2) + "\n"


def from_mapping(given: Mapping[str, object], source: str) -> TrainConfig:
    """The configuration with these fields, defaults elsewhere. Raises ValueError for an unknown key or a wrong type."""
    known = [field.name for field in fields(TrainConfig)]
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ValueError(f"{source}: unknown key {unknown[0]!r}; the keys are {', '.join(known)}")
    try:
        return msgspec.convert(given, TrainConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"{source}: {error}") from error


def load_config(path: Path) -> TrainConfig:
    """A configuration from a JSON file. Raises ValueError for anything that is not exactly one."""
    return from_mapping(read_json(path), str(path))


@functools.cache
def _protocol_table() -> dict[str, Any]:
    return tomllib.loads(PROTOCOL.read_text(encoding="utf-8"))


def cells() -> tuple[str, ...]:
    """Names dataset-net-loss of the cells of the papers and of the small ones."""
    return tuple(sorted(_protocol_table()["cells"] | _protocol_table()["small"]))


def protocol(dataset: str, net: str, loss: str) -> TrainConfig:
    """The configuration of a cell, for CIFAR-10 as JPEG that of CIFAR-10.

    Elsewhere the schedule that the cells of the papers share, on the dataset as its cells take it, and without a rate (`--lr`).
    Raises ValueError for an unknown dataset, net or loss.
    """
    name, table = _cell_name(dataset, net, loss), _protocol_table()
    row = table["small"].get(name) or table["all"] | table["datasets"].get(dataset, {}) | table["cells"].get(name, {})
    changes = {key: value for key, value in row.items() if key not in ("source", "epochs")}
    config = from_mapping({"dataset": dataset, "net": net, "loss": loss, "lr_grid": GRID} | changes, f"{PROTOCOL.name}, {name}")
    return config.scaled(row.get("epochs", EPOCHS))


def rate_source(config: TrainConfig) -> str:
    """Where the learning rate comes from: what is said of the cell's, or that it was given."""
    name = _cell_name(config.dataset, config.net, config.loss)
    row = (_protocol_table()["cells"] | _protocol_table()["small"]).get(name, {"source": "none"})
    return str(_protocol_table()["sources"][row["source"]]) if config.lr == row.get("lr") else "given"


def _cell_name(dataset: str, net: str, loss: str) -> str:
    return f"{'cifar10' if dataset == JPEG else dataset}-{net}-{loss}"
