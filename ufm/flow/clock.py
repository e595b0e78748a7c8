"""Output times of a run, and the clock of a flow with feature decay."""

import math

import numpy as np

FIRST_TIME = 1e-4  # of the whole run: the first output time after 0, at the latest


def log_spaced(t_end: float, onset: float, points: int) -> np.ndarray:
    """0 and logarithmically spaced times up to t_end, the first at the onset or before. (points,)"""
    first = min(FIRST_TIME * t_end, onset)
    return np.concatenate(([0.0], np.geomspace(first, t_end, points - 1) if points > 2 else [t_end]))


def undecayed(t: np.ndarray, decay: float) -> np.ndarray:
    """The clock on which a flow with feature decay is the flow without: (exp(2 lambda t) - 1) / (2 lambda)."""
    if decay == 0:
        return t
    from ufm.laws.mean_system import decayed_clock

    return decayed_clock(t, decay)


def clock_of(tau: float, decay: float) -> float:
    """The inverse of `undecayed`: log(1 + 2 lambda tau) / (2 lambda)."""
    return math.log1p(2 * decay * tau) / (2 * decay) if decay else tau
