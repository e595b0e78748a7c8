"""A problem as numpy sees it: the logarithm of the objective as a function of one float64 vector, and the feasible set.

Solvers minimise log f: its gradient is relative, so one stopping rule serves a loss of 1 and one of 1e-40. Tensors on the CPU
are handed to numpy as they are; on any other device the objective is evaluated there and vectors stay on the host.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from ufm.arrays import as_numpy
from ufm.models.objective.feasible import Feasible, Spheres
from ufm.models.objective.peeled import Point
from ufm.models.solvers.contract import Objective, positive

Curvature = Callable[[np.ndarray], np.ndarray]


def on_numpy(thing: object) -> Any:
    """A dataclass with its tensors as numpy arrays on the same memory, field by field; anything else unchanged."""
    if isinstance(thing, torch.Tensor):
        return as_numpy(thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        return replace(thing, **{f.name: on_numpy(getattr(thing, f.name)) for f in fields(thing)})
    return thing


class Flattening:
    """Between a point on any device and one float64 vector on the host."""

    def __init__(self, point: Point) -> None:
        ends = np.cumsum([0, *(t.numel() for t in point)]).tolist()
        self.slices = [(a, b, tuple(t.shape)) for a, b, t in zip(ends[:-1], ends[1:], point, strict=True)]
        self.device = point[0].device

    def vector(self, point: Point) -> np.ndarray:
        """All entries in order. (sum of sizes,)"""
        return as_numpy(torch.cat([t.reshape(-1) for t in point]))

    def point(self, vector: np.ndarray) -> Point:
        """The tensors back, on the device of the first point."""
        return tuple(torch.from_numpy(part).to(self.device) for part in self.parts(vector))

    def parts(self, vector: np.ndarray) -> list[np.ndarray]:
        """Views of the entries in the shapes of the tensors."""
        return [vector[a:b].reshape(shape) for a, b, shape in self.slices]


class Vectors(Flattening):
    """log f, its Riemannian gradient and Hessian, and the feasible set, on vectors.

    Raises RuntimeError where f is not positive, which for a loss means that it has underflowed.
    """

    def __init__(self, objective: Objective, feasible: Feasible, start: Point) -> None:
        super().__init__(start)
        self.on_host = self.device.type == "cpu"
        self.objective, self.feasible = on_numpy(objective) if self.on_host else objective, feasible
        self.lower = np.concatenate([np.full(t.numel(), s.lower) for s, t in zip(feasible, start, strict=True)])
        self.bounded, self.curved = bool(np.isfinite(self.lower).any()), any(isinstance(s, Spheres) for s in feasible)
        self.free: np.ndarray | None = None  # entries that move, where some are held at their bound
        self.last: tuple[np.ndarray, float, np.ndarray] | None = None  # solvers ask for the value, gradient and Hessian in turn

    def given(self, x: np.ndarray) -> Any:
        """The point of a vector, as the objective takes it."""
        return self.parts(x) if self.on_host else self.point(x)

    def taken(self, tensors: Any) -> np.ndarray:
        """The vector of what the objective returns."""
        return np.concatenate([t.reshape(-1) for t in tensors]) if self.on_host else self.vector(tensors)

    def euclidean(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """f and grad f / f."""
        if self.last is None or self.last[0] is not x:
            value, gradient = self.objective.value_and_gradient(self.given(x))
            self.last = x, positive(float(value)), self.taken(gradient) / float(value)
        return self.last[1:]

    def value_and_euclidean(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """log f and its Euclidean gradient."""
        x = x.copy()  # scipy reuses its own
        value, gradient = self.euclidean(x)
        return float(np.log(value)), gradient

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """log f and its Riemannian gradient in the entries that are not held."""
        value, gradient = self.euclidean(x)
        return float(np.log(value)), self.tangent(x, gradient if self.free is None else self.free * gradient)

    def hessian(self, x: np.ndarray) -> Curvature:
        """The Riemannian Hessian of log f at x on tangent vectors: tangent(H d - <x, grad> d) on spheres; held entries stay.

        H d = f'' d / f - <g, d> g with g = grad f / f.
        """
        inner, (value, g) = self.objective.curvature_at(self.given(x)), self.euclidean(x)
        pull = self.pull(x, g) if self.curved else None

        def apply(d: np.ndarray) -> np.ndarray:
            bent = self.taken(inner(self.given(d)))
            bent *= 1 / value
            bent -= (g @ d) * g
            if pull is not None:
                bent = self.tangent(x, bent - pull * d)
            return bent if self.free is None else self.free * bent

        return apply

    def snapped(self, x: np.ndarray, share: float) -> np.ndarray:
        """x with every entry within `share` of the largest from its bound put there, and held there from now on."""
        self.free = x - self.lower > share * np.abs(x).max()
        return np.where(self.free, x, self.lower)

    def pull(self, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        """<x, g> of the sphere that every entry belongs to, 0 on flat space."""
        triples = zip(self.feasible, self.parts(x), self.parts(g), strict=True)
        return np.concatenate([np.broadcast_to(s.along(a, b), a.shape).reshape(-1) for s, a, b in triples])

    def onto(self, x: np.ndarray) -> np.ndarray:
        """The nearest feasible vector."""
        if not (self.curved or self.bounded):
            return x
        return np.concatenate([s.onto(a).reshape(-1) for s, a in zip(self.feasible, self.parts(x), strict=True)])

    def tangent(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The projection of z on the tangent space at x."""
        if not self.curved:
            return z
        triples = zip(self.feasible, self.parts(x), self.parts(z), strict=True)
        return np.concatenate([s.tangent(a, b).reshape(-1) for s, a, b in triples])
