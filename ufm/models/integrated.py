"""A model whose theory is a law in time: a velocity that is integrated from a seeded start."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from ufm.models.base import Model, Solved
from ufm.models.objective.peeled import Point
from ufm.models.solvers.gradient_flow import integral_curve


@dataclass(frozen=True, kw_only=True)
class Integrated(Model):
    """A model with a `velocity`, followed over `times` from its start; nothing is minimised and nothing has a curvature."""

    @property
    @abstractmethod
    def times(self) -> np.ndarray:
        """When the state is kept, from the start on. (T,)"""

    @abstractmethod
    def velocity(self, point: Point) -> Point:
        """The time derivative of a point, one tensor for every tensor of it."""

    def solve(self, seed: int, device: str = "cpu") -> Solved:
        """Integrate the full state from the random start by DOP853."""
        path = integral_curve(self.velocity, self.start(seed, device), self.times)
        return Solved(path[-1], path, self.times, "time t", seed=seed)
