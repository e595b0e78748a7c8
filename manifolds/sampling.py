"""Random points, drawn from a generator that the caller owns."""

import numpy as np

from manifolds.arguments import require_class_layout
from manifolds.array import Columns
from manifolds.class_centering import ClassLayout, whole_number
from manifolds.retractions import nearest_point
from manifolds.rng import RNG, generator_of


def random_point(layout: ClassLayout, P: int, rng: RNG, batch: tuple[int, ...] = ()) -> Columns[np.ndarray]:
    """Deviations uniform (Haar) on their Stiefel manifold, class means standard normal: the means are unbounded. (*batch, P, n)

    `rng` is a generator that is drawn from, a seed, or None for fresh entropy.
    Raises ValueError where the manifold is empty, n - C < P, and for another `layout`, `P` or `rng`.
    """
    require_class_layout(layout).check_rank(whole_number(P, "P"))
    rng = generator_of(rng)
    Z = rng.standard_normal((*batch, P, layout.n))
    return nearest_point(layout.deviations(Z), layout) + layout.spread(rng.standard_normal((*batch, P, layout.C)))
