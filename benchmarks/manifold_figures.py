"""Draw the figures of docs/geometry.md and docs/how-to-manifold.md: `python -m benchmarks.manifold_figures` (half a minute)."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
import torch
from pymanopt.optimizers import ConjugateGradient, TrustRegions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import geoopt

from manifolds import geoopt as geoopt_manifolds
from manifolds import normalized_features, retractions
from manifolds import pymanopt as pymanopt_manifolds
from manifolds.checks.slopes import measure_slope
from manifolds.class_centering import ClassLayout
from manifolds.embedded import geodesics
from tests.manifolds.losses import cross_entropy, least_squares
from ufm.files.plot import BLACK, BLUE, GREEN, RED

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
SAVE = {"dpi": 160, "bbox_inches": "tight", "metadata": {"Software": None}}


def picture_of_projections(axes: plt.Axes) -> None:
    """One feature, one direction of deviation: the manifold is a vertical line, a fibre a ray through the origin."""
    d, m, Z = 1.0, 0.8, np.array([0.75, 0.25])
    X = np.array([d, m])
    axes.axvline(d, color=BLACK, linewidth=2)
    axes.plot([0, 2.1 * d], [0, 2.1 * m], color="0.5", linestyle="--", linewidth=1)
    oblique = np.array([0, Z[1] - m / d * Z[0]])
    orthogonal = np.array([0, Z[1]])
    for end, colour in ((Z, "0.35"), (oblique, RED), (orthogonal, BLUE)):
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", tuple(X + end), tuple(X), arrowprops=arrow)
    for end, colour in ((oblique, RED), (orthogonal, BLUE)):
        axes.plot(*np.stack([X + Z, X + end]).T, color=colour, linestyle=":", linewidth=1.5)
    axes.plot(*X, "o", color=BLACK, zorder=5)
    axes.text(d - 0.06, m - 0.01, "$X$", ha="right", va="bottom")
    axes.text(X[0] + Z[0] + 0.03, X[1] + Z[1] + 0.02, "$Z$", color="0.25")
    axes.text(d - 0.05, m + 0.22, "$P(Z)$\northogonal", color=BLUE, ha="right")
    axes.text(d + 0.14, m - 0.5, "$\\Pi(Z)$\nalong the fibre", color=RED)
    axes.text(1.62, 1.62 * m + 0.1, "fibre $\\{SX\\}$", color="0.35", ha="center")
    axes.text(d + 0.03, 0.05, "manifold", rotation=90, va="bottom")
    axes.set(xlim=(0, 2.1), ylim=(0, 1.6), xlabel="deviation  $D/\\sqrt{n}$", ylabel="class mean", aspect="equal")


def orders_of_retractions(axes: plt.Axes) -> None:
    """Distance of each retraction from the exact geodesic of the embedded metric."""
    layout, rng = ClassLayout((5, 7, 6)), np.random.default_rng(0)
    X = retractions.nearest_point(rng.standard_normal((4, layout.n)) + layout.spread(rng.standard_normal((4, 3))), layout)
    U = normalized_features.orthogonal_projection(X, rng.standard_normal(X.shape), layout)
    U /= np.linalg.norm(U)
    for name, retraction, colour, marker in (
        ("renormalisation", retractions.renormalisation, RED, "o"),
        ("Cholesky on deviations", retractions.cholesky_retraction, GREEN, "s"),
        ("polar on deviations", retractions.polar_retraction, BLUE, "^"),
    ):
        verdict = measure_slope(
            name,
            lambda t, R=retraction: float(np.linalg.norm(R(X, t * U, layout) - geodesics.exp(X, t * U, layout))),
            2,
            1e-12,
            steps=np.geomspace(1e-4, 1, 25),
        )
        axes.loglog(verdict.steps, verdict.errors, marker, color=colour, markersize=4, label=f"{name}: slope {verdict.slope:.2f}")
        axes.loglog(verdict.steps, np.exp(verdict.intercept) * verdict.steps**verdict.slope, color=colour, linewidth=1)
    axes.set(xlabel="length of the step $t$", ylabel=r"$\|R(X, tU) - \exp(X, tU)\|_F$", ylim=(1e-14, 10))
    axes.legend(frameon=False, fontsize=8)


class Counted:
    """A torch cost as pymanopt's numpy functions that count every gradient and Hessian-vector product."""

    def __init__(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.loss, self.calls = loss, 0
        self.curve: list[tuple[int, float]] = []

    def cost(self, X: np.ndarray) -> float:
        return float(self.loss(torch.from_numpy(X)))

    def gradient(self, X: np.ndarray) -> np.ndarray:
        point = torch.from_numpy(X).requires_grad_(True)
        value = self.loss(point)
        (G,) = torch.autograd.grad(value, point)
        self.calls += 1
        self.curve.append((self.calls, value.item()))
        return G.numpy()

    def hessian(self, X: np.ndarray, U: np.ndarray) -> np.ndarray:
        point = torch.from_numpy(X).requires_grad_(True)
        (G,) = torch.autograd.grad(self.loss(point), point, create_graph=True)
        (H,) = torch.autograd.grad((G * torch.from_numpy(U)).sum(), point)
        self.calls += 1
        return H.numpy()


def run_pymanopt(loss: Callable, X: np.ndarray, layout: ClassLayout, optimizer: object) -> list[tuple[int, float]]:
    """Loss against gradient evaluations."""
    manifold, counted = pymanopt_manifolds.EmbeddedNormalizedFeatures(layout, len(X)), Counted(loss)
    wrap = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold, wrap(counted.cost), euclidean_gradient=wrap(counted.gradient), euclidean_hessian=wrap(counted.hessian)
    )
    optimizer.run(problem, initial_point=X)  # type: ignore[attr-defined]
    return counted.curve


def run_geoopt(loss: Callable, X: np.ndarray, layout: ClassLayout, make: Callable, steps: int) -> list[tuple[int, float]]:
    """Loss against gradient evaluations."""
    manifold = geoopt_manifolds.NormalizedFeatures(layout)
    point = geoopt.ManifoldParameter(torch.from_numpy(X.copy()), manifold=manifold)  # type: ignore[unexpected-keyword]
    optimizer, curve = make([point]), []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        value = loss(point)
        value.backward()
        curve.append((step, value.item()))
        optimizer.step()
    return curve


def optimizers() -> None:
    """Loss against gradient evaluations, three losses, four optimizers."""
    layout, P, budget, rng = ClassLayout.equal(4, 25), 8, 300, np.random.default_rng(0)
    H = rng.standard_normal((P, layout.n)) + layout.spread(0.5 * rng.standard_normal((P, layout.C)))
    X = normalized_features.renormalize(H - H.mean(-1, keepdims=True), layout)
    losses = {
        "$L_{LS}$": partial(least_squares, layout=layout),
        r"$L_{LS}$ with weight decay $\lambda = 0.05$": partial(least_squares, layout=layout, lam=0.05),
        "cross-entropy + feature decay": partial(cross_entropy, layout=layout),
    }
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6))
    for axes, (title, loss) in zip(panels, losses.items(), strict=True):
        curves = {
            ("RiemannianSGD (geoopt, bundle)", BLUE, "-"): run_geoopt(
                loss, X, layout, partial(geoopt.optim.RiemannianSGD, lr=20.0), budget
            ),
            ("RiemannianAdam (geoopt, bundle)", RED, "--"): run_geoopt(
                loss, X, layout, partial(geoopt.optim.RiemannianAdam, lr=0.1), budget
            ),
            ("conjugate gradient (pymanopt, embedded)", GREEN, "-."): run_pymanopt(
                loss, X, layout, ConjugateGradient(verbosity=0, max_iterations=budget, min_gradient_norm=1e-9)
            ),
            ("trust regions (pymanopt, embedded)", BLACK, ":"): run_pymanopt(
                loss, X, layout, TrustRegions(verbosity=0, max_iterations=40, min_gradient_norm=1e-9)
            ),
        }
        floor = min(value for curve in curves.values() for _, value in curve) if "cross" in title else 0.0
        for (name, colour, style), curve in curves.items():
            calls, values = np.array([c for c in curve if c[0] <= budget]).T
            axes.loglog(calls, np.maximum(values - floor, 1e-13), style, color=colour, linewidth=2, label=name)
        axes.set(title=title, xlabel="gradient (or Hessian-vector) evaluations")
        axes.set_ylabel("loss" if floor == 0 else "loss - lowest reached")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="lower center", ncols=4)
    figure.savefig(FIGURES / "manifold-optimizers.png", **SAVE)


def main() -> None:
    """All figures."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    picture_of_projections(left)
    orders_of_retractions(right)
    figure.tight_layout()
    figure.savefig(FIGURES / "manifold-normalized_features.png", **SAVE)
    optimizers()


if __name__ == "__main__":
    main()
