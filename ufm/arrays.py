"""Array types that say their axes, and the one way from a tensor to numpy.

Each is a numpy array or a torch tensor of floating point (labels: integers), and a function returns the kind that it was given.
A type checker sees `manifolds.array.Array`; a reader, and `typing.get_type_hints(f, include_extras=True)`, see the axes.
The letters are those of docs/notation.md: C classes, n examples, P features, K = min(C - 1, P), T times; "*t" are any axes,
the same ones wherever they have that name. "..." are leading batch axes, which a function takes only where its types have them.
"""

import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np

from manifolds.array import Array as Array
from manifolds.array import ArrayT as ArrayT
from manifolds.array import Columns as Columns
from manifolds.array import Labels as Labels
from manifolds.array import PerClass as PerClass
from manifolds.array import Scalars as Scalars
from manifolds.linalg import as_numpy as as_numpy
from manifolds.linalg import namespace

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Rows = Annotated[ArrayT, "n P"]  # features as a network gives them, one row an example
FeatureMatrix = Annotated[ArrayT, "P n"]  # features in class blocks: H, X, and gradients G at them
ClassMeans = Annotated[ArrayT, "P C"]
Covariance = Annotated[ArrayT, "P P"]
Weights = Annotated[ArrayT, "C P"]  # of a classifier
ClassGram = Annotated[ArrayT, "C C"]
FeatureVector = Annotated[ArrayT, "P"]
SingularValues = Annotated[ArrayT, "... K"]
RightVectors = Annotated[ArrayT, "... C K"]
LeftVectors = Annotated[ArrayT, "P K"]
Times = Annotated[ArrayT, "T"]
OmegaInTime = Annotated[ArrayT, "T K"]
RightVectorsInTime = Annotated[ArrayT, "T C K"]
LeftVectorsInTime = Annotated[ArrayT, "T P K"]
AnyTimes = Annotated[ArrayT, "*t"]  # any axes: of times, of singular values, and those of the times before those of the values
Omegas = Annotated[ArrayT, "*omega"]
OmegaAt = Annotated[ArrayT, "*t *omega"]
ReducedMeans = Annotated[ArrayT, "m C-1"]  # U^T S Q of the general law

NUMBERED = "np.unique(labels, return_inverse=True)[1] numbers classes that have names"  # the way out where labels are text
WITHOUT_FLOAT64 = ("mps",)  # types of devices, Apple's, on which torch raises TypeError for a tensor of float64
LARGEST = 1e140  # of a feature, and 1 / LARGEST of the largest: products of powers of others overflow or vanish in float64


def on_device_with_float64(x: "Tensor") -> "Tensor":
    """x as it is; from a device without float64 (`WITHOUT_FLOAT64`), its copy on the CPU."""
    return x if has_float64(x.device) else x.to("cpu")


def has_float64(device: "torch.device") -> bool:
    """Whether a device has float64, as all but those of `WITHOUT_FLOAT64` do."""
    return device.type not in WITHOUT_FLOAT64


def check_real(x: Array, what: str) -> None:
    """Raise ValueError unless x holds real floating-point numbers, none of them masked; TypeError unless it is an array."""
    xp = namespace(x)
    check_unmasked(x, what)
    if x.dtype.kind != "f" if xp is np else not xp.is_floating_point(x):
        raise ValueError(f"{what} have dtype {x.dtype}: floating point is needed")
    if xp is not np and x.layout is not xp.strided:  # type: ignore[attr-defined]
        raise ValueError(f"{what} are {x.layout}: a dense tensor is needed, which to_dense() makes")


def check_integers(labels: Array) -> None:
    """Raise ValueError unless labels are integers, none of them masked; TypeError unless they are an array."""
    xp = namespace(labels)
    check_unmasked(labels, "labels")
    if labels.dtype.kind not in "iub" if xp is np else xp.is_floating_point(labels) or xp.is_complex(labels):
        raise ValueError(f"labels are {labels.dtype}, integers are needed; {NUMBERED}")


def check_unmasked(x: Array, what: str) -> None:
    """Raise ValueError for one of numpy's masked arrays, whose mask numpy's functions lose."""
    if is_masked(x):
        raise ValueError(f"{what} are a masked array: leave the masked examples out")


def is_masked(x: Array) -> bool:
    """Whether x is one of numpy's masked arrays; numpy.ma is not imported for it."""
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(x, masked.MaskedArray)


def check_scale(largest: float, what: str) -> None:
    """Raise ValueError for a largest modulus that is not finite, or so far from 1 that its powers overflow or vanish."""
    if not largest < float("inf"):
        raise ValueError(f"{what} have NaN or infinite entries")
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise ValueError(
            f"the largest of {what} is {largest:.2e}: its powers overflow or underflow; rescale the {what.removeprefix('the ')}"
        )


def at_least_single(x: ArrayT) -> ArrayT:
    """x, or its numbers as float32 where they have 16 bits: no decomposition takes those."""
    xp, given = namespace(x), cast("Any", x)
    if xp.finfo(given.dtype).bits >= 32:
        return x
    return given.astype(np.float32) if xp is np else given.float()


def check_matrix(x: Array, what: str, rows: int | None = None, columns: int | None = None) -> None:
    """Raise ValueError unless x is a real, finite matrix, of so many rows and columns where they are given, and of some size."""
    check_real(x, what)
    if x.ndim != 2 or 0 in x.shape or rows not in (None, x.shape[0]) or columns not in (None, x.shape[1]):
        wanted = f"({'n' if rows is None else rows}, {'P' if columns is None else columns})"
        raise ValueError(f"{what} have shape {tuple(x.shape)}: {wanted} is needed")
    check_scale(float(abs(x).max()), what)
