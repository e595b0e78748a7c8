"""The fused step beside the two calls it stands for, and the share of the class means' singular vectors in whole runs.

    python -m benchmarks.manifold_pairs [--sizes 3,20,12 5,40,30] [--pairs 9] [--runs 4,25,8 10,100,64]

Float64, one thread, processor time; ratios of interleaved pairs in both orders.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the lines above
import pymanopt  # noqa: E402
import torch  # noqa: E402
from pymanopt.optimizers import ConjugateGradient, TrustRegions  # noqa: E402

torch.set_num_threads(1)

from benchmarks.manifold_sizes import REDUCTION, Weighted  # noqa: E402
from benchmarks.timing import paired  # noqa: E402
from manifolds import steps  # noqa: E402
from manifolds.bundle import connection  # noqa: E402
from manifolds.class_centering import ClassLayout  # noqa: E402
from manifolds.metrics import BundleMetric, EmbeddedMetric  # noqa: E402
from manifolds.pymanopt import NormalizedFeatures  # noqa: E402
from manifolds.retractions import cholesky_retraction, nearest_point, polar_retraction  # noqa: E402

SIZES = ("3,20,12", "5,40,30", "10,50,100", "10,50,220", "10,100,256", "10,500,512")
RUNS = ("4,25,8", "10,100,64", "10,200,256", "10,500,512")
ETA = 1e-2
RETRACTIONS = {"polar": polar_retraction, "Cholesky": cholesky_retraction}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=SIZES, metavar="C,N,P", help="of the fused step")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--runs", nargs="*", default=RUNS, metavar="C,N,P", help="of the share of the singular vectors")
    given = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    for text in given.sizes:
        fused(*_point(text), given.pairs)
    for text in given.runs:
        shares(*_point(text))


def _point(text: str) -> tuple[ClassLayout, np.ndarray, np.ndarray]:
    """A point of that size (C, N, P), and an ambient matrix like it."""
    C, N, P = map(int, text.split(","))
    layout, rng = ClassLayout.equal(C, N), np.random.default_rng(0)
    Z, W = (rng.standard_normal((P, layout.n)) + layout.spread(rng.standard_normal((P, C))) for _ in range(2))
    return layout, nearest_point(Z, layout), W


def fused(layout: ClassLayout, X: np.ndarray, G: np.ndarray, pairs: int) -> None:
    """Time of gradient_step over retraction(X, -eta gradient): numpy and tensors, embedded and bundle metric."""
    repeats = max(1, 2_000_000 // (X.shape[0] * X.size))
    arrays: dict[str, tuple[Any, Any]] = {"numpy": (X, G), "tensors": (torch.from_numpy(X), torch.from_numpy(G))}
    for kind, (x, g) in arrays.items():
        for name, retraction in RETRACTIONS.items():
            ratios = [
                paired(
                    partial(steps.gradient_step, x, g, ETA, metric, retraction),
                    partial(_two_calls, x, g, metric, retraction),
                    pairs,
                    repeats,
                )
                for metric in (EmbeddedMetric(layout), BundleMetric(layout))
            ]
            cells = ", ".join(f"{pair.ratio:.2f} x ({pair.low:.2f} to {pair.high:.2f})" for pair in ratios)
            print(f"{_size(layout, X)} gradient_step / two calls, {kind}, {name}: {cells}", flush=True)


def _two_calls(x: Any, g: Any, metric: EmbeddedMetric | BundleMetric, retraction: Callable[..., Any]) -> object:
    return retraction(x, -ETA * metric.gradient(x, g), metric.layout)


@dataclass
class Clock:
    """Processor seconds inside the functions that it times, and how often they were called; a call inside another is its part."""

    seconds: float = 0.0
    calls: int = 0
    running: bool = False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.running:
                return function(*args, **kwargs)
            self.running, began = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.running, self.calls = False, self.calls + 1
                self.seconds += time.process_time() - began

        return call


@contextmanager
def _timed_singular_vectors() -> Iterator[Clock]:
    clock = Clock()
    few = patch.object(connection, "svd_of_few_rows", clock.timed(connection.svd_of_few_rows))
    with few, patch.object(np.linalg, "svd", clock.timed(np.linalg.svd)):
        yield clock


def shares(layout: ClassLayout, X: np.ndarray, target: np.ndarray) -> None:
    """Share of all singular value decompositions in the time of a run in the bundle metric: the most that a cache could save."""
    f = Weighted(layout, target)
    manifold: Any = NormalizedFeatures(layout, len(X), seed=0)
    wrap = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(manifold, wrap(f.cost), euclidean_gradient=wrap(f.gradient), euclidean_hessian=wrap(f.hessian))
    first = float(manifold.norm(X, problem.riemannian_gradient(X)))
    for name, optimizer in (("ConjugateGradient", ConjugateGradient), ("TrustRegions", TrustRegions)):
        run = optimizer(verbosity=0, min_gradient_norm=REDUCTION * first, max_iterations=500, max_time=600)
        with _timed_singular_vectors() as clock:
            began = time.process_time()
            result: Any = run.run(problem, initial_point=X)
            seconds = time.process_time() - began
        print(
            f"{_size(layout, X)} {name}, bundle metric: {result.iterations} iterations, {clock.calls} decompositions, "
            f"{100 * clock.seconds / seconds:.2g}% of {seconds:.3g} s",
            flush=True,
        )


def _size(layout: ClassLayout, X: np.ndarray) -> str:
    return f"{(layout.C, layout.N, len(X))}"


if __name__ == "__main__":
    main()
