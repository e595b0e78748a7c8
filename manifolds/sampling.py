"""Random points, drawn from a generator that the caller owns."""

import numpy as np

from manifolds.layout import ClassLayout
from manifolds.retractions import nearest_point
from manifolds.rng import RNG


def random_point(layout: ClassLayout, P: int, rng: RNG, batch: tuple[int, ...] = ()) -> np.ndarray:
    """Deviations uniform (Haar) on their Stiefel manifold, class means standard normal: the means are unbounded. (*batch, P, n)

    `rng` is a generator that is drawn from, a seed, or None for fresh entropy.
    Raises ValueError where the manifold is empty, n - C < P.
    """
    layout.check_rank(P)
    rng = np.random.default_rng(rng)
    Z = rng.standard_normal((*batch, P, layout.n))
    return nearest_point(layout.deviations(Z), layout) + layout.spread(rng.standard_normal((*batch, P, layout.C)))
