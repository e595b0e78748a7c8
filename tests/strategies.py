"""Hypothesis strategies: problems whose C, N, P (and n, P+1) are pairwise distinct, so that a transposed axis cannot pass."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from manifolds.class_centering import ClassLayout
from manifolds.normalized_features import renormalize


@dataclass(frozen=True)
class Problem:
    """A layout, features H (P, n) with separated class means, and the generator that made them."""

    layout: ClassLayout
    H: np.ndarray
    rng: np.random.Generator

    @property
    def P(self) -> int:
        """Number of features."""
        return self.H.shape[0]

    @property
    def X(self) -> np.ndarray:
        """Renormalized features with zero global mean. (P, n)"""
        centred = self.H - self.H.mean(-1, keepdims=True)
        return renormalize(renormalize(centred, self.layout), self.layout)

    def direction(self) -> np.ndarray:
        """A random ambient direction. (P, n)"""
        return self.rng.standard_normal(self.H.shape)


def features(layout: ClassLayout, P: int, rng: np.random.Generator, signal: float = 1.0) -> np.ndarray:
    """Gaussian deviations with a random covariance plus class means of size `signal`. (P, n)"""
    mixing = np.eye(P) + 0.3 * rng.standard_normal((P, P)) / np.sqrt(P)
    means = signal * rng.standard_normal((P, layout.C)) + rng.standard_normal((P, 1))
    return mixing @ rng.standard_normal((P, layout.n)) + layout.spread(means)


@st.composite
def problems(draw: st.DrawFn, balanced: bool = True, few_features: bool = False) -> Problem:
    """C, N, P pairwise distinct with C(N-1) >= P; `few_features` draws P < C - 1 as well; unequal sizes if not `balanced`."""
    C = draw(st.integers(2, 6))
    N = draw(st.integers(4, 12).filter(lambda N: N != C))
    lowest = 1 if few_features else max(C, 2)
    P = draw(st.integers(lowest, min(11, C * (N - 1) - 1)).filter(lambda P: P not in (C, N)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    signal = draw(st.sampled_from([0.2, 1.0, 5.0]))
    if balanced:
        layout = ClassLayout.equal(C, N)
    else:
        extra = draw(st.lists(st.integers(0, 7), min_size=C, max_size=C).filter(lambda extra: len(set(extra)) > 1))
        layout = ClassLayout(tuple(N + e for e in extra))
    return Problem(layout, features(layout, P, rng, signal), rng)
