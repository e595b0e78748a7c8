"""NC0, the sum of a classifier's rows, and its recursions under SGD with coupled weight decay: laws without a free time scale.

Under cross-entropy the gradient of every example sums to zero over classes (softmax minus a label that sums to 1, smoothed or
not), so 1^T W and 1^T b follow a recursion that depends on neither data nor labels. Under the squared error it is a recursion
without labels, driven by second moments of the features. NC0: Zhao, Cheng, Masarczyk & Lucchi 2026, arXiv 2602.16642.
Adam and sign methods follow neither: they rescale entries one by one. Neither does AdamW, except for cross-entropy of two
classes, whose rows have opposite gradients: its rescaled steps cancel in the sum.
"""

from dataclasses import dataclass
from typing import Generic

from manifolds.linalg import Array, ArrayT
from manifolds.representation import short_repr
from ufm.arrays import Covariance, FeatureVector, Weights, check_matrix


def zhao_nc0(W: Weights[Array]) -> float:
    """||1^T W||_2 of the rows of W (C, P): 0 is necessary for a self-dual simplex ETF.

    Raises ValueError for another shape and for NaN or infinite entries.
    """
    check_matrix(W, "the rows of W")
    sums = W.sum(0)
    largest = float(abs(sums).max())
    return largest * float(((sums / largest) ** 2).sum() ** 0.5) if largest > 0 else 0.0


@dataclass(frozen=True, repr=False)
class ColumnSums(Generic[ArrayT]):
    """1^T W (P,), or [1^T W, 1^T b - 1] (P + 1,) of the squared error, and its momentum buffer (None before the first step)."""

    sums: ArrayT
    buffer: ArrayT | None = None
    __repr__ = short_repr

    def stepped(self, gradient: ArrayT, lr: float, momentum: float, nesterov: bool) -> "ColumnSums[ArrayT]":
        """One step of torch.optim.SGD without dampening, from the gradient with its decay."""
        buffer = gradient if self.buffer is None else momentum * self.buffer + gradient
        move = gradient + momentum * buffer if nesterov else buffer
        return ColumnSums(self.sums - lr * (move if momentum else gradient), buffer if momentum else None)


def cross_entropy_step(
    state: ColumnSums[ArrayT], lr: float, weight_decay: float, momentum: float = 0.0, nesterov: bool = False
) -> ColumnSums[ArrayT]:
    """v <- mu v + wd s, s <- s - lr v: the next 1^T W (or 1^T b) of SGD on cross-entropy, whatever the batch."""
    return state.stepped(weight_decay * state.sums, lr, momentum, nesterov)


def squared_error_step(
    state: ColumnSums[ArrayT],
    second_moment: Covariance[Array],
    lr: float,
    weight_decay: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    scale: float = 1.0,
) -> ColumnSums[ArrayT]:
    """The next z = [1^T W, 1^T b - 1] of SGD on scale/2 Ave ||W h + b - y||^2 with labels that sum to 1, decay on W and b.

    The residuals sum to z h~, h~ = [h; 1], so the gradient is scale z E[h~ h~^T] + wd (z + e_b), E over the batch, (P+1, P+1),
    e_b the unit vector of the bias. Features change it, labels do not; without decay z = 0 stays. torch's MSELoss has scale 2/C.
    """
    z = state.sums
    decayed = weight_decay * z
    gradient = scale * (z @ second_moment) + decayed
    gradient[-1] = gradient[-1] + weight_decay
    return state.stepped(gradient, lr, momentum, nesterov)


def bias_free_step(
    state: ColumnSums[ArrayT], second_moment: Covariance[Array], mean: FeatureVector[Array], lr: float, wd: float
) -> ColumnSums[ArrayT]:
    """The next s = 1^T W of gradient descent on 1/2 Ave ||W h - y||^2, no bias: gradient s E[h h^T] - E[h] + wd s. (P,)

    Without a bias the features' mean `mean` = E[h] (P,) drives it: s = 0 is not kept, its fixed point is
    E[h] (E[h h^T] + wd I)^{-1}.
    """
    return state.stepped(state.sums @ second_moment - mean + wd * state.sums, lr, 0.0, False)
