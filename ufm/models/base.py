"""What a model is: a problem, its feasible set, a solver, a prediction with its source, and a domain of validity."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from manifolds.class_centering import ClassLayout, whole_number
from manifolds.representation import short_repr
from manifolds.rng import RNG, seed_from
from ufm.models import simplex
from ufm.models.objective.feasible import Feasible, Flat
from ufm.models.objective.peeled import Point, gaussian_point
from ufm.models.solvers.contract import Solver

Quantity = float | list[float]
Quantities = dict[str, Any]  # each a Quantity: a number or one for every class, as its name says


@dataclass(frozen=True)
class Facts:
    """What a paper states, in words: one row of the gallery."""

    name: str
    paper: str
    loss: str
    constraint: str
    theory: str
    domain: str
    needs: str = "the theory covers equal classes and the options listed only"


@dataclass(frozen=True, repr=False)
class Solved:
    """The last point of a solve, the path to it, and its clock: iterations, or the time of a flow."""

    point: Point
    path: tuple[Point, ...] = ()
    times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    clock: str = "iteration"
    extra: Quantities = field(default_factory=dict)
    seed: int = 0
    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A problem in a classifier W (C, P) and features H (P, n) in class blocks; subclasses add penalties, energies, temperatures.

    `Minimised` and `Integrated` say how it is solved. Construction checks that the problem makes sense; `check_domain` that the
    paper's theory covers it, so that a problem outside the theory can still be solved. Both raise ValueError with the violated
    number and the way out.
    """

    facts: ClassVar[Facts]
    solvers: ClassVar[Mapping[str, Solver]] = {}  # the first one is the default
    C: int = 5
    N: int = 7
    P: int = 9
    optimizer: str = ""

    def __post_init__(self) -> None:
        for name, least in (("C", 2), ("N", 1), ("P", 1)):
            object.__setattr__(self, name, whole_number(getattr(self, name), name))
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: needs at least {name} = {least}")
        if self.optimizer and self.optimizer not in self.solvers:
            known = ", ".join(self.solvers) or "none: this model is integrated"
            raise ValueError(f"optimizer = {self.optimizer}: unknown to {self.facts.name}; choose from {known}")

    @property
    def layout(self) -> ClassLayout:
        """The class blocks of H."""
        return ClassLayout.equal(self.C, self.N)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of the tensors of a point."""
        return ((self.C, self.P), (self.P, self.layout.n))

    @property
    def feasible(self) -> Feasible:
        """The feasible set of every tensor of a point."""
        return (Flat(),) * len(self.shapes)

    @abstractmethod
    def check_domain(self) -> None:
        """Raise ValueError where the theory says nothing about these parameters."""

    @abstractmethod
    def predicted(self) -> Quantities:
        """What the theory gives, by quantity; `minimum` where the problem has one."""

    @abstractmethod
    def measured(self, solved: Solved) -> Quantities:
        """The same quantities at the end of the solve."""

    def start(self, seed: int, device: str = "cpu") -> Point:
        """A seeded random feasible point: Gaussian entries, moved onto the feasible set."""
        point = gaussian_point(self.shapes, seed, device=device)
        return tuple(space.onto(t) for space, t in zip(self.feasible, point, strict=True))

    @abstractmethod
    def solve(self, seed: int, device: str = "cpu") -> Solved:
        """A real solve or integration from a seeded random start."""

    @abstractmethod
    def value(self, point: Point) -> float:
        """The loss at a feasible point."""

    def classifier_and_features(self, point: Point) -> tuple[Tensor, Tensor]:
        """W (C, P) and H (P, n) of a point."""
        return point[0], point[1]

    def target(self, like: Tensor) -> Tensor:
        """The Gram matrix that theory gives the class means, up to size: that of the simplex ETF. (C, C)"""
        return simplex.centred_identity(self.C, like)

    def collapse(self, point: Point) -> dict[str, float]:
        """Defects of NC1, NC2 (distance from `target`) and NC3, each 0 at collapse."""
        W, H = self.classifier_and_features(point)
        return simplex.collapse(W, H, self.layout, self.target(H))


@dataclass(frozen=True, kw_only=True)
class Framed(Model):
    """A model whose class means form an orthogonal frame."""

    def target(self, like: Tensor) -> Tensor:
        """I. (C, C)"""
        return simplex.identity(self.C, like)


@dataclass(frozen=True, repr=False)
class Simulation:
    """One simulated model: the two columns of the table, their difference and the collapse on the way."""

    model: Model
    seed: int
    device: str
    predicted: Quantities
    measured: Quantities
    deviation: dict[str, float]
    times: np.ndarray
    clock: str
    history: dict[str, np.ndarray]
    __repr__ = short_repr


def deviation(predicted: Quantity, measured: Quantity) -> float:
    """max |measured - predicted|, absolute."""
    return float(np.max(np.abs(np.asarray(measured) - np.asarray(predicted))))


def simulate(model: Model, seed: int = 0, device: str = "cpu", *, rng: RNG = None) -> Simulation:
    """Check the domain, solve from a random start, measure, and set the result beside the prediction.

    `rng` is a generator that the seed is drawn from, or a seed; the result holds the seed that was used.
    """
    seed = seed_from(rng, seed)
    model.check_domain()
    predicted = model.predicted()
    solved = model.solve(seed, device)
    measured = model.measured(solved)
    if predicted.keys() != measured.keys():
        raise RuntimeError(f"{model.facts.name}: predicted {sorted(predicted)} but measured {sorted(measured)}")
    rows = [{"objective": model.value(p), **model.collapse(p)} for p in solved.path]
    history = {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    deviations = {name: deviation(predicted[name], measured[name]) for name in predicted}
    return Simulation(model, seed, device, predicted, measured, deviations, solved.times, solved.clock, history)


def need_positive(**values: float) -> None:
    """Raise ValueError where a value is not a finite number above 0."""
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} = {value}: must be positive and finite")


def need_not_negative(**values: float) -> None:
    """Raise ValueError where a value is not a finite number of at least 0."""
    for name, value in values.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} = {value}: must be finite and not negative")


def need_etf(C: int, P: int) -> None:
    """Raise ValueError where a simplex ETF of C vectors does not fit into P features: P < C - 1."""
    if P < C - 1:
        raise ValueError(
            f"P = {P} < C - 1 = {C - 1}: no simplex ETF of {C} vectors exists there; use P >= {C - 1} or fewer classes"
        )


def need_frame(C: int, P: int) -> None:
    """Raise ValueError where an orthogonal frame of C vectors does not fit into P features: P < C."""
    if P < C:
        raise ValueError(f"P = {P} < C = {C}: no orthogonal frame of {C} vectors exists there; use P >= {C} or fewer classes")
