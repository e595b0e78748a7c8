"""What the laws take and how they compute it: float64 inside whatever comes in, checked on entry, block by block."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast, overload

import numpy as np

from manifolds.linalg import Array, ArrayT, array_like, detached, namespace
from ufm.arrays import is_masked

SMALLEST_OMEGA, LARGEST_OMEGA = 1e-150, 1e75  # of a start: a smaller square underflows, a larger fourth power overflows
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)  # smaller numbers have fewer digits
LARGEST_RIDGE = 1e60
LARGEST_LOG = 345.0  # of omega under law (c), 1e150: the square of a larger overflows float64
SMALLEST_PHI = -680.0  # backwards in time; exp of less underflows
SMALLEST_SINGLE, LARGEST_SINGLE = -80.0, 1e34  # of Phi, where float32 holds u and its square root's steps
LARGEST_KEPT_BLOCK = 31 * 2**20  # bytes; glibc lets no larger block raise its threshold
BLOCK = 12000  # most values solved at a time: temporaries stay in the cache and off the page-fault path


def six_digits(f: Callable[[ArrayT], ArrayT], s: ArrayT) -> ArrayT:
    """f(s) to about six digits, in float32 where s lies well inside its range: twice as fast. Any shape

    What becomes of one value does not depend on the values beside it.
    """
    xp = namespace(s)
    array: Any = xp.clip(s, min=SMALLEST_SINGLE, max=LARGEST_SINGLE)
    rough: Any = f(array.astype(np.float32) if xp is np else array.to(xp.float32))
    rough = rough.astype(np.float64) if xp is np else rough.to(xp.float64)
    inside = array == s
    return rough if bool(inside.all()) else xp.where(inside, rough, f(s))


def from_start(omega: ArrayT, t: ArrayT, omega0: ArrayT) -> ArrayT:
    """omega (*t.shape, *omega0.shape) of a law with omega0 to the last bit where t = 0; a numpy array is overwritten."""
    xp, begins = namespace(omega), t == 0
    if not bool(begins.any()):
        return omega
    if isinstance(omega, np.ndarray):
        omega[begins] = omega0
        return omega
    rounding: Any = xp.where(begins.reshape(begins.shape + (1,) * omega0.ndim), omega0 - omega, 0.0)
    return omega + detached(rounding)  # torch keeps the slope of the law in t


@cache
def keep_blocks() -> None:
    """Let malloc keep what it has from the system, once a process: else temporaries pay page faults anew at every operation."""
    np.empty(LARGEST_KEPT_BLOCK, np.uint8)  # freed at once, untouched: glibc then keeps blocks of up to this size


def in_blocks(f: Callable[[ArrayT], ArrayT], s: ArrayT) -> ArrayT:
    """f(s); a numpy array is overwritten, in equal blocks of at most BLOCK values."""
    xp, size = namespace(s), math.prod(s.shape)
    keep_blocks()
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


def wide(value: Array | float | Sequence[float]) -> Array:
    """Scalars, sequences, arrays and tensors as float64. Raises ValueError for masked arrays, and for what is no real number."""
    given: Any = np.asarray(value) if isinstance(value, (int, float, list, tuple)) else value
    xp = namespace(given)
    if is_masked(given):
        raise ValueError("a masked array was given: leave the masked entries out, or fill them")
    if given.dtype.kind not in "fiu" if xp is np else given.is_complex():
        raise ValueError(f"an array of dtype {given.dtype} was given: real numbers are needed")
    return np.asarray(given, dtype=np.float64) if xp is np else given.to(xp.float64)


def digits_given(value: Array | float | Sequence[float]) -> float:
    """Machine epsilon of the floating dtype of what was given, float64's where that has none."""
    if not isinstance(value, (int, float, list, tuple)):
        xp = namespace(given := cast("Any", value))
        if given.dtype.kind == "f" if xp is np else given.is_floating_point():
            return float(xp.finfo(given.dtype).eps)
    return float(np.finfo(np.float64).eps)


def times_like(t: Array | float | Sequence[float], omega0: ArrayT) -> ArrayT:
    """t as float64; plain numbers and numpy arrays become what omega0 is. Raises ValueError for NaN and infinite times."""
    given: Any = wide(t)
    times = array_like(given, omega0) if namespace(given) is np else given
    if not bool(namespace(times).isfinite(times).all()):
        raise ValueError("time t has NaN or infinite entries")
    return times


def narrow(result: ArrayT, given: Array | float | Sequence[float]) -> ArrayT:
    """The result in the floating dtype of what was given, float64 where that has none.

    Raises OverflowError where a finite number of float64 is infinite in that dtype.
    """
    if isinstance(given, (int, float, list, tuple)):
        return result
    xp, array = namespace(like := cast("Any", given)), cast("Any", result)
    floating = like.dtype.kind == "f" if xp is np else like.is_floating_point()
    if not floating or like.dtype == result.dtype:
        return result
    finite = xp.where(xp.isfinite(result), abs(result), 0.0)
    largest = finite.max().item() if math.prod(finite.shape) else 0.0
    if largest > float(xp.finfo(like.dtype).max):
        raise OverflowError(f"{largest:.6g} overflows {like.dtype}: give float64, or a smaller time")
    return array.astype(like.dtype) if xp is np else array.to(like.dtype)


def over_sum(omega: ArrayT, offset: float) -> tuple[ArrayT, ArrayT]:
    """omega / (offset + omega^2) and 1 / (offset + omega^2) for omega >= 0, no square formed that overflows. Any shape"""
    xp: Any = namespace(omega)
    larger = xp.clip(omega, min=1.0)
    small = omega / larger
    total = offset / larger + omega * small
    return small / total, 1 / larger / total


def for_every(omega0: ArrayT, value: ArrayT, t: ArrayT) -> ArrayT:
    """value(t) for every moving singular value, 0 for one that starts at 0. (*t.shape, *omega0.shape)"""
    omega0 = wide(omega0)
    return value.reshape(t.shape + (1,) * omega0.ndim) * namespace(omega0).where(omega0 > 0, 1.0, 0.0)


def check_omega(omega: Array, C: int, N: int) -> None:
    """Raise ValueError for a C, an N or singular values that no law can start from, with the number."""
    if C < 2 or N < 1:
        raise ValueError(f"C = {C}, N = {N}: a law needs at least C = 2 classes and N = 1 example a class")
    if math.prod(omega.shape) and bool(omega.min() >= SMALLEST_OMEGA) and bool(omega.max() <= LARGEST_OMEGA):
        return
    if not bool(namespace(omega).isfinite(omega).all()):
        raise ValueError("omega has NaN or infinite entries")
    if bool((omega < 0).any()):
        raise ValueError(f"omega = {float(omega.min()):.6g}: singular values are non-negative")
    if bool(((omega > 0) & (omega < SMALLEST_OMEGA)).any()):
        raise ValueError(f"an omega lies in (0, {SMALLEST_OMEGA:g}), where its square underflows float64: set it to 0")
    if bool((omega > LARGEST_OMEGA).any()):
        raise ValueError(f"omega = {float(omega.max()):.6g} is above {LARGEST_OMEGA:g}, where its fourth power overflows float64")


def check_growth(log_omega: Array) -> None:
    """Raise OverflowError for an omega whose square overflows float64."""
    if bool((log_omega > LARGEST_LOG).any()):
        largest = float(log_omega.max())
        raise OverflowError(f"log omega = {largest:.6g}, where omega^2 overflows float64: use log_omega, or a smaller time")


def check_range(log_omega: Array) -> None:
    """As `check_growth`, and raise ValueError for an omega > 0 whose square underflows."""
    if bool(((log_omega < -LARGEST_LOG) & (log_omega > -math.inf)).any()):
        raise ValueError(f"an omega falls below {SMALLEST_OMEGA:g}, where its square underflows float64: choose a later time")
    check_growth(log_omega)


def differences(omega: ArrayT, omega0: ArrayT, C: int) -> tuple[ArrayT, ArrayT, ArrayT]:
    """log(u/u0), u - u0 and u + u0, the first two without cancellation."""
    step = omega - omega0
    log_ratio = 2 * namespace(omega).log1p(step / omega0)
    return log_ratio, step * ((omega + omega0) / C), (omega * omega + omega0 * omega0) / C
