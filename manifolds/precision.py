"""Half precision is storage only: every kernel function computes in float32 or better, also inside torch.autocast."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from manifolds.arguments import check_matrices, explain
from manifolds.linalg import namespace

F = TypeVar("F", bound=Callable[..., Any])


def at_least_float32(function: F) -> F:
    """Run `function` with half-precision arrays cast to float32, autocast off, and its arrays cast back at the end.

    Arrays are found wherever they stand, by position or by keyword. A half-precision result is feasible to the rounding of its
    storage only: about 1e-3 for float16, 1e-2 for bfloat16.
    """

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args and isinstance(args[0], np.ndarray) else _first_array(args, kwargs)
        try:
            # other shapes would be broadcast in silence; compared here, since a call more would be felt in a small step
            second: Any = args[1] if len(args) > 1 else None
            if second is first and len(args) > 2:  # of a method
                second = args[2]
            if hasattr(second, "shape") and (second.shape != first.shape or second.dtype is not first.dtype):
                check_matrices(function, args, kwargs)
            if isinstance(first, np.ndarray) and first.dtype.char in "fd":
                return function(*args, **kwargs)
            return _in_its_precision(function, args, kwargs, first)
        except (TypeError, RuntimeError, AttributeError, IndexError) as error:
            reason = explain(function, args, kwargs)
            if reason is None:
                raise
            raise ValueError(reason) from error

    return cast("F", guarded)


def _in_its_precision(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], first: Any) -> Any:
    """`function` of arrays like `first`, in float32 where that is half precision. Raises ValueError where it is complex."""
    xp = namespace(first)
    if xp is np:
        if first.dtype == np.float16:
            return _in_float32(function, args, kwargs, first, np.float32)
        check_matrices(function, args, kwargs)
        return function(*args, **kwargs)
    if first.dtype.is_complex:
        check_matrices(function, args, kwargs)
    halves = (xp.float16, xp.bfloat16)
    if not (first.dtype in halves or xp.is_autocast_enabled(first.device.type)):
        return function(*args, **kwargs)
    with xp.autocast(first.device.type, enabled=False):
        if first.dtype in halves:
            return _in_float32(function, args, kwargs, first, xp.float32)
        cast = {name: _cast(arg, first.dtype) for name, arg in kwargs.items()}
        return function(*[_cast(arg, first.dtype) for arg in args], **cast)


def _first_array(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first array among the arguments. Raises TypeError where there is none."""
    for arg in (*args, *kwargs.values()):
        if hasattr(arg, "dtype") and hasattr(arg, "shape"):
            return arg
    kinds = ", ".join(type(arg).__name__ for arg in (*args, *kwargs.values()))
    raise TypeError(f"expected a numpy array or a torch tensor among the arguments, got {kinds or 'none'}")


def _in_float32(function: Callable[..., Any], args: Any, kwargs: dict[str, Any], first: Any, single: Any) -> Any:
    """`function` of the arrays in `single`, its arrays in the dtype of `first`; an `out` goes through, to be refused."""
    rest = {name: arg if name == "out" else _cast(arg, single) for name, arg in kwargs.items()}
    return _restore(function(*[_cast(arg, single) for arg in args], **rest), first.dtype)


def _cast(arg: Any, dtype: Any) -> Any:
    """`arg` in `dtype` if it is an array of half precision."""
    if not hasattr(arg, "dtype") or "float16" not in str(arg.dtype):
        return arg
    return arg.astype(dtype) if isinstance(arg, np.ndarray) else arg.to(dtype)


def _restore(result: Any, dtype: Any) -> Any:
    """Arrays of `result` in `dtype`."""
    if isinstance(result, tuple):
        return tuple(_restore(part, dtype) for part in result)
    return result.astype(dtype) if isinstance(result, np.ndarray | np.generic) else result.to(dtype)
