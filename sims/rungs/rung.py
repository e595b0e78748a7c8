"""The rungs in order, from free features to a network: each adds one ingredient to one before it."""

from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sims.rungs.descent import Descent
from sims.training.data import Data, load
from sims.training.protocol import TrainConfig
from sims.training.readers import DataChoice
from ufm.arrays import as_numpy
from ufm.features.statistics import statistics_of
from ufm.files.json_objects import JsonObject

HIDDEN, KEPT = 64, 24  # units a layer, and leading within-class directions of the untrained features that are kept
NARROW = 12  # features of the linear networks, which cannot pass the SNR of their input: they start far below it
PER_CLASS, TEST_PER_CLASS = 50, 20
WHOLE, DIGITS_INPUTS = 10 * PER_CLASS, 64  # examples of the digits, and pixels of each
DIGITS_DATA = DataChoice("digits", per_class=PER_CLASS, test_per_class=TEST_PER_CLASS)
FEATURE_STEPS = 5000
NETWORK_STEP = 0.4  # of a network's rate; of free features, whose largest curvature does not grow, much less does
RIDGE = 1e-4  # lambda of W at least squares where features may be nearly dead
NETWORK_EPOCHS = 1200  # of the networks whose classifier is trained
FREE_FEATURES = "free"


@dataclass(frozen=True)
class Rung:
    """One rung: its name, what it adds in words, and either a Descent with the body below it or a training configuration.

    body     of a Descent: free (nothing below moves), network (two ReLU layers, then a fixed projection), last-layer (ReLU layers
             fixed, a narrow linear layer trained over them), linear (all trained, no ReLU), relu (two ReLU layers alone)
    expected   the model that must survive here, by a theorem, "" where none is claimed
    """

    name: str
    adds: str
    descent: Descent | None = None
    body: str = FREE_FEATURES
    train: TrainConfig | None = None
    steps: int = FEATURE_STEPS
    expected: str = ""

    def training(self, seed: int, choice: DataChoice, data: Data) -> TrainConfig:
        """The configuration of a run on some data; where a step takes all examples, all that there are.

        The curvature of the loss grows with the number of inputs, hence the rate falls: in proportion for a linear network, with
        the root for one with ReLU, whose deeper layers do not see it, and not at all with batch normalisation.
        """
        assert self.train is not None
        images, power = data.train.images, 0.0 if self.train.batch_norm else 1.0 if self.train.net == "mlp-linear" else 0.5
        rate = self.train.rate * (DIGITS_INPUTS / images[0].size) ** power
        return replace(
            self.train,
            seed=seed,
            dataset=choice.dataset,
            data_dir=choice.folder,
            per_class=choice.per_class,
            test_per_class=choice.test_per_class,
            lr=rate,
            batch_size=len(images) if self.train.batch_size == WHOLE else self.train.batch_size,
        )

    def identity(self, seed: int, data: Data, choice: DataChoice) -> JsonObject:
        """What makes a run of it this one, wherever its data lie."""
        how = self.descent if self.descent is not None else replace(self.training(0, choice, data), data_dir=None)
        values = {name: str(value) if value == np.inf else value for name, value in asdict(how).items()}
        return {"rung": self.name, "body": self.body, "steps": self.steps, "seed": seed, "data": data.fingerprint} | values


def trained(**changes: Any) -> TrainConfig:
    """The network whose classifier is trained with it, plain gradient descent on all examples unless changed."""
    plain = {"width": HIDDEN / 512, "batch_norm": False, "batch_size": WHOLE, "momentum": 0.0, "weight_decay": 0.0}
    plain |= {"lr": 2.0, "epochs": NETWORK_EPOCHS, "decays": (), "robustness": 0, "per_class": PER_CLASS}
    plain |= {"test_per_class": TEST_PER_CLASS}
    settings: dict[str, Any] = plain | changes
    epochs = int(settings["epochs"])
    measured = sorted({0, *np.unique(np.round(np.geomspace(2, epochs, 32)).astype(int)).tolist()})
    velocity = tuple(measured[len(measured) // 3 :: 4])
    return TrainConfig(**settings, measured=tuple(measured), velocity=velocity)


RUNGS = (
    Rung("free", "free features, W at least squares", Descent(), expected="unnormalized"),
    Rung("whitened", "features renormalized after every step (control)", Descent(renormalize=True), expected="renormalized"),
    Rung("rate-100", "W trained, kappa = 100", Descent(rate_ratio=100.0, step=0.1)),
    Rung("rate-10", "W trained, kappa = 10", Descent(rate_ratio=10.0)),
    Rung("rate-1", "W trained, kappa = 1", Descent(rate_ratio=1.0)),
    Rung("decay", "kappa = 10, weight decay", Descent(rate_ratio=10.0, step=0.006, decay_w=1e-3, decay_h=1e-2)),
    Rung("momentum", "and momentum 0.9", Descent(rate_ratio=10.0, step=0.006, decay_w=1e-3, decay_h=1e-2, momentum=0.9)),
    Rung(
        "batches", "and batches of 50", Descent(rate_ratio=10.0, step=0.006, decay_w=1e-3, decay_h=1e-2, momentum=0.9, batch=50)
    ),
    Rung(
        "drops",
        "and two drops of the rate",
        Descent(rate_ratio=10.0, step=0.006, decay_w=1e-3, decay_h=1e-2, momentum=0.9, batch=50, drops=(1 / 10, 1 / 4)),
    ),
    Rung("offsets-10", "a network below, offsets at 10 times its rate", Descent(offsets=10.0, step=NETWORK_STEP), "network"),
    Rung("offsets-1", "offsets at its rate", Descent(offsets=1.0, step=NETWORK_STEP), "network"),
    Rung("offsets-0.1", "offsets at a tenth of its rate", Descent(offsets=0.1, step=NETWORK_STEP), "network"),
    Rung("network", "no offsets", Descent(offsets=0.0, step=NETWORK_STEP), "network"),
    Rung("last-layer", "a linear last layer over fixed features", Descent(offsets=0.0, step=NETWORK_STEP), "last-layer"),
    Rung("linear-exact", "a linear network, W at least squares", Descent(offsets=0.0, step=NETWORK_STEP), "linear"),
    Rung("mlp-exact", "ReLU network, W at least squares (ridge)", Descent(offsets=0.0, step=NETWORK_STEP, lam=RIDGE), "relu"),
    Rung("linear", "a linear network, W trained", train=trained(net="mlp-linear", lr=1.0, width=NARROW / 512)),
    Rung("mlp", "ReLU network, W trained", train=trained()),
    Rung("mlp-bn", "and batch norm", train=trained(batch_norm=True, lr=1.0)),
    Rung("residual", "ReLU network with a skip, W trained", train=trained(net="mlp-residual", lr=1.0)),
    Rung(
        "mlp-sgd",
        "batch norm, momentum, batches, decay, drops",
        train=trained(batch_norm=True, lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=50, epochs=240, decays=(80, 160)),
    ),
)
BY_NAME = {rung.name: rung for rung in RUNGS}


@lru_cache(maxsize=1)
def rung_data(seed: int, choice: DataChoice = DIGITS_DATA) -> Data:
    """The data of the runs of a seed, read once for all of them."""
    return load(replace(choice, seed=seed))


def examples(data: Data) -> tuple[Tensor, Tensor]:
    """Inputs (n, d) in float64 and labels (n,), in class blocks."""
    order = np.argsort(data.train.labels, kind="stable")
    split = data.train.rows(order)
    return data.normalizer(torch.from_numpy(split.images)).double().flatten(1), torch.from_numpy(split.labels)


def body_of(rung: Rung, x: Tensor, labels: Tensor, seed: int) -> nn.Sequential:
    """The network below the features, untrained and from the seed, with what is fixed frozen. The features it makes are the start
    of a free rung too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = nn.Linear(x.shape[1], HIDDEN).double(), nn.Linear(HIDDEN, HIDDEN).double()
        narrow = nn.Linear(HIDDEN, NARROW, bias=False).double()
    rectify: list[nn.Module] = [] if rung.body == "linear" else [nn.ReLU()]
    layers: list[nn.Module] = [first, *rectify, second, *rectify]
    if rung.body in ("last-layer", "linear"):
        layers.append(narrow)
    elif rung.body != "relu":
        layers.append(projection(nn.Sequential(*layers), x, labels))
    body = nn.Sequential(OrderedDict({f"layer{k}": layer for k, layer in enumerate(layers)}))
    for p in body.parameters():
        p.requires_grad_(rung.body != FREE_FEATURES)
    if rung.body == "network":
        layers[-1].requires_grad_(False)
    if rung.body == "last-layer":
        first.requires_grad_(False)
        second.requires_grad_(False)
    return body


def projection(network: nn.Module, x: Tensor, labels: Tensor) -> nn.Linear:
    """The linear map onto the KEPT leading within-class directions of the features of a network, without bias."""
    with torch.no_grad():
        H = as_numpy(network(x))
    _, E = np.linalg.eigh(statistics_of(H, as_numpy(labels), int(labels.max()) + 1).sigma_w)
    layer = nn.Linear(H.shape[1], KEPT, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(E[:, ::-1][:, :KEPT].T)))
    return layer
