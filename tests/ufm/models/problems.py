"""Hypothesis draws inside the theories' domains: C, N, P (and n) pairwise distinct, penalties on both sides of the thresholds."""

from typing import TypedDict

from hypothesis import strategies as st


class Sizes(TypedDict):
    """Classes, examples of a class, features."""

    C: int
    N: int
    P: int


class Penalties(TypedDict):
    """Weight decay of the classifier and of the features."""

    lambda_w: float
    lambda_h: float


SEEDS = st.integers(0, 2**20)


@st.composite
def shapes(draw: st.DrawFn, least: int = -1, classes: tuple[int, int] = (2, 6), most_features: int = 9) -> Sizes:
    """C, N and P pairwise distinct, P >= C + least."""
    C = draw(st.integers(*classes))
    N = draw(st.integers(1, 6).filter(lambda N: N != C))
    P = draw(st.integers(max(C + least, 1), max(most_features, C + least + 3)).filter(lambda P: P not in (C, N, C * N)))
    return {"C": C, "N": N, "P": P}


def thresholds(low: float = 0.08, high: float = 1.6) -> st.SearchStrategy[float]:
    """c = C sqrt(N lw lh) on both sides of 1, not within 5 percent of it, where convergence is arbitrarily slow."""
    return st.floats(low, high).filter(lambda c: abs(c - 1) > 0.05)


def split(c: float, ratio: float, C: int, N: int) -> Penalties:
    """lambda_w and lambda_h with C sqrt(N lw lh) = c and lw / lh = ratio."""
    geometric = c / (C * N**0.5)
    return {"lambda_w": geometric * ratio**0.5, "lambda_h": geometric / ratio**0.5}


RATIOS = st.sampled_from([0.1, 1.0, 5.0])
