"""Scores of single inputs that use collapse to tell data of other distributions: high for known, low for unknown inputs."""

from manifolds.class_centering import whole_number
from manifolds.linalg import ArrayT, namespace
from ufm.arrays import FeatureVector, PerClass, Rows, Scalars, Weights, at_least_single, check_matrix
from ufm.features.vectors import unit_rows


def ammar_neco(features: Rows[ArrayT], training: Rows[ArrayT], k: int) -> Scalars[ArrayT]:
    """||P_k h|| / ||h|| of features (m, P), centred by the mean of training features (n, P), P_k their k leading components.

    NECO (Ben Ammar et al. 2024, arXiv 2310.06823), k usually C - 1; their code multiplies by the largest logit for some networks
    and standardises first: do so before where that is meant. Raises ValueError for k outside 1..P, for more components than the
    training features span and for a feature on the mean.
    """
    check_matrix(training, "training features")
    xp, P = namespace(training), training.shape[1]
    check_matrix(features, "features", columns=P)
    if not 1 <= whole_number(k, "k") <= P:
        raise ValueError(f"k = {k}: the number of components must be between 1 and P = {P}")
    features, training = at_least_single(features), at_least_single(training)
    mean = training.mean(0)
    unit = unit_rows(features - mean, "a feature lies on the mean of the training features: the ratio is 0/0")
    _, s, Vt = xp.linalg.svd(training - mean, full_matrices=False)
    rank = int((s > max(training.shape) * float(xp.finfo(s.dtype).eps) * float(s[0])).sum())
    if k > rank:
        raise ValueError(f"k = {k}: the training features span {rank} directions about their mean, and no more have components")
    inside = unit @ Vt[:k].mT
    return (inside * inside).sum(-1) ** 0.5


def liu_nci(
    features: Rows[ArrayT], W: Weights[ArrayT], b: PerClass[ArrayT], global_mean: FeatureVector[ArrayT], alpha: float
) -> Scalars[ArrayT]:
    """<w_c, h - mu_G> / ||h - mu_G|| + alpha ||h||_1 with c = argmax W h + b, features (m, P), W (C, P), mu_G (P,).

    NCI, detecting out-of-distribution through the lens of neural collapse (Liu & Qin 2025). Raises ValueError for alpha < 0 or
    infinite, for other shapes, and for a feature on the mean.
    """
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha = {alpha}: the weight of the feature's size must be finite and cannot be negative")
    check_matrix(features, "features")
    P = features.shape[1]
    check_matrix(W, "the rows of W", columns=P)
    if tuple(b.shape) != (len(W),) or tuple(global_mean.shape) != (P,):
        shapes = f"b {tuple(b.shape)}, global_mean {tuple(global_mean.shape)}"
        raise ValueError(f"{shapes} do not match W {tuple(W.shape)}: ({len(W)},) and ({P},) are needed")
    winners = (features @ W.mT + b).argmax(-1)
    unit = unit_rows(features - global_mean, "a feature lies on the global mean: its angle is not defined")
    return (unit * W[winners]).sum(-1) + alpha * abs(features).sum(-1)
