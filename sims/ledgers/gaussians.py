"""Does a trained ReLU network reach the largest SNR that any function of two Gaussian classes has?

x = m y + z in one dimension, y = -1 or 1 with equal odds, z standard normal. No function of x has more than omega* of
`ufm.ledger.rectified`. With one input, omega of the population is a quadrature in one variable: beside the estimate from examples
there is the true value.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sims.ledgers.entry import entry, plain
from sims.ledgers.nets import Cell, Perceptron, check_choices
from sims.ledgers.summary import interval_text, mean_and_interval
from ufm.arrays import as_numpy
from ufm.features.statistics import ClassStatistics
from ufm.files.json_objects import JsonObject
from ufm.ledger import Sketch, ledger
from ufm.ledger.discrimination import discrimination
from ufm.ledger.rectified import input_omega, largest_omega, relu_omega
from ufm.output import stored_number

NEW_EXAMPLES, ADAM_RATE = 1000, 0.01  # new examples a step; Adam's rate, which falls to 0 as a cosine
HELD_OUT = 10_000  # examples a class for the estimate
QUADRATURE_NODES, TAIL = 8001, 9.0  # of the quadrature, and how many deviations beyond the means it goes
THRESHOLDS = 24  # as many as there are units: the rival that needs no training


@dataclass(frozen=True)
class GaussianCell:
    """A perceptron without norm on N(-m, 1) and N(m, 1), trained by Adam on the mean square, `epochs` steps of new examples."""

    m: float = 1.0
    depth: int = 1
    width: int = THRESHOLDS
    activation: str = "relu"
    epochs: int = 4000
    rate: float = ADAM_RATE
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self, {"activation": ("relu", "identity")})
        input_omega(self.m)  # raises for an m that is no distance

    @property
    def name(self) -> str:
        """What sets the cell apart; seeds of a cell share it."""
        return f"gaussians m={self.m:g} depth={self.depth} {self.activation}"


def run_gaussian(cell: GaussianCell) -> Iterator[JsonObject]:
    """Train on new examples at every step; yield the ledgers before and after, of new examples and of the population.

    Every row has `population`, the true omega. Raises ValueError where training diverges.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        shape = Cell(depth=cell.depth, width=cell.width, norm="none", activation=cell.activation)
        net = Perceptron(shape, 1, 2)
    yield _measured_entry(cell, net, 0)
    optimizer = torch.optim.Adam(net.parameters(), cell.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cell.epochs)
    rng = np.random.default_rng((cell.seed, 1))
    value = torch.zeros(())
    for _ in range(cell.epochs):
        x, y = _examples(cell.m, NEW_EXAMPLES // 2, rng)
        optimizer.zero_grad()
        value = nn.functional.mse_loss(net(x), nn.functional.one_hot(y, 2).float())
        value.backward()
        optimizer.step()
        schedule.step()
    if not bool(torch.isfinite(value)):
        raise ValueError(f"{cell.name}, seed {cell.seed}: training diverged; lower the rate {cell.rate}")
    yield _measured_entry(cell, net, cell.epochs)


def _examples(m: float, per_class: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    y = np.arange(2 * per_class) % 2
    x = (2 * y - 1) * m + rng.standard_normal(2 * per_class)
    return torch.from_numpy(x[:, None]).float(), torch.from_numpy(y)


def _measured_entry(cell: GaussianCell, net: Perceptron, step: int) -> JsonObject:
    x, y = _examples(cell.m, HELD_OUT, np.random.default_rng((cell.seed, 2, step)))
    stored = entry(ledger(net, [(x, y)], Sketch(), cell.seed), cell.name, "test", step)
    with torch.no_grad():
        stored["error"] = float((net(x).argmax(1) != y).float().mean())
    readings = _readings(net.double())
    population = {what: population_omega(cell.m, read) for what, read in readings.items()}
    net.float()
    return plain(stored | {"seed": cell.seed, "view": "states", "m": cell.m, "population": population})


def _readings(net: Perceptron) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The input, the last hidden layer and the output as functions of x."""

    def outputs(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return as_numpy(net(torch.from_numpy(x[:, None])))

    def hidden(x: np.ndarray) -> np.ndarray:
        kept: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept.append(inputs[0])

        handle = net.classifier.register_forward_pre_hook(keep)
        outputs(x)
        handle.remove()
        return as_numpy(kept[0])

    return {"input": lambda x: x[:, None], "hidden": hidden, "output": outputs}


def population_omega(m: float, features: Callable[[np.ndarray], np.ndarray]) -> float:
    """omega of features (n, P) of x (n,) on the classes N(-m, 1) and N(m, 1) with equal odds: moments by the trapezoidal rule.

    The rule's weights are a distribution of their own, near the two normal ones, so that no rounding of moments is amplified.
    inf where the features tell the classes apart without variability. Raises ValueError where nothing varies at all.
    """
    x = np.linspace(-m - TAIL, m + TAIL, QUADRATURE_NODES)
    H = np.asarray(features(x), dtype=float)
    means: list[np.ndarray] = []
    covariances: list[np.ndarray] = []
    for centre in (-m, m):
        weights = np.exp(-((x - centre) ** 2) / 2)
        weights /= weights.sum()
        means.append(weights @ H)
        deviations = (H - means[-1]) * np.sqrt(weights)[:, None]
        covariances.append(deviations.T @ deviations)
    variances = np.array([covariance.trace() for covariance in covariances])
    sigma = (covariances[0] + covariances[1]) / 2
    stats = ClassStatistics(np.array([1.0, 1.0]), np.stack(means, 1), sigma, variances)
    return float(discrimination(stats, np.finfo(float).eps).omega[0])


def gaussian_summary(stored: list[JsonObject]) -> list[JsonObject]:
    """One dictionary a cell: omega before and after training as shares of omega*, with intervals over networks, and the rivals.

    Shares of the last hidden layer and of the output, true ones (`hidden`, `output`) and held out (`hidden_held_out`); those
    of the input and of 24 evenly spaced thresholds, which are not trained.
    """
    groups: dict[str, list[list[JsonObject]]] = {}
    for network in stored:
        groups.setdefault(network["ledgers"][0]["source"], []).append(network["ledgers"])
    return [_gaussian_cell(name, networks) for name, networks in groups.items()]


def _gaussian_cell(name: str, networks: list[list[JsonObject]]) -> JsonObject:
    m = networks[0][0]["m"]
    largest = largest_omega(m)
    thresholds = relu_omega(m, np.ones(THRESHOLDS), -np.linspace(-m - 3, m + 3, THRESHOLDS))
    told: JsonObject = {"cell": name, "networks": len(networks), "largest": largest}
    told |= {"input": input_omega(m) / largest, "thresholds": thresholds / largest}
    for when, k in (("untrained", 0), ("trained", -1)):
        entries = [ledgers[k] for ledgers in networks]
        for what in ("hidden", "output"):
            told[f"{when}_{what}"] = mean_and_interval([stored_number(e["population"][what]) / largest for e in entries])
        held = [stored_number(e["rows"][-2]["held_out"]) / largest for e in entries]  # of the state before the classifier
        told[f"{when}_hidden_held_out"] = mean_and_interval(held)
        told[f"{when}_error"] = mean_and_interval([e["error"] for e in entries])
    return plain(told)


def gaussian_text(told: list[JsonObject]) -> str:
    """A table of `gaussian_summary`: omega as shares of omega*."""
    shown = ("untrained_hidden", "untrained_output", "trained_hidden", "trained_hidden_held_out", "trained_output")
    lines = [f"{'cell':<34} shares of omega*: input, 24 thresholds; {', '.join(shown).replace('_', ' ')}"]
    for row in told:
        values = ", ".join(interval_text(row[key], 4) for key in shown)
        lines.append(f"{row['cell']:<34} {row['input']:.4f}, {row['thresholds']:.4f}; {values}")
    return "\n".join(lines)
