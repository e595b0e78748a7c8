"""Checks of any manifold of either library: slopes, derivatives, verdicts."""
