"""What a kernel function says of arguments that do not go together: numpy beside torch, two dtypes or devices, other rows."""

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

import numpy as np

from manifolds.class_centering import ClassLayout
from manifolds.linalg import Array, ArrayT

NO_LAYOUT = "layout is {0!r}: give a ClassLayout, as ClassLayout((5, 7, 6)) of the class sizes"


def require_class_layout(layout: ClassLayout) -> ClassLayout:
    """`layout` itself. Raises ValueError where it is no ClassLayout, and where other processes hold some of its columns."""
    if not isinstance(layout, ClassLayout):
        raise ValueError(NO_LAYOUT.format(layout))
    if layout.shared:  # projections, distances and random points add nothing over processes
        held = len(layout.labels)
        raise ValueError(
            f"{held} of {layout.n} columns are given, but a point needs all of them; give a ClassLayout of the given columns"
        )
    return layout


def check_matrices(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
    """Raise ValueError where arrays of `function` are complex, or differ in their rows and columns, which would be broadcast."""
    arrays = dict(_arrays(function, args, kwargs))
    for name, array in arrays.items():
        if "complex" in str(getattr(array, "dtype", "")):
            raise ValueError(f"{name} is of {array.dtype}: the manifold is real; give the real part")
    if len({isinstance(array, np.ndarray) for array in arrays.values() if hasattr(array, "shape")}) > 1:
        raise ValueError(_of_different_kinds(arrays))  # some operations of torch take both, with a warning
    sizes = {name: tuple(array.shape)[-2:] for name, array in arrays.items() if hasattr(array, "shape")}
    if len(set(sizes.values())) > 1:
        shapes = ", ".join(f"{name} has {tuple(arrays[name].shape)}" for name in sizes)
        raise ValueError(f"arrays of different rows or columns: {shapes}; each is (..., P, n), leading axes may differ")


def explain(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> str | None:
    """Why `function` could not take these arguments, and the way out; None where they are not the reason."""
    arrays = dict(_arrays(function, args, kwargs))
    layout = _argument(function, args, kwargs, "layout")
    if layout is not None and not hasattr(layout, "deviations"):
        return NO_LAYOUT.format(layout)
    for name, array in arrays.items():
        if not hasattr(array, "dtype") or len(array.shape) < 2:
            return f"{name} is {_kind(array)}: a matrix (..., P, n) of numpy or torch is needed"
        if "float" not in str(array.dtype):
            convert = "astype(float)" if isinstance(array, np.ndarray | np.generic) else "double()"
            return f"{name} is {_kind(array)}: real floating-point numbers are needed, as by {name}.{convert}"
    return _of_different_kinds(arrays) if len({_kind(array, shape=False) for array in arrays.values()}) > 1 else None


def _of_different_kinds(arrays: dict[str, Any]) -> str:
    first = next(iter(arrays))
    convert = (
        f"numpy.asarray(..., {first}.dtype)" if isinstance(arrays[first], np.ndarray) else f"torch.as_tensor(...).to({first})"
    )
    kinds = ", ".join(f"{name} is {_kind(array, shape=False)}" for name, array in arrays.items())
    return f"arrays of different kinds: {kinds}; convert the others first, as by {convert}"


def _arrays(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    """Name and value of the arguments that are to be arrays, in order."""
    parameters = signature(function).parameters
    bound = signature(function).bind_partial(*args, **kwargs).arguments
    return ((name, value) for name, value in bound.items() if _is_matrix(parameters[name]))


def _is_matrix(parameter: Parameter) -> bool:
    return getattr(parameter.annotation, "__origin__", parameter.annotation) in (ArrayT, Array)  # with axes or without


def _argument(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object], name: str) -> Any:
    return signature(function).bind_partial(*args, **kwargs).arguments.get(name)


def _kind(array: Any, shape: bool = True) -> str:
    """In words, as "a torch.Tensor of float32 on cpu"."""
    if not hasattr(array, "dtype"):
        return f"a {type(array).__name__}"
    where = "" if isinstance(array, np.ndarray | np.generic) else f" on {array.device}"
    library = "a numpy array" if isinstance(array, np.ndarray | np.generic) else "a torch tensor"
    return f"{library} of {str(array.dtype).removeprefix('torch.')}{where}" + (f", shape {tuple(array.shape)}" if shape else "")
