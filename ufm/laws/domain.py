"""What the laws take and how they compute it: float64 inside whatever comes in, checked on entry, block by block."""

import math
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np

from manifolds.linalg import Array, ArrayT, namespace

SMALLEST_OMEGA, LARGEST_OMEGA = 1e-150, 1e75  # of a start: a smaller square underflows, a larger fourth power overflows
LARGEST_LOG = 345.0  # of omega under law (c), 1e150: the square of a larger overflows float64
SMALLEST_PHI = -680.0  # backwards in time; exp of less underflows
BLOCK = 5000  # most values solved at a time: temporaries stay in the cache and off the page-fault path


def in_blocks(f: Callable[[ArrayT], ArrayT], s: ArrayT) -> ArrayT:
    """f(s); a numpy array is overwritten, in equal blocks of at most BLOCK values."""
    xp, size = namespace(s), math.prod(s.shape)
    if not isinstance(s, np.ndarray) or size <= BLOCK:
        return f(s)
    s = xp.ascontiguousarray(s)
    for block in xp.array_split(s.reshape(-1), -(-size // BLOCK)):
        block[...] = f(block)
    return s


@overload
def wide(value: ArrayT) -> ArrayT:
    """An array or a tensor stays what it is."""
    ...


@overload
def wide(value: float | Sequence[float]) -> np.ndarray:
    """Plain numbers become a numpy array."""
    ...


def wide(value: Any) -> Any:
    """Scalars, sequences, arrays and tensors as float64."""
    if isinstance(value, (int, float, list, tuple)):
        return np.asarray(value, dtype=np.float64)
    xp = namespace(value)
    return np.asarray(value, dtype=np.float64) if xp is np else value.to(xp.float64)


def narrow(result: ArrayT, given: Any) -> ArrayT:
    """The result in the floating dtype of what was given, float64 where that has none.

    Raises OverflowError where a finite number of float64 is infinite in that dtype.
    """
    if isinstance(given, (int, float, list, tuple)):
        return result
    xp: Any = namespace(given)
    array: Any = result
    floating = given.dtype.kind == "f" if xp is np else given.is_floating_point()
    if not floating or given.dtype == result.dtype:
        return result
    finite = xp.where(xp.isfinite(result), abs(result), 0.0)
    largest = finite.max().item() if math.prod(finite.shape) else 0.0
    if largest > float(xp.finfo(given.dtype).max):
        raise OverflowError(f"{largest:.6g} overflows {given.dtype}: give float64, or a smaller time")
    return array.astype(given.dtype) if xp is np else array.to(given.dtype)


def check_omega(omega: Array, C: int, N: int) -> None:
    """Raise ValueError for a C, an N or singular values that no law can start from, with the number."""
    if C < 2 or N < 1:
        raise ValueError(f"C = {C}, N = {N}: a law needs at least C = 2 classes and N = 1 example a class")
    if not bool(namespace(omega).isfinite(omega).all()):
        raise ValueError("omega has NaN or infinite entries")
    if bool((omega < 0).any()):
        raise ValueError(f"omega = {float(omega.min()):.6g}: singular values are non-negative")
    if bool(((omega > 0) & (omega < SMALLEST_OMEGA)).any()):
        raise ValueError(f"an omega lies in (0, {SMALLEST_OMEGA:g}), where its square underflows float64: set it to 0")
    if bool((omega > LARGEST_OMEGA).any()):
        raise ValueError(f"omega = {float(omega.max()):.6g} is above {LARGEST_OMEGA:g}, where its fourth power overflows float64")
