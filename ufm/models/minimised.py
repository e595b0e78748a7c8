"""A model whose theory is about minimisers: an objective, its solvers, and the starts of which the lowest end counts."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from ufm.models.base import Model, Solved
from ufm.models.objective.peeled import Point
from ufm.models.solvers.contract import Objective


class Recorder:
    """An observer that keeps every point it is shown."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def __call__(self, point: Point) -> None:
        self.points.append(tuple(t.clone() for t in point))

    def solved(self, start: Point, end: Point, seed: int) -> Solved:
        """The path from start to end, one point an iteration."""
        path = (start, *self.points, end)
        return Solved(end, path, np.arange(len(path), dtype=np.float64), seed=seed)


@dataclass(frozen=True, kw_only=True)
class Minimised(Model):
    """A model with an `objective` and `solvers` for it, the first one the default."""

    @abstractmethod
    def objective(self, device: str = "cpu") -> Objective:
        """The function that is minimised, with its tensors on the device."""

    def starts(self, seed: int, device: str = "cpu") -> list[Point]:
        """The starts of which the lowest end counts: one, and more where the model has local minima."""
        return [self.start(seed, device)]

    def solve(self, seed: int, device: str = "cpu") -> Solved:
        """A real solve from every seeded random start; the lowest end."""
        solver, objective = self.solvers[self.optimizer or next(iter(self.solvers))], self.objective(device)
        ends = []
        for start in self.starts(seed, device):
            recorder = Recorder()
            ends.append(recorder.solved(start, solver(objective, self.feasible, start, recorder), seed))
        return min(ends, key=lambda solved: self.value(solved.point))

    def value(self, point: Point) -> float:
        """The objective at a feasible point."""
        return float(self.objective(str(point[0].device)).value_and_gradient(point)[0])
