"""What laws for any class sizes share: the counts, checked, and the priors."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manifolds.array import PerClass
from manifolds.class_centering import ClassLayout


@dataclass(frozen=True)
class ClassCounts:
    """Class sizes n_c. Raises ValueError for fewer than two classes and for an empty class."""

    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", ClassLayout(self.counts).sizes)

    @property
    def C(self) -> int:
        """Number of classes."""
        return len(self.counts)

    @property
    def n(self) -> int:
        """Number of examples."""
        return sum(self.counts)

    @property
    def balanced(self) -> bool:
        """Whether all classes have the same size."""
        return min(self.counts) == max(self.counts)

    @cached_property
    def priors(self) -> PerClass[np.ndarray]:
        """pi_c = n_c / n. (C,)"""
        return ClassLayout(self.counts).priors
