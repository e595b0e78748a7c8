"""Numerical checks of a semidefinite form that is given by its action alone: whether its maps belong to one B = G G^T."""

import numpy as np

from manifolds.checks.residuals import ROUNDING
from manifolds.checks.slopes import Bound, CheckResult, Report
from manifolds.forms import SemidefiniteForm


def check_form(form: SemidefiniteForm) -> Report:
    """Every law of `SemidefiniteForm`, on the n rows of the identity in float64: n x n numbers are formed, so take a small n.

    `check_manifold` asks for none of `apply` and `rank`, which only `flat` and the refusals use.
    """
    n = form.columns
    identity = np.eye(n)
    B, G, kernel = form.apply(identity), form.range_coordinates(identity), form.kernel_coordinates(identity)
    return Report((*_sizes(form, G, kernel), *_form(B, G, kernel), *_ways_back(form, G, kernel)), ())


def _sizes(form: SemidefiniteForm, G: np.ndarray, kernel: np.ndarray) -> list[CheckResult]:
    n, k = G.shape
    values = np.linalg.svd(G, compute_uv=False)
    rank = int((values > max(n, k) * np.finfo(np.float64).eps * values[0]).sum())
    return [
        Bound("G has as many columns as `factors` says", abs(k - form.factors), 0),
        Bound("rank(G) is `rank`", abs(rank - form.rank), 0),
        Bound("the kernel has n - rank coordinates", abs(kernel.shape[1] - (n - form.rank)), 0),
        Bound("the scale is positive", -form.scale if np.isfinite(form.scale) else np.inf, -np.finfo(np.float64).tiny),
    ]


def _form(B: np.ndarray, G: np.ndarray, kernel: np.ndarray) -> list[CheckResult]:
    size = float(np.linalg.norm(G, 2))
    inside = kernel.T @ kernel - np.eye(kernel.shape[1])
    return [
        Bound("B = G G^T", _gap(B, G @ G.T, size**2), ROUNDING),
        Bound("the kernel's coordinates are orthonormal", float(np.linalg.norm(inside)), ROUNDING),
        Bound("G vanishes on the kernel", float(np.linalg.norm(kernel.T @ G)) / size, ROUNDING),
    ]


def _ways_back(form: SemidefiniteForm, G: np.ndarray, kernel: np.ndarray) -> list[CheckResult]:
    (n, k), m = G.shape, kernel.shape[1]
    inverse = form.combine(np.eye(k), np.zeros((k, m)))
    size = float(np.linalg.norm(inverse, 2))
    return [
        Bound("combine inverts the coordinates", _gap(form.combine(G, kernel), np.eye(n), 1.0), ROUNDING),
        Bound("combine has no kernel part of F", _gap(inverse @ kernel, np.zeros((k, m)), size), ROUNDING),
        Bound("range_gradient is the transpose of combine", _gap(form.range_gradient(np.eye(n)), inverse.T, size), ROUNDING),
    ]


def _gap(a: np.ndarray, b: np.ndarray, size: float) -> float:
    """||a - b|| in units of `size`; infinite for different shapes."""
    return float(np.linalg.norm(a - b)) / size if a.shape == b.shape else np.inf
