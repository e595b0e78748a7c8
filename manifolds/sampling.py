"""Random points, drawn from a generator that the caller owns."""

import numpy as np

from manifolds.layout import ClassLayout
from manifolds.retractions import nearest_point


def random_point(layout: ClassLayout, P: int, rng: np.random.Generator, batch: tuple[int, ...] = ()) -> np.ndarray:
    """Deviations uniform (Haar) on their Stiefel manifold, class means standard normal: the means are unbounded. (*batch, P, n)

    Raises ValueError where the manifold is empty, n - C < P.
    """
    layout.check_rank(P)
    Z = rng.standard_normal((*batch, P, layout.n))
    return nearest_point(layout.deviations(Z), layout) + layout.spread(rng.standard_normal((*batch, P, layout.C)))
