"""The ledger as a value: rows of omega between operations, gains, intervals, and the table in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from manifolds.representation import short_repr
from ufm.ledger.estimators import LEVEL
from ufm.output import stored_number

ZERO_ROUNDING = 64 * float(np.finfo(np.float64).eps)  # of omega_1: a value no larger may be rounding of a zero
ESTIMATES = ("omega", "corrected", "held_out")
LedgerRow = dict[str, Any]  # one of `Ledger.rows`, or as JSON has it


@dataclass(frozen=True, eq=False, repr=False)
class Ledger:
    """L operations in order, and L + 1 rows of K = C - 1 singular values omega_j: the input, then after every operation.

    operations, kinds      (L,) names and types, with ' ?' where functional operations before a module may be counted with it
    affine                 (L,) whether the operation is affine on the data (then no omega can grow); None where it is not known
    omega                  (L+1, K) in sample, descending; inf where collapse is complete or the data do not fill the features
    corrected, held_out    (L+1, K) of the population, NaN where the data are too few (`reasons`); intervals (L+1, K, 2) at 95 %
    influence              (L+1, n, K) jackknife values of log omega_j, all of the same examples
    features, ranks        (L+1,) numbers of the state before reduction, and directions with variability that were measured
    dropped, set_aside     (L+1,) directions without variability, and those that a single example makes, which the corrected and
                           held-out values leave out
    unresolved             (L+1,) dropped directions whose signal is above rounding: their SNR is not infinite, since one from
                           before explains it, and not a known number, since rounding hides their variation; omega is a lower
                           bound. Or the number of `raised`
    raised                 (L+1, K) values that an affine operation seems to raise, by no more than its own rounding can make
    reduced, shortfall     (L+1,) whether a tensor was reduced (omega is then a lower bound), and the mean of log omega that a
                           sketch half as wide loses (NaN for other reductions)
    seen, note             "torch.fx" or "hooks", and why
    """

    operations: tuple[str, ...]
    kinds: tuple[str, ...]
    affine: tuple[bool | None, ...]
    classes: np.ndarray
    n: int
    features: np.ndarray
    ranks: np.ndarray
    dropped: np.ndarray
    unresolved: np.ndarray
    raised: np.ndarray
    set_aside: np.ndarray
    reduced: np.ndarray
    shortfall: np.ndarray
    omega: np.ndarray
    corrected: np.ndarray
    corrected_interval: np.ndarray
    held_out: np.ndarray
    held_out_interval: np.ndarray
    influence: np.ndarray
    reasons: tuple[str, ...]
    seen: str
    note: str
    __repr__ = short_repr

    @property
    def gain(self) -> np.ndarray:
        """log omega_j after less log omega_j before, in sample, (L, K); NaN between two infinite or two zero values."""
        return self.gains("omega")

    def gains(self, estimate: str = "held_out") -> np.ndarray:
        """The same of one of the estimates 'omega', 'corrected', 'held_out'. (L, K)"""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.diff(np.log(self._of(estimate)), axis=0)

    def level(self, estimate: str = "held_out") -> np.ndarray:
        """Mean over j of log omega_j, the log of the geometric mean, of every row. (L+1,)"""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self._of(estimate)).mean(1)

    def mean_gain(self, estimate: str = "held_out") -> np.ndarray:
        """Gains of the geometric mean of omega. (L,)"""
        with np.errstate(invalid="ignore"):
            return np.diff(self.level(estimate))

    def mean_gain_interval(self, estimate: str = "held_out") -> np.ndarray:
        """95 % intervals of `mean_gain` for 'held_out' or 'corrected', (L, 2), from the jackknife of the differences.

        Before and after are measured on the same examples, so most of the noise of either is not in their difference.
        """
        if estimate == "omega":
            raise ValueError("the in-sample gain is what it is on this sample; intervals are for 'held_out' and 'corrected'")
        from scipy.special import ndtri

        differences = np.diff(self.influence.mean(2), axis=0)
        half = float(ndtri((1 + LEVEL) / 2)) * differences.std(1) * (self.n - 1) / self.n**0.5
        middle = self.mean_gain(estimate)
        return np.stack([middle - half, middle + half], 1)

    def violations(self) -> np.ndarray:
        """The largest in-sample gain of every affine operation between complete states, else NaN; the theorem says <= 0.

        Complete are states that are not reduced and, before the operation, have no unresolved direction. Values `raised` by
        rounding are left out.
        """
        excess = np.full(len(self.operations), np.nan)
        for k, affine in enumerate(self.affine):
            sizable = self.omega[k + 1] > ZERO_ROUNDING * self.omega[k, 0]
            finite = np.isfinite(self.gain[k]) & sizable & ~self.raised[k + 1]
            complete = not (self.reduced[k] or self.reduced[k + 1] or self.unresolved[k])
            if affine and complete and finite.any():
                excess[k] = self.gain[k][finite].max()
        return excess

    def rows(self) -> list[LedgerRow]:
        """One dictionary a row: name, kind, affine, features, ranks, geometric means and gains, reason."""
        lines = []
        levels = {name: self.level(name) for name in ESTIMATES}
        for k in range(len(self.operations) + 1):
            row: LedgerRow = {
                "operation": self.operations[k - 1] if k else "input",
                "kind": self.kinds[k - 1] if k else "",
                "affine": self.affine[k - 1] if k else None,
                "features": int(self.features[k]),
                "rank": int(self.ranks[k]),
                "dropped": int(self.dropped[k]),
                "unresolved": int(self.unresolved[k]),
                "set_aside": int(self.set_aside[k]),
                "reduced": bool(self.reduced[k]),
                "shortfall": float(self.shortfall[k]),
                "reason": self._reason(k),
            }
            for name in ESTIMATES:
                row[name] = float(np.exp(levels[name][k]))
                with np.errstate(invalid="ignore"):
                    row[f"{name}_gain"] = float(levels[name][k] - levels[name][k - 1]) if k else float("nan")
            lines.append(row)
        return lines

    def table(self) -> str:
        """The rows as text: geometric mean of omega after each operation and the factor it gained, three estimates."""
        return "\n".join(table_lines(self.rows(), self.note))

    def _reason(self, k: int) -> str:
        """Why row k has no geometric mean of one of the estimates, or an empty string."""
        K, infinite, rank = self.omega.shape[1], int(np.isinf(self.omega[k]).sum()), int(self.ranks[k])
        if self.reasons[k]:
            return f"too few data: {self.reasons[k]}"
        if infinite:
            return f"omega is infinite along {infinite} of {K} contrasts: no factor from or to it is defined"
        if rank < K:
            return f"{K} contrasts in {rank} directions: {K - rank} omega_j are 0, and no geometric mean is defined"
        zeros = {name.replace("_", " "): int((self._of(name)[k] == 0).sum()) for name in ESTIMATES}
        told = [f"{name}: {count} of {K} omega_j estimated as 0" for name, count in zeros.items() if count]
        return f"{'; '.join(told)}: noise explains what is seen of them, and no geometric mean is defined" if told else ""

    def _of(self, estimate: str) -> np.ndarray:
        if estimate not in ESTIMATES:
            raise ValueError(f"estimate = {estimate!r}: it is one of {', '.join(ESTIMATES)}")
        return getattr(self, estimate)


WIDTHS = (("omega", 10), ("corrected", 10), ("held_out", 9))
COLUMN_MEANINGS = (
    "rank: directions with variability; in sample, corrected, held out: geometric mean of omega_j over j, by three estimates; "
    "x: factor by which the operation changed it; -: not defined"
)


def table_lines(rows: list[LedgerRow], note: str = "") -> list[str]:
    """Rows of a ledger, stored ones too, as lines of text: the head first, last what the columns and marks mean."""
    columns = " ".join(f"{name:>{width}} {'x':>6}" for name, width in (("in sample", 10), ("corrected", 10), ("held out", 9)))
    head = f"{'operation':<24} {'kind':<20} {'rank':>5} {columns}"
    lines = [head, "-" * len(head)]
    for k, row in enumerate(rows):
        factors = {name: factor_text(stored_number(row[f"{name}_gain"])) if k else "" for name in ESTIMATES}
        cells = " ".join(f"{value_text(row[name]):>{width}} {factors[name]:>6}" for name, width in WIDTHS)
        lines.append(f"{row['operation'][-24:]:<24} {row['kind'][-20:]:<20} {rank_text(row) or ' ':>5} {cells}".rstrip())
    lines += [COLUMN_MEANINGS, *sorted({row["reason"] for row in rows if row["reason"]})]
    if any(row["reduced"] for row in rows):
        bound = "omega is a lower bound, and a linear operation may seem to have a gain"
        lines.append(f"~ reduced to fewer features: {bound}{shortfall_text(rows)}")
    if any(row["unresolved"] for row in rows):
        lines.append(
            "^ rounding hides a direction, which is left out (omega is a lower bound), or raises omega after a linear map; "
            "float64 resolves it, or a smaller mean of the features"
        )
    return [*lines, note] if note else lines


def shortfall_text(rows: list[LedgerRow]) -> str:
    """By how much sketches half as wide would lower omega, at most, where the data tell it for a reduced row."""
    known = [stored_number(row.get("shortfall")) for row in rows if row["reduced"]]
    largest = max((value for value in known if np.isfinite(value)), default=None)
    return "" if largest is None else f"; half as many features would divide it by {np.exp(largest):.3g} at most"


def rank_text(row: LedgerRow) -> str:
    """The rank of a row with its mark."""
    return f"{'' if row['rank'] is None else row['rank']}{'~' if row['reduced'] else '^' if row['unresolved'] else ''}"


def value_text(value: float | str | None) -> str:
    """A geometric mean; a dash where there is none."""
    return f"{stored_number(value):.3g}" if stored_number(value) > 0 else "-"


def factor_text(gain: float) -> str:
    """exp of the gain of log omega; a dash where it is not finite."""
    return f"{np.exp(gain):.3g}" if np.isfinite(gain) else "-"
