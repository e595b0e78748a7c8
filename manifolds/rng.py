"""What functions that draw random numbers take as `rng` (scientific-python SPEC 7)."""

import numpy as np

RNG = int | np.random.Generator | None  # a seed, a generator to draw from, or None for fresh entropy


def generator_of(rng: RNG) -> np.random.Generator:
    """The generator `rng` itself, or one of that seed, or of fresh entropy for None. Raises ValueError for anything else."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"rng is {rng!r}: a whole number from 0, a numpy.random.Generator or None is needed; "
            "of a torch.Generator t take t.initial_seed()"
        ) from error


def seed_from(rng: RNG, seed: int) -> int:
    """`seed` where `rng` is None, `rng` where it is a whole number, and else a seed drawn from the generator."""
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    return seed if rng is None else rng
