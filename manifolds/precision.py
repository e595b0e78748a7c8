"""Half precision is storage only: every kernel function computes in float32 or better, also inside torch.autocast."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from manifolds.linalg import namespace

F = TypeVar("F", bound=Callable[..., Any])


def at_least_float32(function: F) -> F:
    """Run `function` with half-precision arrays cast to float32, autocast off, and its arrays cast back at the end.

    A half-precision result is feasible to the rounding of its storage only: about 1e-3 for float16, 1e-2 for bfloat16.
    """

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        first = args[0]
        xp = namespace(first)
        halves = (np.float16,) if xp is np else (xp.float16, xp.bfloat16)
        if first.dtype in halves:
            single = [_cast(arg, halves, np.float32 if xp is np else xp.float32) for arg in args]
            return _restore(guarded(*single, **kwargs), first.dtype)
        if xp is not np and xp.is_autocast_enabled(first.device.type):
            with xp.autocast(first.device.type, enabled=False):
                return function(*[_cast(arg, halves, first.dtype) for arg in args], **kwargs)
        return function(*args, **kwargs)

    return guarded  # type: ignore[return-value]


def _cast(arg: Any, dtypes: tuple[Any, ...], dtype: Any) -> Any:
    """`arg` in `dtype` if it is an array of one of `dtypes`."""
    if getattr(arg, "dtype", None) not in dtypes:
        return arg
    return arg.astype(dtype) if isinstance(arg, np.ndarray) else arg.to(dtype)


def _restore(result: Any, dtype: Any) -> Any:
    """Arrays of `result` in `dtype`."""
    if isinstance(result, tuple):
        return tuple(_restore(part, dtype) for part in result)
    return result.astype(dtype) if isinstance(result, np.ndarray | np.generic) else result.to(dtype)
