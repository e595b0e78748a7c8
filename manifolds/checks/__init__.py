"""Checks of any manifold of either library: slopes, derivatives, verdicts."""

from manifolds.lazy import give_modules

give_modules(__name__)
