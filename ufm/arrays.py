"""Array types that say their axes, and the one way from a tensor to numpy.

Each is a numpy array or a torch tensor of floating point (labels: integers), and a function returns the kind that it was given.
A type checker sees `manifolds.linalg.Array`; a reader, and `typing.get_type_hints(f, include_extras=True)`, see the axes.
The letters are those of docs/notation.md: C classes, n examples, P features, K = min(C - 1, P).
"""

from typing import Annotated

import numpy as np

from manifolds.linalg import Array, namespace

Rows = Annotated[Array, "n P"]  # features as a network gives them, one row an example
Labels = Annotated[Array, "n"]
Columns = Annotated[Array, "P n"]  # features in class blocks: H, X, and gradients G at them
ClassMeans = Annotated[Array, "P C"]
PerClass = Annotated[Array, "C"]  # counts, priors, biases
Covariance = Annotated[Array, "P P"]
Weights = Annotated[Array, "C P"]  # of a classifier
FeatureVector = Annotated[Array, "P"]
SingularValues = Annotated[Array, "... K"]
RightVectors = Annotated[Array, "... C K"]
LeftVectors = Annotated[Array, "P K"]
Scalars = Annotated[Array, "..."]


LARGEST = 1e140  # of a feature, and 1 / LARGEST of the largest: products of powers of others overflow or vanish in float64


def check_real(x: Array, what: str) -> None:
    """Raise ValueError unless x holds real floating-point numbers, none of them masked; TypeError unless it is an array."""
    xp = namespace(x)
    if xp is np and isinstance(x, np.ma.MaskedArray):
        raise ValueError(f"{what} are a masked array: leave the masked entries out, or fill them")
    if x.dtype.kind != "f" if xp is np else not x.is_floating_point():
        raise ValueError(f"{what} have dtype {x.dtype}: floating point is needed")


def check_scale(largest: float, what: str) -> None:
    """Raise ValueError for a largest modulus that is not finite, or so far from 1 that its powers overflow or vanish."""
    if not largest < float("inf"):
        raise ValueError(f"{what} have NaN or infinite entries")
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise ValueError(f"the largest of {what} is {largest:.2e}: its powers leave float64; rescale the features")


def as_numpy(x: Array) -> np.ndarray:
    """x itself where it is of numpy, else its values on the CPU."""
    return x if namespace(x) is np else x.detach().cpu().numpy()
