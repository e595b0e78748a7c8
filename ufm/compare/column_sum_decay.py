"""NC0 along a run: 1^T W under cross-entropy and SGD with coupled weight decay, predicted from the optimizer's settings alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.compare.clock_free import Estimate, bootstrap_estimate, bootstrap_picks
from ufm.features.column_sums import ColumnSums, cross_entropy_step


@dataclass(frozen=True, eq=False, repr=False)
class ColumnSumDecay:
    """The factor of 1^T W since the first epoch, (T,): measured, its regression on the first, and predicted; the last measured
    with its interval over features, and size (T,), ||1^T W||_2.
    """

    measured: np.ndarray
    predicted: np.ndarray
    last: Estimate
    size: np.ndarray
    __repr__ = short_repr


def column_sum_decay(
    W: np.ndarray, rates: Sequence[np.ndarray], weight_decay: float, momentum: float = 0.0, nesterov: bool = False, seed: int = 0
) -> ColumnSumDecay:
    """W (T, C, P) of T epochs and the learning rates of every step between neighbouring ones, T - 1 arrays.

    v <- mu v + wd s, s <- s - lr v (`ufm.features.column_sums`), started in its slow mode: the buffer of many equal steps.
    Raises ValueError for other numbers of epochs, and for 1^T W = 0 at the first, which stays.
    """
    if len(rates) != len(W) - 1 or len(W) < 2:
        raise ValueError(f"{len(W)} epochs and {len(rates)} stretches of steps between them: there must be one stretch fewer")
    sums = W.sum(1)
    squared = float((sums[0] ** 2).sum())
    if not squared > (np.finfo(np.float32).eps * abs(W[0]).max()) ** 2 * W.shape[2]:
        raise ValueError("1^T W = 0 at the first epoch: it stays 0, and there is no factor to compare")
    state = ColumnSums(np.ones(1), _slow_buffer(rates, weight_decay, momentum, nesterov))
    predicted = [1.0]
    for stretch in rates:
        for rate in stretch:
            state = cross_entropy_step(state, float(rate), weight_decay, momentum, nesterov)
        predicted.append(float(state.sums[0]))
    products, squares = sums[-1] * sums[0], sums[0] ** 2
    picks = bootstrap_picks(len(squares), seed)
    last = float(products.sum() / squared)
    resampled = products[picks].sum(1) / squares[picks].sum(1)
    factor = sums @ sums[0] / squared
    return ColumnSumDecay(factor, np.array(predicted), bootstrap_estimate(last, resampled), np.linalg.norm(sums, axis=1))


def _slow_buffer(rates: Sequence[np.ndarray], weight_decay: float, momentum: float, nesterov: bool) -> np.ndarray | None:
    """v of s = 1 in the slower of the two modes of a step at the first rate, which many steps before have left alone."""
    first = next((float(stretch[0]) for stretch in rates if len(stretch)), 0.0)
    if not momentum or not first:
        return None
    ahead, share = (1 + momentum, momentum**2) if nesterov else (1.0, momentum)
    step = np.array([[1 - first * ahead * weight_decay, -first * share], [weight_decay, momentum]])
    values, vectors = np.linalg.eig(step)
    mode = vectors[:, values.real.argmax()].real
    return np.array([mode[1] / mode[0]])
