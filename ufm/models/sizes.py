"""Two groups of classes: `majority` classes with `imbalance` times the N examples of the others."""

from dataclasses import dataclass

from manifolds.classes import ClassLayout
from ufm.models.base import Model


@dataclass(frozen=True, kw_only=True)
class TwoGroups(Model):
    """A model whose first `majority` classes have R = `imbalance` times the N examples of the others; R = 1 is balance."""

    majority: int = 0
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
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
