"""Whole gradient steps: the points of gradient, step and retraction one after another, in at most 2 X of memory and a few blocks.

With J = D G_D^T / n and K = sym(J), the gradients of both metrics have the deviations G_D - K D; they differ in class means only:

    P G       = G - K D
    Pi Pi* G  = G - K D + sym(M (G Y^T)^T) M Y / n

so that the moved deviations are Z = D + eta (K D - G_D), and the new ones A Z with A A^T = (Z Z^T / n)^{-1}, measured, not
predicted: nothing drifts. Columns are worked through in blocks; beside the result only blocks and P x P matrices are held.
`out` takes the result, and may be G itself where its values are not needed any more: then a step holds less than 1 X. It may
not share memory with X where the gradient is formed, which reads X twice.
X, G are (..., P, n), numpy or torch; torch's on the CPU are worked on through numpy, whose Z Z^T costs half of a product.
Nothing is recorded for a derivative: where torch records, compiles or vectorises, the maps are called one after another.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from manifolds.array import Array, ArrayT, Columns, Number
from manifolds.class_centering import ClassLayout
from manifolds.linalg import detached, identity_like, is_on_cpu, namespace, symmetrize
from manifolds.metrics import LayoutMetric
from manifolds.precision import at_least_float32
from manifolds.retractions import Move, Retraction, as_retraction, nearest_point, polar_retraction
from manifolds.roots import whitened
from manifolds.spectral import concrete, is_untracked

BLOCK_COLUMNS = 512  # columns worked on at once: on a CPU, what its cache holds
ACCELERATOR_COLUMNS = 8192  # on another device, where each block costs two dozen launches; larger ones only cost memory
FUSED_FROM = 100_000  # entries of X below which the fused step is slower than calls one after another

MeanVelocity = Callable[[Any, Any], Any]  # (class means of X, class sums of G) -> class means of the gradient


@at_least_float32
def gradient_step(
    X: Columns[ArrayT],
    G: Columns[ArrayT],
    eta: float | Number[Array],
    metric: LayoutMetric,
    retraction: Move[ArrayT] | str = polar_retraction,
    *,
    out: Columns[ArrayT] | None = None,
) -> Columns[ArrayT]:
    """retraction(X, -eta metric.gradient(X, G), layout), one Riemannian gradient step from the ambient gradient G. (..., P, n)

    Fused for `polar_retraction`, `renormalisation` and `cholesky_retraction`; two calls for any other and for small arrays.
    Raises ValueError where the step loses rank, and for an `out` of another shape or dtype or in the memory of X.
    """
    layout, move = metric.layout, as_retraction(retraction)

    def plain(X: Columns[ArrayT], G: Columns[ArrayT], eta: Any) -> Columns[ArrayT]:
        return move(X, -eta * metric.gradient(X, G), layout)

    return fused_step(plain, X, G, eta, layout, metric.mean_gradient, move, project=True, out=out)


@at_least_float32
def projected_step(
    X: Columns[ArrayT], G: Columns[ArrayT], eta: float, metric: LayoutMetric, *, out: Columns[ArrayT] | None = None
) -> Columns[ArrayT]:
    """The nearest point to X - eta G, its means moved by the metric's gradient: projected gradient descent. (..., P, n)

    Its derivative by eta at 0 is -metric.gradient(X, G), since P is the derivative of the nearest point: to first order in eta it
    equals `gradient_step`, and needs no D G^T. Raises ValueError where the step loses rank.  [Absil and Malick 2012]
    """

    def plain(X: Columns[ArrayT], G: Columns[ArrayT], eta: Any) -> Columns[ArrayT]:
        return _projected(X, G, eta, metric)

    return fused_step(plain, X, G, eta, metric.layout, metric.mean_gradient, polar_retraction, project=False, out=out)


def _projected(X: ArrayT, G: ArrayT, eta: float, metric: LayoutMetric) -> ArrayT:
    """`projected_step` by the maps it is made of."""
    layout = metric.layout
    Z = nearest_point(X - eta * G, layout)
    M = layout.means(X) - eta * metric.mean_gradient(layout.means(X), layout.sums(G))
    return Z + layout.spread(M - layout.means(Z))


def fused_step(
    plain: Callable[[ArrayT, ArrayT, float | Array], ArrayT],
    X: Columns[ArrayT],
    G: Columns[ArrayT],
    eta: float | Number[Array],
    layout: ClassLayout,
    velocity: MeanVelocity,
    retraction: Move[ArrayT],
    project: bool,
    out: Columns[ArrayT] | None,
) -> Columns[ArrayT]:
    """`plain` (X, G, eta), the maps one after another, or the same step of large arrays in blocks of columns. (..., P, n)"""
    _check_out(out, X, G)
    if project and out is not None and _may_share_memory(out, X):
        raise ValueError("out shares memory with X, which this step reads after it has begun to write: give G or another array")
    if layout.shared or not isinstance(retraction, Retraction) or retraction.lifts or not is_untracked(X, G):
        return _put(plain(X, G, eta), out)
    if _is_small(X):
        return _by_numpy(lambda X, G: plain(X, G, float(eta)), X, G, out)
    return _step(X, G, float(eta), layout, velocity, retraction, project, out)


def _is_small(X: Array) -> bool:
    """Whether the fused step is slower than the maps called one after another."""
    return math.prod(X.shape) < FUSED_FROM and is_on_cpu(X)


def _by_numpy(step: Callable[[Any, Any], Any], X: ArrayT, G: ArrayT, out: ArrayT | None) -> ArrayT:
    """`step` (X, G), in `out` where that is given; tensors through the numpy arrays that share their memory."""
    xp = namespace(X)
    if xp is np:
        return _put(step(X, G), out)
    return _put(xp.from_numpy(step(np.asarray(detached(X)), np.asarray(detached(G)))), out)


def _step(
    X: ArrayT,
    G: ArrayT,
    eta: float,
    layout: ClassLayout,
    velocity: MeanVelocity,
    retraction: Retraction,
    project: bool,
    out: ArrayT | None,
) -> ArrayT:
    """A Z on the deviations, where Z = D - eta (G_D - K D) with K = 0 unless `project`; the means moved by `velocity`."""
    xp = namespace(X)
    if xp is not np and is_on_cpu(X):
        x, g = np.asarray(detached(X)), np.asarray(detached(G))
        buffer = None if out is None else np.asarray(detached(out))
        return xp.from_numpy(_step(x, g, float(eta), layout, velocity, retraction, project, buffer))
    layout.check_rank(X.shape[-2])
    M, sums = layout.means(X), layout.sums(G)
    moved = M - eta * velocity(M, sums)
    Z: ArrayT = _buffer_for_step(X, G, out)
    K: Any = 0
    for columns in _blocks(X, layout):
        D, W = _column_deviations(X, columns, M, layout), _column_deviations(G, columns, layout.per_class(sums), layout)
        W *= -eta
        if project:
            K = K - D @ W.mT
        else:
            W += D
        Z[..., columns] = W
    if project:
        B = symmetrize(K) / layout.n + identity_like(X, X.shape[-2])
        for columns in _blocks(X, layout):
            Z[..., columns] += B @ _column_deviations(X, columns, M, layout)
        del B, K
    scaled = whitened(
        Z,
        moved,
        layout,
        retraction.root,
        lambda Z: layout.add_to_means(Z, -layout.means(Z)),
        lambda A, Z: _multiply(A, Z, layout, retraction.root.triangular),
    )[1]
    return layout.add_to_means(Z, scaled if retraction.scales_means else moved)


def _blocks(X: Array, layout: ClassLayout) -> list[slice]:
    """All columns, some at a time."""
    most = BLOCK_COLUMNS if is_on_cpu(X) else ACCELERATOR_COLUMNS
    return [slice(start, min(start + most, layout.n)) for start in range(0, layout.n, most)]


def _column_deviations(X: ArrayT, columns: slice, M: ArrayT, layout: ClassLayout) -> ArrayT:
    """Some columns of X - M Y, a copy. (..., P, b)"""
    part = X[..., columns].copy() if namespace(X) is np else X[..., columns].clone()
    ends = np.cumsum(layout.sizes)
    first, last = np.searchsorted(ends, columns.start, "right"), np.searchsorted(ends, columns.stop, "left")
    for c in range(int(first), int(last) + 1):
        start, stop = int(ends[c]) - layout.sizes[c] - columns.start, int(ends[c]) - columns.start
        part[..., max(start, 0) : stop] -= M[..., c : c + 1]
    return part


def _multiply(A: ArrayT, Z: ArrayT, layout: ClassLayout, triangular: bool) -> ArrayT:
    """A Z, written into Z; half the work for a lower triangular A on numpy matrices."""
    if triangular and isinstance(Z, np.ndarray) and Z.ndim == 2 and Z.flags.c_contiguous:  # else BLAS would write into a copy
        from scipy.linalg import get_blas_funcs

        trmm: Any = get_blas_funcs("trmm", (Z,))
        trmm(1.0, A.T, Z.T, side=1, lower=0, overwrite_b=1)  # Z^T A^T, and Z^T lies in memory as BLAS wants it
        return Z
    for columns in _blocks(Z, layout):
        Z[..., columns] = A @ Z[..., columns]
    return Z


def _buffer_for_step(X: ArrayT, G: ArrayT, out: ArrayT | None) -> ArrayT:
    """`out`, or an empty array for the result."""
    xp = namespace(X)
    if out is not None:
        return out
    shape = xp.broadcast_shapes(X.shape, G.shape)
    return xp.empty(shape, dtype=X.dtype, device=X.device)


def _check_out(out: Array | None, X: Array, G: Array) -> None:
    """Raise ValueError where `out` has another shape or dtype than the step."""
    if out is None:
        return
    shape = namespace(X).broadcast_shapes(X.shape, G.shape)
    if out.shape != shape or out.dtype != X.dtype:
        raise ValueError(
            f"out is {tuple(out.shape)} {out.dtype} but the step {tuple(shape)} {X.dtype}: give an array of that shape and dtype"
        )


def _may_share_memory(a: Array, b: Array) -> bool:
    """Whether two arrays could overlap in memory; never known while torch compiles or vectorises."""
    xp = namespace(a)
    tensors: tuple[Any, Any] = (a, b)
    if xp is np:
        return np.may_share_memory(*tensors)
    if xp.compiler.is_compiling() or concrete(a[..., :1, :1].sum()) is None:
        return False
    first, second = (memory.untyped_storage().data_ptr() for memory in tensors)
    return first == second


def _put(Z: ArrayT, out: ArrayT | None) -> ArrayT:
    """Z, in `out` where that is given."""
    if out is None:
        return Z
    out[...] = Z
    return out
