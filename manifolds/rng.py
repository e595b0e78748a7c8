"""What functions that draw random numbers take as `rng` (scientific-python SPEC 7)."""

import numpy as np

RNG = int | np.random.Generator | None  # a seed, a generator to draw from, or None for fresh entropy


def seed_from(rng: RNG, seed: int) -> int:
    """`seed` where `rng` is None, `rng` where it is a whole number, and else a seed drawn from the generator."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    return seed if rng is None else rng
