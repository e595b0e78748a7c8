"""The models a run is compared with: what each needs, whether it has a parameter, which are special cases of which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline

from manifolds.representation import short_repr
from ufm.compare.coordinates import Entry, frame_of, gram_of, log_gram
from ufm.compare.joint_motion import joint_motion
from ufm.compare.layer_motion import layer_motion
from ufm.compare.likelihood import Path
from ufm.compare.motions import Motion, StiffFlowError, renormalized_motion, trace
from ufm.compare.response import BLOCKS, QUICK_BLOCKS, Response, krylov, response, turns
from ufm.compare.unnormalized_motion import unnormalized_motion
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED

PLAIN, KERNEL, JOINT, LAYER = "unnormalized", "kernel", "joint", "layer"
KERNEL_RATIOS = (0.05, 0.2, 0.5, 1.8, 3.0, 5.5, 10.0, 30.0)  # r = 1 is the unnormalized flow
RATES = (0.01, 0.1, 1.0, 10.0, 100.0)  # kappa; infinite is the unnormalized flow
MARGIN_MEAN, MARGIN_LARGEST = 0.3, 1.5  # of log omega that a path goes past the measured values
STRIDE, GRID_SPACING = 0.08, 0.01  # of log omega between points of a trace, and of the grid of a path, to which a spline takes it
MANY = 20  # singular values, of more of which both are twice as far apart
SAME_START = 1e-3  # of log omega between the statistics of the entry and what must have the same SNR
PATH_POINTS = 320  # points of a path
MOST_VALUES = 64  # compared: of more, those that the models predict most differently


@dataclass(frozen=True)
class CandidateModel:
    """A name, the parameter and its values where it has one, the models it contains, at which `limit` of the parameter, what it
    needs of the entry, the values of the parameter nearest to the limit that count as another model, and whether some of its
    values take so many steps that those listed are first followed roughly, which tells where the parameter is likely.
    """

    name: str
    statement: str
    parameter: str | None = None
    values: tuple[float, ...] = ()
    contains: tuple[str, ...] = ()
    needs: str = "spectrum"
    limit: float = 1.0
    distinct: tuple[float, ...] = ()
    stiff: bool = False

    def counts_as_limit(self, value: float | None) -> bool:
        """Whether a value of the parameter lies between those on both sides of the limit that count as another model."""
        return value is not None and len(self.distinct) == 2 and self.distinct[0] < value < self.distinct[1]

    def at_bound(self, value: float | None) -> bool:
        """Whether a value of the parameter is the least or the largest that is looked at: a better one may lie beyond."""
        return value is not None and value != self.limit and not min(self.values) < value < max(self.values)


MODELS: dict[str, CandidateModel] = {
    model.name: model
    for model in (
        CandidateModel(RENORMALIZED.name, "Eq. 5 with Proposition 4: features renormalized to Sigma_W = I after every step"),
        CandidateModel(EMBEDDED.name, "Proposition 2 as printed: the Frobenius gradient flow on Sigma_W = I"),
        CandidateModel(PLAIN, "plain gradient flow of the features, W at least squares; Sigma_T conserved", needs="statistics"),
        CandidateModel(
            KERNEL,
            "the unnormalized flow with class means r times as fast as deviations",
            "r",
            KERNEL_RATIOS,
            (PLAIN,),
            "statistics",
            distinct=(0.5, 2.0),
        ),
        CandidateModel(
            JOINT,
            "gradient flow of features and classifier with the run's weight decays",
            "kappa",
            RATES,
            (PLAIN,),
            "classifier",
            np.inf,
            (1.0,),
            stiff=True,
        ),
        CandidateModel(LAYER, "gradient flow of the last linear map over fixed features below; A A^T conserved", needs="layer"),
    )
}


class UnpredictedError(ValueError):
    """A model, by its name, whose flow from a start cannot be followed."""

    def __init__(self, name: str, value: float | None, error: StiffFlowError) -> None:
        at = "" if value is None else f" at {MODELS[name].parameter} = {value:.3g}"
        self.name, self.reason = name, f"is too stiff from this start{at}: {error}"
        super().__init__(f"{name} {self.reason}")


def available(entry: Entry | None) -> dict[str, str]:
    """Which models can be predicted from an entry: "" or what is missing, by name. None: only omega and V are known."""
    reasons = {}
    for name, model in MODELS.items():
        missing = ""
        if model.needs != "spectrum" and entry is None:
            missing = "needs the class means and Sigma_W of the entry"
        elif model.needs == "classifier" and (entry is None or entry.W is None):
            missing = "needs the classifier W and b of the entry"
        elif model.needs == "layer":
            missing = _no_layer(entry)
        reasons[name] = missing
    return reasons


def _no_layer(entry: Entry | None) -> str:
    """Why the layer below predicts nothing, "" where it does."""
    if entry is None or entry.layer is None:
        return "needs the last linear map and the class statistics of the layer below"
    below = entry.layer
    frame = frame_of(entry.gram())
    try:
        linear = gram_of(below.A @ below.M, below.A @ below.sigma_w @ below.A.T, entry.priors)
        gap = abs(log_gram(linear, frame) - log_gram(entry.gram(), frame)).max()
    except ValueError:
        gap = np.inf
    return "" if gap <= SAME_START else f"the features are not linear in the layer below ({gap:.2g} of log omega)"


def motions(
    name: str,
    gram: np.ndarray,
    counts: np.ndarray,
    entry: Entry | None,
    values: tuple[float, ...] | None = None,
    turns: np.ndarray | None = None,
) -> list[tuple[float | None, Motion]]:
    """The flow of a model from an entry, one for every value of its parameter; from S T for every T of turns (B, C, C)."""
    model = MODELS[name]
    lam = 0.0 if entry is None else entry.lam
    if name in (RENORMALIZED.name, EMBEDDED.name):
        gram = gram if turns is None else turns.mT @ gram @ turns
        return [(None, renormalized_motion(gram, counts, 1.0 if name == RENORMALIZED.name else np.inf, lam))]
    if entry is None:
        raise ValueError(f"the model {name} needs the class means and Sigma_W of the entry")
    if name == PLAIN:
        return [(None, unnormalized_motion(entry, 1.0, turns))]
    if name == LAYER:
        return [(None, layer_motion(entry, turns))]
    make = unnormalized_motion if name == KERNEL else joint_motion
    return [(value, make(entry, value, turns)) for value in (model.values if values is None else values)]


@dataclass(frozen=True, eq=False, repr=False)
class Predictor:
    """Where the predictions of a run begin: G (C, C), class counts, frame (C, K), class statistics; how far they are followed,
    past the largest and the largest mean of the measured log omega.
    """

    gram: np.ndarray
    counts: np.ndarray
    frame: np.ndarray
    entry: Entry | None
    largest: float
    mean: float
    __repr__ = short_repr

    def traces(
        self, name: str, values: tuple[float, ...] | None = None, rough: bool = False
    ) -> list[tuple[float | None, np.ndarray, np.ndarray]]:
        """Of every value of a model's parameter: the value, Y (S, K, K) along its path and flow time (S,)."""
        ends = self.largest + MARGIN_LARGEST, self.mean + MARGIN_MEAN
        of = motions(name, self.gram, self.counts, self._reduced_for(name), values)
        traces = []
        for value, motion in of:
            followed = replace(motion, step=motion.rough) if rough and motion.rough is not None else motion
            try:
                Y, t = trace(followed, self.frame, *ends, STRIDE * self._coarser, enough=self.mean)
            except StiffFlowError as error:
                raise UnpredictedError(name, value, error) from error
            moved = np.r_[True, np.diff(lengths_along(Y)) > 0]
            traces.append((value, Y[moved], t[moved]))
        return traces

    def path(self, name: str, traced: tuple[float | None, np.ndarray, np.ndarray], where: tuple[np.ndarray, np.ndarray]) -> Path:
        """The values compared of one trace on an even grid, with their response to the start."""
        value, Y, t = traced
        values, length = self.on_grid(Y, where), lengths_along(Y)
        places = length * ((len(values) - 1) / length[-1]) if len(Y) > 1 else length
        return Path(values, self._response(name, value, Y, t, places, where), value)

    def on_grid(self, Y: np.ndarray, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The values compared of a trace (S, K, K), evenly spaced. (G, m)"""
        seen, length = Y[:, where[0], where[1]], lengths_along(Y)
        if len(seen) < 2:
            return seen
        largest = abs(np.diff(Y, axis=0)).max((1, 2)).sum()
        count = min(2 + int(largest / (GRID_SPACING * self._coarser)), PATH_POINTS)
        return CubicSpline(length, seen)(np.linspace(0, length[-1], count))

    def _reduced_for(self, name: str) -> Entry | None:
        """The entry with as few features as the flow of a model needs, whose steps cost up to P^3."""
        return self.entry if name == LAYER else self._reduced_with_classifier if name == JOINT else self._reduced

    @cached_property
    def _reduced(self) -> Entry | None:
        """What the flows of the features alone start from, in few features."""
        return None if self.entry is None else krylov(replace(self.entry, W=None, b=None, layer=None), BLOCKS)

    @cached_property
    def _reduced_with_classifier(self) -> Entry | None:
        return None if self.entry is None else krylov(self.entry, QUICK_BLOCKS)

    @property
    def _coarser(self) -> int:
        return 1 if self.frame.shape[1] <= MANY else 2

    def _response(
        self,
        name: str,
        value: float | None,
        Y: np.ndarray,
        t: np.ndarray,
        places: np.ndarray,
        where: tuple[np.ndarray, np.ndarray],
    ) -> Response:
        parameter = None if value is None else (value,)
        entry = self._reduced_for(name)
        ((_, motion),) = motions(name, self.gram, self.counts, entry, parameter, turns(Y[0], self.frame, where))
        try:
            return response(motion, self.frame, Y, t, places, where)
        except StiffFlowError as error:
            raise UnpredictedError(name, value, error) from error


def lengths_along(Y: np.ndarray) -> np.ndarray:
    """How long a path (S, K, K) is up to each of its points. (S,)"""
    return np.r_[0.0, np.cumsum(np.sqrt(((Y[1:] - Y[:-1]) ** 2).sum((1, 2))))]


def select(
    predicted: Mapping[str, Sequence[tuple[float | None, np.ndarray, np.ndarray]]], diagonal_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the values of Y compared: the diagonal, and off it those that the models predict most differently."""
    K = next(iter(predicted.values()))[0][1].shape[1]
    rows, columns = np.triu_indices(K)
    if diagonal_only:
        return np.arange(K), np.arange(K)
    if len(rows) <= MOST_VALUES:
        return rows, columns
    ends = np.stack([Y[-1] for predictions in predicted.values() for _, Y, _ in predictions])
    spread = np.ptp(ends, axis=0)[rows, columns]
    order = np.sort(np.argsort(-spread, kind="stable")[:MOST_VALUES])
    return rows[order], columns[order]
