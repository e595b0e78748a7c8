"""What the pymanopt optimizers of this folder share: points one after another, printed, logged and stopped as pymanopt does."""

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymanopt import Problem
from pymanopt.optimizers.optimizer import Optimizer, OptimizerResult
from pymanopt.tools import printer

from manifolds.array import ManifoldPoint, Vector

_Optimizer: Any = Optimizer  # untyped


@dataclass(frozen=True)
class Iterate:
    """A point with its cost and gradient, and the way to it: length of the step, evaluations of the cost in all."""

    point: ManifoldPoint
    cost: float
    gradient: Vector
    gradient_norm: float
    step_size: float
    cost_evaluations: int
    saddle: bool = False  # whether a small gradient is no reason to stop here


class IteratingOptimizer(_Optimizer):
    """A pymanopt optimizer that is given by its iterates. Takes pymanopt's stopping and printing options by keyword.

    The initial point is not written on. `iterations` of the result counts steps.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._parameters: dict[str, Any] = {}

    @abstractmethod
    def _iterates(self, problem: Problem, point: ManifoldPoint) -> Iterator[Iterate]:
        """The initial point, and one more after each step; a step of length 0 says that there is no further one."""

    def run(self, problem: Problem, *, initial_point: ManifoldPoint = None) -> OptimizerResult:
        """Minimise problem.cost from `initial_point`, or from a random point of the manifold, until a criterion stops it."""
        self._initialize_log(optimizer_parameters=self._parameters)
        start, start_time = problem.manifold.random_point() if initial_point is None else initial_point, time.time()
        table = self._table()
        table.print_header()
        with closing(self._iterates(problem, start)) as iterates:  # type: ignore[type-var]
            for iteration, iterate in enumerate(iterates):
                table.print_row([iteration, float(iterate.cost), float(iterate.gradient_norm)])
                self._add_log_entry(
                    iteration=iteration, point=iterate.point, cost=iterate.cost, gradient_norm=iterate.gradient_norm
                )
                reason = self._check_stopping_criterion(
                    start_time=start_time,
                    iteration=iteration,
                    gradient_norm=np.inf if iterate.saddle else iterate.gradient_norm,
                    step_size=iterate.step_size,
                    cost_evaluations=iterate.cost_evaluations,
                )
                if reason:
                    break
        if self._verbosity >= 1:
            print(reason)
        return self._return_result(
            start_time=start_time,
            point=iterate.point,
            cost=iterate.cost,
            iterations=iteration,
            stopping_criterion=reason,
            cost_evaluations=iterate.cost_evaluations,
            step_size=iterate.step_size,
            gradient_norm=iterate.gradient_norm,
        )

    def _table(self) -> printer.VoidPrinter | printer.ColumnPrinter:
        if self._verbosity < 2:
            return printer.VoidPrinter()
        width = int(np.log10(max(self._max_iterations, 1))) + 1
        return printer.ColumnPrinter(columns=[("Iteration", f"{width}d"), ("Cost", "+.16e"), ("Gradient norm", ".8e")])
