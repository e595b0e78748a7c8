"""A measured trajectory against the exact laws: entry to the central path, invariants, clocks, frozen vectors, verdict."""

from manifolds.lazy import give_modules

give_modules(__name__)
