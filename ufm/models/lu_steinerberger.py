"""Lu & Steinerberger 2020 (arXiv 2012.08465): cross-entropy with classifiers and class means on the unit sphere."""

from dataclasses import dataclass
from typing import ClassVar

from ufm.models import simplex
from ufm.models.base import Facts, Quantities, Solved, need_etf, need_positive
from ufm.models.minimised import Minimised
from ufm.models.objective.feasible import Feasible, Spheres
from ufm.models.objective.losses import CrossEntropy, column_weights, one_hot
from ufm.models.objective.peeled import Peeled
from ufm.models.solvers.manifold import MANIFOLD_SOLVERS


@dataclass(frozen=True, kw_only=True)
class LuSteinerberger(Minimised):
    """min (1/n) sum_i CE(tau W h_i), |w_c| = |h_i| = 1, tau the temperature; the paper has N = 1 and tau = 1.

    Minimum log(1 + (C-1) exp(-tau C/(C-1))), attained iff w_c = h_i of class c = a simplex ETF, for P >= C - 1.
    More examples a class change nothing: for fixed W every h_i minimises its own term.
    Source: 2012.08465 (N = 1, tau = 1); the temperature as in Yaras et al., 2209.09211.
    """

    facts: ClassVar[Facts] = Facts(
        name="lu-steinerberger",
        paper="Lu & Steinerberger 2020, arXiv 2012.08465",
        loss="cross-entropy, temperature tau",
        constraint="|w_c| = |h_i| = 1 (product of spheres)",
        theory="w_c = h_c = a simplex ETF, minimum log(1 + (C-1) exp(-tau C/(C-1)))",
        domain="P >= C - 1, P >= 2, tau > 0",
        needs="the spheres fix every norm and the classes are equal",
    )
    solvers = MANIFOLD_SOLVERS
    N: int = 1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(temperature=self.temperature)

    @property
    def feasible(self) -> Feasible:
        """Rows of W and columns of H."""
        return (Spheres(axis=1), Spheres(axis=0))

    def check_domain(self) -> None:
        """P >= C - 1, and P >= 2, since the sphere of R^1 is two points."""
        need_etf(self.C, self.P)
        if self.P < 2:
            raise ValueError("P = 1: the sphere of R^1 is two points, on which nothing can move; use P >= 2")

    def objective(self, device: str = "cpu") -> Peeled:
        """The mean cross-entropy of tau W H."""
        loss = CrossEntropy(one_hot(self.layout, device), column_weights(self.layout, 1 / self.layout.n, device))
        return Peeled(loss, gain=self.temperature)

    def predicted(self) -> Quantities:
        """The minimum, the one cosine between different classes, and collapse."""
        minimum = simplex.simplex_bound(self.C, self.temperature * self.C / (self.C - 1))
        return {"minimum": minimum, "cosine": [-1 / (self.C - 1)] * 2, "NC1": 0.0, "NC2": 0.0, "NC3": 0.0}

    def measured(self, solved: Solved) -> Quantities:
        """The same at the solution; `cosine` is the smallest and the largest one."""
        cosine = simplex.extreme_cosines(solved.point[0])
        return {"minimum": self.value(solved.point), "cosine": cosine, **self.collapse(solved.point)}
