"""What a model implies of the class statistics of later epochs at any clock: held against the one that would be named.

The likelihood sees the SNR matrix alone, and takes for noise what the likeliest model leaves. Features tell more:

split          the class means' share of the growth of log omega: 1 where Sigma_W stands still (renormalized, embedded), s of
               `predicted_split` under plain descent, r s / (r s + 1 - s) under a block kernel, whose gradient is the same
conservation   Sigma_W + S S^T / r under plain descent (r = 1) and a block kernel, up to the common factor of feature decay;
               Sigma_W (r = inf) under the renormalized and the embedded flow; A A^T and the layer below under `layer`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.clock_free import GrowthSplit, growth_split
from ufm.compare.conserved import ConservedProducts, change_of_entries, change_seen_by_class_means, conserved_products
from ufm.compare.coordinates import Entry
from ufm.compare.models import KERNEL, LAYER, PLAIN
from ufm.compare.outcome import Support
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED


@dataclass(frozen=True, eq=False, repr=False)
class SeenStatistics:
    """Of the epochs of one run that are compared: the split of its growth, what tells whether A(r) is conserved, and, where the
    layer below is stored, `change_of_layer` from the first to the last.
    """

    split: GrowthSplit
    conserved: ConservedProducts
    layer: float | None = None
    __repr__ = short_repr


def seen_statistics(
    entries: Sequence[Entry], split: GrowthSplit | None = None, whole: Sequence[Entry] | None = None
) -> SeenStatistics:
    """What a name is held against, from class statistics in one basis of the range of the first Sigma_W, one an epoch; and their
    split, and the statistics in all directions, where these are known.

    Raises ValueError where Sigma_W is singular, or for fewer than 2 epochs.
    """
    return SeenStatistics(growth_split(entries) if split is None else split, conserved_products(entries, whole))


def contradiction(name: str, parameter: float | None, runs: Sequence[SeenStatistics | str | None], most: float) -> str:
    """What of the statistics of some run a model does not have, in words; "" where each is as it implies, within `most`: of the
    growth for the split, of its norm for what is conserved. None stands for a run whose statistics are not known, a sentence for
    one of which they are such that no flow that conserves A(r) has them.
    """
    if name == LAYER:
        changes = [seen.layer for seen in runs if isinstance(seen, SeenStatistics) and seen.layer is not None]
        largest = max(changes, default=0.0)
        kept = "A A^T up to weight decay, or the layer below, which it conserves"
        return "" if largest <= most else f"{kept}, have changed by {largest:.0%}"
    if name not in (RENORMALIZED.name, EMBEDDED.name, PLAIN, KERNEL):
        return ""
    for seen in runs:
        against = seen if isinstance(seen, str) else "" if seen is None else _contradicted(name, parameter, seen, most)
        if against:
            return against
    return ""


def unexcused(
    support: Mapping[str, Support], runs: Sequence[SeenStatistics | str | None], most: float, times: float
) -> dict[str, Support]:
    """Refuted after all, where the tolerance alone keeps a model that the statistics contradict, beside one left that they do
    not and that is so many times as likely. Features seen in a basis that moves contradict the true model, too.
    """
    left = {name: own for name, own in support.items() if not own.missing and not own.refuted}
    against = {name for name, own in left.items() if contradiction(name, own.parameter, runs, most)}
    likeliest = max((own.log_likelihood for name, own in left.items() if name not in against), default=-np.inf)
    lost = {name for name in against if left[name].negligible and likeliest - left[name].log_likelihood > np.log(times)}
    return {name: replace(own, refuted=True, negligible=False) if name in lost else own for name, own in support.items()}


def _contradicted(name: str, parameter: float | None, seen: SeenStatistics, most: float) -> str:
    if name in (RENORMALIZED.name, EMBEDDED.name):
        own = seen.split.share
        return _not_the_share(own.value, own.low, own.high, 1.0, most) or _not_conserved(seen, np.inf, most)
    r = 1.0 if parameter is None else parameter
    return _not_conserved(seen, r, most) or _not_the_share(*_share_without_decay(seen, r), share_of_kernel(seen.split, r), most)


def _not_the_share(share: float, low: float, high: float, implied: float, most: float) -> str:
    if abs(share - implied) <= most:
        return ""
    return f"the class means make {share:.2f} of the growth of log omega ({low:.2f} to {high:.2f}), {implied:.2f} under it"


def _not_conserved(seen: SeenStatistics, r: float, most: float) -> str:
    conserved = "Sigma_W" if np.isinf(r) else "Sigma_T" if r == 1 else f"Sigma_W + S S^T / {r:.3g}"
    for left, where in (
        (change_of_entries(seen.conserved, r)[1], ""),
        (change_seen_by_class_means(seen.conserved, r), " in the directions of the class means"),
    ):
        if not left <= most:
            return f"{conserved}, which it conserves up to a common factor, has changed by {left:.0%}{where}"
    return ""


def _share_without_decay(seen: SeenStatistics, r: float) -> tuple[float, float, float]:
    """The class means' share of the growth, with its interval, had features not decayed: means and deviations shrink alike.

    A common factor above 1 is left in: no flow has it, and noise gives little of it, which is averaged over all directions.
    """
    split, factor = seen.split, change_of_entries(seen.conserved, r)[0]
    decay = 0.5 * np.log(factor) / float((split.signal + split.noise).sum(0).mean())
    return split.share.value - decay, split.share.low - decay, split.share.high - decay


def share_of_kernel(split: GrowthSplit, r: float) -> float:
    """The class means' share of the growth under a block kernel r, from the statistics at both ends of every interval."""
    weight = (split.signal + split.noise).sum(1)
    return float((weight * split.shares_between(r)).sum() / weight.sum())
