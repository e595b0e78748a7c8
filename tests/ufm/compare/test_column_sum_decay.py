"""NC0's prediction against SGD on cross-entropy itself: momentum, mini-batches, a drop of the rate; another decay."""

import numpy as np
import pytest

from ufm.compare.column_sum_decay import column_sum_decay


def trained(momentum: float, coupled: bool, nesterov: bool = False) -> tuple[np.ndarray, list[np.ndarray]]:
    """W after 0, 60, 120 and 180 steps that follow 200 first ones; the rates of the steps between."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((90, 6)), np.arange(90) % 3
    W, v = rng.standard_normal((3, 6)), np.zeros((3, 6))
    kept, rates = list[np.ndarray](), np.where(np.arange(380) < 290, 0.1, 0.02)
    for k in range(381):
        if k >= 200 and (k - 200) % 60 == 0:
            kept.append(W.copy())
        if k == 380:
            break
        rows = rng.choice(90, 20, replace=False)
        logits = X[rows] @ W.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p = p / p.sum(1, keepdims=True) - np.eye(3)[y[rows]]
        gradient = p.T @ X[rows] / 20 + (0.02 * W if coupled else 0.2 * np.sign(W))
        v = momentum * v + gradient
        W = W - rates[k] * (gradient + momentum * v if nesterov else v)
    return np.array(kept), [rates[200 + 60 * k : 260 + 60 * k] for k in range(3)]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_the_column_sums_decay_as_the_settings_say(momentum: float, nesterov: bool) -> None:
    W, rates = trained(momentum, True, nesterov)
    decay = column_sum_decay(W, rates, 0.02, momentum, nesterov)
    assert decay.measured[-1] < 0.9
    np.testing.assert_allclose(
        decay.measured, decay.predicted, rtol=5e-5
    )  # the fast mode of the first steps is (0.92 / 0.98)^200 of the slow one
    assert decay.last.low <= decay.last.value <= decay.last.high
    wrong = column_sum_decay(W, rates, 0.03, momentum, nesterov)
    assert abs(wrong.predicted[-1] / decay.predicted[-1] - 1) > 0.05


def test_another_decay_leaves_the_recursion() -> None:
    W, rates = trained(0.9, False)
    decay = column_sum_decay(W, rates, 0.02, 0.9)
    assert abs(decay.measured[-1] - decay.predicted[-1]) > 0.05


def test_what_has_no_factor_says_so() -> None:
    W, rates = trained(0.0, True)
    with pytest.raises(ValueError, match="one stretch fewer"):
        column_sum_decay(W, rates[:1], 0.02)
    with pytest.raises(ValueError, match="stays 0"):
        column_sum_decay(W - W.mean(1, keepdims=True), rates, 0.02)
