"""Optimizer steps and whole runs on the manifold at four sizes, beside Stiefel x Euclidean of geoopt and of pymanopt.

    python -m benchmarks.manifold_sizes [--sizes 4,25,8 10,100,64] [--pairs 7]

The rivals hold the deviations D / sqrt(n) on a Stiefel manifold of n x P matrices and the class means, in the same scale, in a
Euclidean space; a cost sees the deviations of what they hold, so that gradients keep them centred.
Float64, one thread, processor time; ratios of pairs.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the lines above
import pymanopt  # noqa: E402
import torch  # noqa: E402
from pymanopt.optimizers import ConjugateGradient, TrustRegions  # noqa: E402

torch.set_num_threads(1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import geoopt

from benchmarks.timing import paired  # noqa: E402
from manifolds import geoopt as geoopt_manifolds  # noqa: E402
from manifolds import pymanopt as pymanopt_manifolds  # noqa: E402
from manifolds.class_centering import ClassLayout  # noqa: E402
from manifolds.optimizers.arc import AdaptiveCubicRegularization  # noqa: E402
from manifolds.optimizers.lbfgs import RiemannianLBFGS  # noqa: E402
from manifolds.retractions import nearest_point  # noqa: E402

SIZES = ((4, 25, 8), (10, 100, 64), (10, 200, 256), (10, 500, 512))
REDUCTION = 1e-5  # of the gradient norm, in the whole runs
Parameter: Any = geoopt.ManifoldParameter  # untyped
Optimizer = Callable[[list[torch.Tensor]], Any]
OPTIMIZERS: dict[str, Optimizer] = {
    "RiemannianSGD": lambda points: geoopt.optim.RiemannianSGD(points, lr=1e-3),
    "RiemannianSGD, momentum": lambda points: geoopt.optim.RiemannianSGD(points, lr=1e-3, momentum=0.9),
    "RiemannianAdam": lambda points: geoopt.optim.RiemannianAdam(points, lr=1e-3),
}
CLASSES = {"embedded": geoopt_manifolds.EmbeddedNormalizedFeatures, "bundle": geoopt_manifolds.NormalizedFeatures}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=[",".join(map(str, size)) for size in SIZES])
    parser.add_argument("--pairs", type=int, default=7)
    given = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    for text in given.sizes:
        C, N, P = map(int, text.split(","))
        layout, rng = ClassLayout.equal(C, N), np.random.default_rng(0)
        X = nearest_point(rng.standard_normal((P, layout.n)) + layout.spread(rng.standard_normal((P, C))), layout)
        target = rng.standard_normal(X.shape) + layout.spread(rng.standard_normal((P, C)))
        steps((C, N, P), layout, X, rng, given.pairs)
        runs((C, N, P), layout, X, target)
        evaluations((C, N, P), layout, X, target)


def steps(size: tuple[int, int, int], layout: ClassLayout, X: np.ndarray, rng: np.random.Generator, pairs: int) -> None:
    """Time of an optimizer's step, the gradient given: ours / geoopt's EuclideanStiefel x Euclidean."""
    x, g = torch.from_numpy(X), torch.from_numpy(1e-2 * rng.standard_normal(X.shape))
    repeats = max(1, 2_000_000 // (X.shape[0] * X.size))
    for name, make in OPTIMIZERS.items():
        for metric, cls in CLASSES.items():
            ratio = paired(_our_step(x, g, cls(layout), make), _their_step(x, g, layout, make), pairs, repeats)
            print(
                f"{size} {name}, {metric}: {ratio.ours * 1e3:.3g} ms, geoopt {ratio.other * 1e3:.3g} ms, "
                f"{ratio.ratio:.2f} x ({ratio.low:.2f} to {ratio.high:.2f})",
                flush=True,
            )


def _our_step(X: torch.Tensor, G: torch.Tensor, manifold: Any, make: Optimizer) -> Callable[[], object]:
    x = Parameter(X.clone(), manifold=manifold)
    optimizer = make([x])

    def step() -> None:
        x.grad = G.clone()
        optimizer.step()

    return step


def _their_step(X: torch.Tensor, G: torch.Tensor, layout: ClassLayout, make: Optimizer) -> Callable[[], object]:
    Q = Parameter((layout.deviations(X) / layout.n**0.5).mT.contiguous(), manifold=geoopt.EuclideanStiefel())
    M = torch.nn.Parameter(layout.means(X))
    optimizer, G_Q, G_M = make([Q, M]), layout.deviations(G).mT.contiguous(), layout.means(G)

    def step() -> None:
        Q.grad, M.grad = G_Q.clone(), G_M.clone()
        optimizer.step()

    return step


class Weighted:
    """f(X) = sum_p w_p |x_p - t_p|^2 / 2: cheap, so that the manifold's own work is what is measured."""

    def __init__(self, layout: ClassLayout, target: np.ndarray) -> None:
        self.layout, self.target = layout, target
        self.weights = np.linspace(0.5, 2.0, len(target))[:, None]

    def cost(self, X: np.ndarray) -> float:
        return float(np.sum(self.weights * (X - self.target) ** 2)) / 2

    def gradient(self, X: np.ndarray) -> np.ndarray:
        return self.weights * (X - self.target)

    def hessian(self, X: np.ndarray, U: np.ndarray) -> np.ndarray:
        del X
        return self.weights * U


class Counted(Weighted):
    """The same, with what was asked of it."""

    costs = gradients = products = 0

    def cost(self, X: np.ndarray) -> float:
        self.costs += 1
        return super().cost(X)

    def gradient(self, X: np.ndarray) -> np.ndarray:
        self.gradients += 1
        return super().gradient(X)

    def hessian(self, X: np.ndarray, U: np.ndarray) -> np.ndarray:
        self.products += 1
        return super().hessian(X, U)


def _our_problem(f: Weighted) -> pymanopt.Problem:
    manifold = pymanopt_manifolds.EmbeddedNormalizedFeatures(f.layout, len(f.target), seed=0)
    wrap = pymanopt.function.numpy(manifold)
    return pymanopt.Problem(manifold, wrap(f.cost), euclidean_gradient=wrap(f.gradient), euclidean_hessian=wrap(f.hessian))


def _their_problem(f: Weighted) -> pymanopt.Problem:
    layout, (P, n), root = f.layout, f.target.shape, f.layout.n**0.5
    manifold = pymanopt.manifolds.Product(
        [pymanopt.manifolds.Stiefel(n, P, retraction="polar"), pymanopt.manifolds.Euclidean(P, layout.C)]
    )
    wrap, scales = pymanopt.function.numpy(manifold), np.sqrt(np.asarray(layout.sizes))

    def features(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
        return root * (layout.deviations(Q.T) + layout.spread(K / scales))

    def pulled(G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return root * layout.deviations(G).T, root * layout.rest_coordinates(G)

    return pymanopt.Problem(
        manifold,
        wrap(lambda Q, K: f.cost(features(Q, K))),
        euclidean_gradient=wrap(lambda Q, K: pulled(f.gradient(features(Q, K)))),
        euclidean_hessian=wrap(lambda Q, K, V, L: pulled(f.hessian(Q, features(V, L)))),
    )


def runs(size: tuple[int, int, int], layout: ClassLayout, X: np.ndarray, target: np.ndarray) -> None:
    """Whole runs of pymanopt's optimizers until the gradient norm has fallen by REDUCTION."""
    f = Weighted(layout, target)
    start = [layout.deviations(X).T / layout.n**0.5, layout.rest_coordinates(X) / layout.n**0.5]
    for name, optimizer in (("ConjugateGradient", ConjugateGradient), ("TrustRegions", TrustRegions)):
        lines = []
        for problem, point in ((_our_problem(f), X), (_their_problem(f), start)):
            manifold: Any = problem.manifold
            first = float(manifold.norm(point, problem.riemannian_gradient(point)))
            run = optimizer(verbosity=0, min_gradient_norm=REDUCTION * first, max_iterations=500, max_time=600)
            began = time.process_time()
            result: Any = run.run(problem, initial_point=point)
            lines.append((time.process_time() - began, result.iterations, result.gradient_norm / first, result.cost))
        (ours, *_), (theirs, *_) = lines
        both = "; Stiefel x Euclidean ".join(
            f"{seconds:.3g} s, {count} iterations, gradient {norm:.1e}, cost {cost:.9g}" for seconds, count, norm, cost in lines
        )
        print(f"{size} {name}: {both}; {theirs / ours:.2f} x", flush=True)


def evaluations(size: tuple[int, int, int], layout: ClassLayout, X: np.ndarray, target: np.ndarray) -> None:
    """What our optimizers and pymanopt's ask of a cost until the gradient norm has fallen by REDUCTION, embedded metric."""
    optimizers: dict[str, Any] = {
        "ConjugateGradient": ConjugateGradient,
        "TrustRegions": TrustRegions,
        "RiemannianLBFGS": RiemannianLBFGS,
        "AdaptiveCubicRegularization": partial(AdaptiveCubicRegularization, second_order=False),
    }
    for name, optimizer in optimizers.items():
        f = Counted(layout, target)
        problem = _our_problem(f)
        manifold: Any = problem.manifold
        first = float(manifold.norm(X, problem.riemannian_gradient(X)))
        f.costs = f.gradients = f.products = 0
        run = optimizer(verbosity=0, min_gradient_norm=REDUCTION * first, max_iterations=500, max_time=600)
        began = time.process_time()
        result: Any = run.run(problem, initial_point=X)
        seconds = time.process_time() - began
        print(
            f"{size} {name}: {result.iterations} iterations, {f.costs} costs, {f.gradients} gradients, "
            f"{f.products} Hessian products, "
            f"{seconds:.3g} s, cost {result.cost:.9g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
