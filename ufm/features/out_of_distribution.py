"""Scores of single inputs that use collapse to tell data of other distributions: high for known, low for unknown inputs."""

from manifolds.linalg import ArrayT, namespace
from ufm.arrays import FeatureVector, PerClass, Rows, Scalars, Weights


def ammar_neco(features: Rows[ArrayT], training: Rows[ArrayT], k: int) -> Scalars[ArrayT]:
    """||P_k h|| / ||h|| of features (m, P), centred by the mean of training features (n, P), P_k their k leading components.

    NECO (Ben Ammar et al. 2024, arXiv 2310.06823), k usually C - 1; their code multiplies by the largest logit for some networks
    and standardises first: do so before where that is meant. Raises ValueError for k outside 1..P, for more components than the
    training features span and for a feature on the mean.
    """
    xp, P = namespace(training), training.shape[1]
    if not 1 <= k <= P:
        raise ValueError(f"k = {k}: the number of components must be between 1 and P = {P}")
    mean = training.mean(0)
    centred = features - mean
    lengths = (centred * centred).sum(-1) ** 0.5
    if not float(lengths.min()) > 0:
        raise ValueError("a feature lies on the mean of the training features: the ratio is 0/0")
    _, s, Vt = xp.linalg.svd(training - mean, full_matrices=False)
    rank = int((s > max(training.shape) * float(xp.finfo(s.dtype).eps) * float(s[0])).sum())
    if k > rank:
        raise ValueError(f"k = {k}: the training features span {rank} directions about their mean, and no more have components")
    inside = centred @ Vt[:k].mT
    return (inside * inside).sum(-1) ** 0.5 / lengths


def liu_nci(
    features: Rows[ArrayT], W: Weights[ArrayT], b: PerClass[ArrayT], global_mean: FeatureVector[ArrayT], alpha: float
) -> Scalars[ArrayT]:
    """<w_c, h - mu_G> / ||h - mu_G|| + alpha ||h||_1 with c = argmax W h + b, features (m, P), W (C, P), mu_G (P,).

    NCI, detecting out-of-distribution through the lens of neural collapse (Liu & Qin 2025). Raises ValueError for alpha < 0 and
    for a feature on the mean.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha = {alpha}: the weight of the feature's size cannot be negative")
    winners = (features @ W.mT + b).argmax(-1)
    centred = features - global_mean
    lengths = (centred * centred).sum(-1) ** 0.5
    if not float(lengths.min()) > 0:
        raise ValueError("a feature lies on the global mean: its angle is not defined")
    return (centred * W[winners]).sum(-1) / lengths + alpha * abs(features).sum(-1)
