"""A measured trajectory against the exact laws: entry to the central path, invariants, clocks, frozen vectors, verdict."""
