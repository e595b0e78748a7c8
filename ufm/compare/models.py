"""The models a run is compared with: what each needs, whether it has a parameter, which are special cases of which."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ufm.compare.coordinates import Entry
from ufm.compare.likelihood import Path
from ufm.compare.motions import Motion, joint_motion, renormalized_motion, trace, unnormalized_motion

UNNORMALIZED, RENORMALIZED, EMBEDDED, KERNEL, JOINT = "unnormalized", "renormalized", "embedded", "kernel", "joint"
KERNEL_RATIOS = (0.05, 0.2, 0.5, 1.8, 3.0, 5.5, 10.0, 30.0)  # r = 1 is the unnormalized flow
RATES = (0.01, 0.1, 1.0, 10.0, 100.0)  # kappa; infinite is the unnormalized flow
NUDGE = 0.01  # of log omega, between the two starts of a finite difference
MARGIN_MEAN, MARGIN_LARGEST = 0.3, 1.5  # of log omega that a path goes past the measured values
GRID = 320  # points of a path
MOST_VALUES = 64  # compared: of more, those that the models predict most differently
CLOSE = 0.05  # of log omega between two starts whose divided difference is a derivative


@dataclass(frozen=True)
class CandidateModel:
    """A name, the parameter and its values where it has one, the models it contains, and what it needs of the entry."""

    name: str
    statement: str
    parameter: str | None = None
    values: tuple[float, ...] = ()
    contains: tuple[str, ...] = ()
    needs: str = "spectrum"


MODELS: dict[str, CandidateModel] = {
    model.name: model
    for model in (
        CandidateModel(RENORMALIZED, "Eq. 5 with Proposition 4: features renormalized to Sigma_W = I after every step"),
        CandidateModel(EMBEDDED, "Proposition 2 as printed: the Frobenius gradient flow on Sigma_W = I"),
        CandidateModel(
            UNNORMALIZED, "plain gradient flow of the features, W at least squares; Sigma_T conserved", needs="statistics"
        ),
        CandidateModel(
            KERNEL,
            "the unnormalized flow with class means r times as fast as deviations",
            "r",
            KERNEL_RATIOS,
            (UNNORMALIZED,),
            "statistics",
        ),
        CandidateModel(
            JOINT,
            "gradient flow of features and classifier with the run's weight decays",
            "kappa",
            RATES,
            (UNNORMALIZED,),
            "classifier",
        ),
    )
}


def available(entry: Entry | None) -> dict[str, str]:
    """Which models can be predicted from an entry: "" or what is missing, by name. None: only omega and V are known."""
    reasons = {}
    for name, model in MODELS.items():
        missing = ""
        if model.needs != "spectrum" and entry is None:
            missing = "needs the class means and Sigma_W of the entry"
        elif model.needs == "classifier" and (entry is None or entry.W is None):
            missing = "needs the classifier W and b of the entry"
        reasons[name] = missing
    return reasons


def motions(
    name: str, gram: np.ndarray, counts: np.ndarray, entry: Entry | None, values: tuple[float, ...] | None = None
) -> list[tuple[float | None, Motion]]:
    """The flow of a model from an entry, one for every value of its parameter."""
    model = MODELS[name]
    lam = 0.0 if entry is None else entry.lam
    if name == RENORMALIZED:
        return [(None, renormalized_motion(gram, counts, 1.0, lam))]
    if name == EMBEDDED:
        return [(None, renormalized_motion(gram, counts, np.inf, lam))]
    if entry is None:
        raise ValueError(f"the model {name} needs the class means and Sigma_W of the entry")
    if name == UNNORMALIZED:
        return [(None, unnormalized_motion(entry))]
    make: Callable[[Entry, float], Motion] = unnormalized_motion if name == KERNEL else joint_motion
    return [(value, make(entry, value)) for value in (model.values if values is None else values)]


def paths(
    names: Sequence[str],
    gram: np.ndarray,
    counts: np.ndarray,
    frame: np.ndarray,
    entry: Entry | None,
    largest: float,
    mean: float,
    values: tuple[float, ...] | None = None,
) -> dict[str, list[tuple[float | None, np.ndarray, np.ndarray]]]:
    """Of every model and value of its parameter: the value, Y (G, K, K) on an even grid, and d (G, K, K).

    largest and mean of log omega are the measured ones, past which a path is followed.
    """
    predicted: dict[str, list[tuple[float | None, np.ndarray, np.ndarray]]] = {}
    for name in names:
        predicted[name] = []
        for value, motion in motions(name, gram, counts, entry, values):
            spacing = 0.005 if name == JOINT else 0.01
            Y, t = trace(motion, frame, largest + MARGIN_LARGEST, mean + MARGIN_MEAN, spacing)
            if MODELS[name].needs == "spectrum":
                d = derivative_by_start(Y, t)
            else:
                assert entry is not None
                larger = replace(entry, M=np.exp(NUDGE) * entry.M)
                ((_, other),) = motions(name, gram, counts, larger, None if value is None else (value,))
                d = derivative_by_larger_start(
                    Y, t, *trace(other, frame, largest + 2 * MARGIN_LARGEST, mean + 2 * MARGIN_MEAN, spacing)
                )
            predicted[name].append((value, *_even(Y, d)))
    return predicted


def derivative_by_start(Y: np.ndarray, t: np.ndarray) -> np.ndarray:
    """d Y_t / d Y_0 (G, K, K) of a flow that moves every eigenvalue alike: exact on the diagonal, divided differences off it."""
    x = np.diagonal(Y, axis1=1, axis2=2)
    if len(t) < 3:
        return np.ones_like(Y)
    speed = np.gradient(x, t, axis=0)
    own = np.clip(speed / np.where(speed[0] > 0, speed[0], 1.0), 0.0, 3.0)
    gap = x[0][:, None] - x[0]
    near = abs(gap) < CLOSE
    ratio = (x[:, :, None] - x[:, None, :]) / np.where(near, 1.0, gap)
    return np.where(near, (own[:, :, None] + own[:, None, :]) / 2, np.clip(ratio, -1.0, 3.0))


def derivative_by_larger_start(Y: np.ndarray, t: np.ndarray, larger: np.ndarray, times: np.ndarray) -> np.ndarray:
    """d Y_t / d Y_0 (G, K, K) by the path from class means e^NUDGE as large, with which A = Sigma_W + S S^T / r grows.

    From Sigma_W = I and equal classes, g = omega_0^2: d = 1 - 2 (log omega_t - log omega_0) g / (1 + g), where d = 1 would take
    half of the noise of the start for a trend. Off the diagonal the mean of both values, which a divided difference is near.
    """
    x, other = np.diagonal(Y, axis1=1, axis2=2), np.diagonal(larger, axis1=1, axis2=2)
    moved = np.stack([np.interp(t, times, column) for column in other.T], axis=1)
    own = np.clip((moved - x) / NUDGE, -1.0, 3.0)
    return (own[:, :, None] + own[:, None, :]) / 2


def _even(Y: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most GRID points, even in the length of the path."""
    if len(Y) <= GRID:
        return Y, d
    length = np.r_[0.0, np.cumsum(np.sqrt(((Y[1:] - Y[:-1]) ** 2).sum((1, 2))))]
    wanted = np.linspace(0, length[-1], GRID)
    low = np.clip(np.searchsorted(length, wanted, side="right") - 1, 0, len(Y) - 2)
    step = length[low + 1] - length[low]
    share = ((wanted - length[low]) / np.where(step > 0, step, 1.0))[:, None, None]
    return (1 - share) * Y[low] + share * Y[low + 1], (1 - share) * d[low] + share * d[low + 1]


def select(
    predicted: dict[str, list[tuple[float | None, np.ndarray, np.ndarray]]], diagonal_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the values of Y compared: the diagonal, and off it those that the models predict most differently."""
    K = next(iter(predicted.values()))[0][1].shape[1]
    if diagonal_only:
        return np.arange(K), np.arange(K)
    rows, columns = np.triu_indices(K)
    if len(rows) <= MOST_VALUES:
        return rows, columns
    ends = np.stack([Y[-1] for predictions in predicted.values() for _, Y, _ in predictions])
    spread = np.ptp(ends, axis=0)[rows, columns]
    order = np.argsort(-spread, kind="stable")[:MOST_VALUES]
    order = np.sort(order)
    return rows[order], columns[order]


def path_of(prediction: tuple[float | None, np.ndarray, np.ndarray], where: tuple[np.ndarray, np.ndarray]) -> Path:
    """The values compared of one prediction."""
    value, Y, d = prediction
    return Path(Y[:, where[0], where[1]], d[:, where[0], where[1]], value)
