"""What a model implies of the class statistics of later epochs at any clock: held against the one that would be named.

The likelihood sees the SNR matrix alone, and takes for noise what the likeliest model leaves. Features tell more:

split          the class means' share of the growth of log omega: 1 where Sigma_W stands still (renormalized, embedded), s of
               `predicted_split` under plain descent, r s / (r s + 1 - s) under a block kernel, whose gradient is the same
conservation   Sigma_W + S S^T / r under plain descent (r = 1) and a block kernel, up to the common factor of feature decay
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.clock_free import GrowthSplit
from ufm.compare.coordinates import Entry
from ufm.compare.models import KERNEL, PLAIN
from ufm.laws.closed import EMBEDDED, RENORMALIZED


@dataclass(frozen=True, eq=False)
class SeenStatistics:
    """Of the epochs of one run that are compared: the split of its growth; class statistics of the first and the last of them,
    in one basis.
    """

    split: GrowthSplit
    first: Entry
    last: Entry
    __repr__ = short_repr


def contradiction(name: str, parameter: float | None, runs: Sequence[SeenStatistics | None], most: float) -> str:
    """What of the statistics of some run a model does not have, in words; "" where each is as it implies, within `most`: of the
    growth for the split, of its norm for what is conserved. None stands for a run whose statistics are not known.
    """
    for seen in runs:
        against = "" if seen is None else _contradicted(name, parameter, seen, most)
        if against:
            return against
    return ""


def _contradicted(name: str, parameter: float | None, seen: SeenStatistics, most: float) -> str:
    share, low, high = seen.split.share.value, seen.split.share.low, seen.split.share.high
    if name in (RENORMALIZED.name, EMBEDDED.name):
        implied = 1.0
    elif name in (PLAIN, KERNEL):
        r = 1.0 if parameter is None else parameter
        factor, left = change_of_conserved(seen.first, seen.last, r)
        if not left <= most:
            conserved = "Sigma_T" if r == 1 else f"Sigma_W + S S^T / {r:.3g}"
            return f"{conserved}, which it conserves up to a common factor, has changed by {left:.0%}"
        implied = share_of_kernel(seen.split, r)
        decay = 0.5 * np.log(factor) / float((seen.split.signal + seen.split.noise).sum(0).mean())
        share, low, high = share - decay, low - decay, high - decay
    else:
        return ""
    if abs(share - implied) <= most:
        return ""
    return f"the class means make {share:.2f} of the growth of log omega ({low:.2f} to {high:.2f}), {implied:.2f} under it"


def share_of_kernel(split: GrowthSplit, r: float) -> float:
    """The class means' share of the growth under a block kernel r, from the statistics at both ends of every interval."""
    weight, s = (split.signal + split.noise).sum(1), split.predicted_shares
    return float((weight * r * s / (r * s + 1 - s)).sum() / weight.sum())


def change_of_conserved(first: Entry, last: Entry, r: float) -> tuple[float, float]:
    """Of A = Sigma_W + S S^T / r: the common factor c <= 1 nearest to its change, and ||A_1 - c A_0|| / ||c A_0||."""
    A0, A1 = (entry.sigma_w + (entry.M * (entry.priors / r)) @ entry.M.T for entry in (first, last))
    size = float((A0 * A0).sum())
    c = min(float((A0 * A1).sum()) / size, 1.0)  # feature decay enlarges nothing
    return c, float(np.linalg.norm(A1 - c * A0)) / (c * size**0.5)
