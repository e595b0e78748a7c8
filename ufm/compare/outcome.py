"""What a comparison takes and gives: the rule, a measured run, the support of each model, and the selection."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.coordinates import Entry

NAMED, UNDECIDED, REFUTED, NOT_COMPARED = "named", "undecided", "refuted", "not compared"


@dataclass(frozen=True)
class Rule:
    """level: of all refutations together; choices: how many ways to choose the epochs were tried; tolerance: rms of log omega up
    to which no model is refuted by what it leaves; seed: of the bootstrap.
    """

    level: float = 0.95
    choices: int = 1
    tolerance: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level = {self.level}: it must be between 0 and 1")
        if self.choices < 1:
            raise ValueError(f"choices = {self.choices}: at least 1 way to choose the epochs was taken")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance = {self.tolerance}: it must be between 0 and 1, 0.001 for example")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: it cannot be negative")

    def simulations(self, models: int, tests: int) -> int:
        """Runs simulated of a model, of which not one may fall as far behind, for so many tests of each."""
        return int(np.ceil(round(tests * models * self.choices / (1 - self.level), 6))) - 1


@dataclass(frozen=True, eq=False, repr=False)
class Measured:
    """One run as it is judged: epochs t (T,), omega (T, K), right vectors V (T, C, K) or, where they were not measured, (C, K),
    class counts (C,), and the class statistics of the first of these epochs where they are known.
    """

    t: np.ndarray
    omega: np.ndarray
    V: np.ndarray
    counts: np.ndarray
    entry: Entry | None = None
    __repr__ = short_repr


@dataclass(frozen=True)
class Support:
    """Evidence for and against a model: log likelihood, its parameter, rms of log omega left, p-values, why it was not judged.

    behind     log likelihood behind the best rival; free: behind free paths
    p_rival, p_free   shares of runs simulated from the model that fall as far behind, (1 + count) / (1 + simulated)
    negligible        its p-values would refute it, but its rms is at most `Rule.tolerance`: it is not refuted
    """

    log_likelihood: float
    parameter: float | None
    rms: float
    behind: float
    free: float
    p_rival: float
    p_free: float
    refuted: bool
    missing: str = ""
    negligible: bool = False


@dataclass(frozen=True)
class Selection:
    """outcome: "named", "undecided", "refuted" (every model) or "not compared"; name of the model, "" unless named; `compatible`
    names those that are left, a model with a parameter beside its special cases too; `support` by name; the reason in a sentence;
    threshold: the p-value at which a model is refuted that leaves an rms of log omega above tolerance.
    """

    outcome: str
    name: str
    compatible: tuple[str, ...]
    reason: str
    support: Mapping[str, Support]
    threshold: float = float("nan")
    tolerance: float = float("nan")
