"""The configuration of a run of `python -m ufm.flow`, checked on construction."""

import math
from dataclasses import dataclass

from ufm.laws.discrete_singular_values import MOST_STEPS
from ufm.laws.singular_value_dynamics import EMBEDDED, LAWS, UNNORMALIZED

SMALLEST_TIME = 1e-290  # of a time or a step size, for its parts to stay normal numbers


@dataclass(frozen=True)
class FlowConfig:
    """Everything that decides a run; `python -m ufm.flow --help` explains each. Raises ValueError for values out of range."""

    C: int = 10
    N: int = 500
    P: int = 512
    seed: int = 0
    features: str | None = None
    flow: str = "renormalized"
    growth: float = 10.0
    t_end: float | None = None
    points: int | None = None
    eta: float | None = None
    steps: int | None = None
    full: bool = False
    device: str | None = None
    dtype: str = "float64"
    start: str = "whitened"
    reduce: bool = False
    balance: bool = False
    sizes: tuple[int, ...] | None = None
    ridge: float = 0.0
    kernel_ratio: float = 1.0
    feature_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_law()
        self._check_flow()

    def _check_choices(self) -> None:
        if self.flow not in LAWS:
            raise ValueError(f"flow = {self.flow!r}: choose one of {', '.join(LAWS)}")
        if self.start not in ("whitened", "raw") or self.dtype not in ("float64", "float32"):
            raise ValueError(f"start = {self.start!r}, dtype = {self.dtype!r}: whitened or raw, float64 or float32")
        if self.start == "raw" and self.flow != UNNORMALIZED.name:
            raise ValueError(f"the {self.flow} flow is defined for whitened features: start raw goes with flow unnormalized")
        if self.balance and self.features is None:
            raise ValueError("random features have the requested sizes: balance goes with given features")
        if self.sizes is not None and (self.features is not None or len(self.sizes) < 2 or min(self.sizes) < 1):
            raise ValueError(f"sizes = {self.sizes}: of random features, at least two classes of at least one example")
        if self.eta is not None and self.steps is not None:
            raise ValueError("eta and steps determine each other: give one of them")

    def _check_flow(self) -> None:
        if self.flow != UNNORMALIZED.name and self.feature_decay:
            raise ValueError(f"the {self.flow} flow fixes the scale of features: feature_decay goes with flow unnormalized")
        if self.flow == UNNORMALIZED.name and self.ridge:
            raise ValueError("the unnormalized flow is closed only without a ridge: ridge goes with renormalized or embedded")
        if self.flow == EMBEDDED.name and self.kernel_ratio != 1:
            raise ValueError("the embedded flow is the limit of an infinite kernel ratio: kernel_ratio goes with the others")

    def _check_numbers(self) -> None:
        for name in ("C", "N", "P", "seed", "points", "steps"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{name} = {value!r}: it must be a whole number")
        if not (math.isfinite(self.growth) and self.growth > 1):
            raise ValueError(f"growth = {self.growth}: it must be greater than 1")
        if self.t_end is not None and not (SMALLEST_TIME <= self.t_end < math.inf):
            raise ValueError(f"t_end = {self.t_end}: it must be positive and finite, at least {SMALLEST_TIME:g}")
        if self.points is not None and self.points < 2:
            raise ValueError(f"points = {self.points}: at least the start and the end are needed")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: it cannot be negative")

    def _check_law(self) -> None:
        if not 0 <= self.ridge < math.inf:
            raise ValueError(f"ridge = {self.ridge}: it must be finite and cannot be negative")
        if not 0 < self.kernel_ratio < math.inf:
            raise ValueError(f"kernel_ratio = {self.kernel_ratio}: it must be positive and finite")
        if not 0 <= self.feature_decay < math.inf:
            raise ValueError(f"feature_decay = {self.feature_decay}: it must be finite and cannot be negative")
        if self.eta is not None and not (SMALLEST_TIME <= self.eta < math.inf):
            raise ValueError(f"eta = {self.eta}: the step size must be positive and finite, at least {SMALLEST_TIME:g}")
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps = {self.steps}: between 1 and {MOST_STEPS:.0e} steps can be taken")
