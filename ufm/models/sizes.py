"""Unequal classes: two groups, `majority` classes with `imbalance` times the N examples of the others, or any sizes."""

from dataclasses import dataclass

from manifolds.class_centering import ClassLayout, whole_number
from ufm.models.base import Model


@dataclass(frozen=True, kw_only=True)
class TwoGroups(Model):
    """A model whose first `majority` classes have R = `imbalance` times the N examples of the others; R = 1 is balance."""

    majority: int = 0
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "majority", whole_number(self.majority, "majority"))
        if not 0 <= self.majority < self.C:
            raise ValueError(f"majority = {self.majority}: must be at least 0 and below C = {self.C}")
        if not 1 <= self.imbalance < float("inf"):
            raise ValueError(f"imbalance = {self.imbalance}: must be at least 1; the majority classes are the larger ones")
        if self.imbalance > 1 and self.majority == 0:
            raise ValueError(f"imbalance = {self.imbalance} with majority = 0 classes: give the number of larger classes")
        self.check_sizes()

    def check_sizes(self) -> None:
        """Raise ValueError where imbalance * N is not a whole number of examples."""
        if not float(self.imbalance * self.N).is_integer():
            raise ValueError(f"imbalance * N = {self.imbalance * self.N}: must be a whole number of examples a class; change N")

    @property
    def layout(self) -> ClassLayout:
        """Majority classes first."""
        large = round(self.imbalance * self.N)
        return ClassLayout((large,) * self.majority + (self.N,) * (self.C - self.majority))


@dataclass(frozen=True, kw_only=True)
class AnySizes(TwoGroups):
    """A model of two groups whose classes may instead have any `sizes`, one a class; N is then the smallest of them."""

    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = tuple(whole_number(size, f"the size of class {c}") for c, size in enumerate(self.sizes))
        object.__setattr__(self, "sizes", sizes)
        if self.sizes:
            if len(self.sizes) != self.C:
                raise ValueError(f"sizes = {self.sizes}: {len(self.sizes)} sizes for C = {self.C} classes; give one a class")
            if min(self.sizes) < 1:
                raise ValueError(f"sizes = {self.sizes}: every class needs at least one example")
            if self.majority or self.imbalance != 1:
                raise ValueError(f"sizes = {self.sizes} and majority or imbalance: give one or the other")
            object.__setattr__(self, "N", min(self.sizes))
        super().__post_init__()

    @property
    def layout(self) -> ClassLayout:
        """The given sizes, or majority classes first."""
        return ClassLayout(self.sizes) if self.sizes else super().layout
