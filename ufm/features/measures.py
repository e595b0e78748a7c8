"""Measures of neural collapse, one function each, named after the paper that defines it.

`phd_*` are those of Papyan, Han & Donoho (PNAS 2020), which the MSE paper plots (its Figures 3-8); the others differ from them
and from each other, so never compare a value with one from another function. `stats` are ClassStatistics, W (C, P), b (C,);
numpy or torch. "Centred" means are mu_c - mu_G.
"""

import numpy as np

from manifolds.linalg import Array, ArrayT, detached, epsilon, identity_like, namespace
from manifolds.whitening import degenerate_deviation
from ufm.arrays import ClassMeans, PerClass, Rows, Weights, check_matrix, check_scale
from ufm.features.cosine_deviation import cosine_deviation
from ufm.features.loss_decomposition import checked_classifier, checked_weights
from ufm.features.nearest_class_mean import disagreements
from ufm.features.ranges import range_of_covariance
from ufm.features.row_norms import within_over_square
from ufm.features.statistics import ClassStatistics
from ufm.features.vectors import (
    WEIGHTS,
    maximal_angle,
    nonzero_columns,
    norms,
    pair_cosines,
    sample_deviation,
    unit_matrix,
    unit_vectors,
    unit_weights,
)

DOUBLE_EPSILON = float(np.finfo(np.float64).eps)
CENTRED = "centred class means"  # as refusals name them


def phd_nc1(stats: ClassStatistics[Array], precision: float = DOUBLE_EPSILON) -> float:
    """tr(Sigma_W Sigma_B^+) / C, variability collapse (MSE paper, Figure 7). Raises ValueError where Sigma_B loses rank.

    `precision` is the machine epsilon of the dtype of the features, as in `zhu_nc1`.
    """
    return zhu_nc1(stats, precision)


def phd_equinorm(vectors: Array) -> float:
    """Std_c ||v_c|| / Avg_c ||v_c|| of the columns (P, C): centred class means, or W^T (Figure 3). Std over C - 1."""
    lengths = norms(nonzero_columns(vectors))
    return float(sample_deviation(lengths) / lengths.mean())


def phd_equiangular(vectors: Array) -> float:
    """Std over pairs c < c' of cos(v_c, v_c') for columns (P, C): centred class means, or W^T (Figure 4). 0 for C = 2."""
    return cosine_deviation(nonzero_columns(vectors))


def phd_maximal_angle(vectors: Array) -> float:
    """Avg over pairs of |cos(v_c, v_c') + 1/(C-1)| for columns (P, C): centred class means, or W^T (Figure 5)."""
    return float(maximal_angle(nonzero_columns(vectors)))


def phd_nc3(stats: ClassStatistics[Array], W: Weights[Array]) -> float:
    """|| W^T / ||W||_F - Mbar / ||Mbar||_F ||_F^2, self-duality (Figure 6). W is not centred.

    Raises ValueError for W of another shape, W = 0 and class means that all coincide.
    """
    W = checked_weights(stats, W)
    return float(((unit_weights(W).mT - unit_matrix(stats.centred_means, CENTRED)) ** 2).sum())


def phd_nc4(features: Rows[Array], W: Weights[Array], b: PerClass[Array], class_means: ClassMeans[Array]) -> float:
    """Share of features (n, P) on which the network and the nearest class mean disagree (Figure 8). class_means (P, C) uncentred.

    With test features and train means this is the PNAS figure; with train features the authors' notebook.
    """
    features, W, b, class_means = (detached(x) for x in (features, W, b, class_means))
    check_matrix(features, "features")
    P, C = features.shape[1], len(b)
    if (tuple(W.shape), tuple(b.shape), tuple(class_means.shape)) != ((C, P), (C,), (P, C)):
        shapes = f"features {tuple(features.shape)}, W {tuple(W.shape)}, b {tuple(b.shape)}"
        raise ValueError(
            f"{shapes} do not match class means {tuple(class_means.shape)}: (n, P), (C, P), (C,) and (P, C) are needed"
        )
    for values, what in ((W, WEIGHTS), (b, "biases b"), (class_means, "class means")):
        check_scale(float(abs(values).max()), what)
    return disagreements(features, W, b, class_means) / len(features)


def zhu_nc1(stats: ClassStatistics[Array], precision: float = DOUBLE_EPSILON) -> float:
    """tr(Sigma_W Sigma_B^+) / K (Zhu et al. 2021, NC1), K = C classes: the same quantity as `phd_nc1`.

    The pseudo-inverse is Moore and Penrose's, of exact rank min(C - 1, P - e), e the directions of features (dead units, the
    one that LayerNorm takes away) along which nothing varies, neither within nor between the classes, by more than features
    of machine epsilon `precision` are rounded. Raises ValueError where Sigma_B has less.
    """
    xp = namespace(stats.means)
    M = stats.means if stats.rounding is None else stats.centred_means  # kept rounding: digits as of means at the origin
    mean_square = float(stats.sigma_w.diagonal().sum() + (M * M * stats.priors).sum())
    trusted = max(stats.P, stats.C) * float(xp.finfo(stats.means.dtype).eps) * mean_square**0.5
    weighted = stats.centred_means * stats.priors**0.5
    U, values, _ = xp.linalg.svd(weighted, full_matrices=False)
    K = min(stats.C - 1, stats.P)
    if not float(values[K - 1]) > max(trusted, degenerate_deviation(mean_square, stats.P, precision)):
        empty = _empty_directions(stats, weighted, precision, trusted)
        K = min(K, stats.P - empty.shape[1])
        U, values, _ = xp.linalg.svd(weighted - empty @ (empty.mT @ weighted), full_matrices=False)
    if not K:
        raise ValueError("all features are equal: Sigma_W = Sigma_B = 0, and NC1 is undefined")
    U, values = U[:, :K], values[:K]
    if not float(values[-1]) > trusted:
        raise ValueError(
            f"Sigma_B has rank {int((values > trusted).sum())} < {K}: class means coincide or are dependent "
            f"(singular values {float(values[0]):.2e} to {float(values[-1]):.2e}), and NC1 is infinite"
        )
    return float((((stats.sigma_w @ U) * U).sum(0) / values**2).sum()) / stats.C


def _empty_directions(stats: ClassStatistics[ArrayT], weighted: ArrayT, precision: float, trusted: float) -> ArrayT:
    """Orthonormal basis (P, e) of the directions along which neither the features of a class nor the class means differ.

    Those without variability are `range_of_covariance`'s; among them, those along which the weighted class means (P, C) differ
    by no more than its empty deviation, or than their own rounding, `trusted`.
    """
    _, E, dropped, deviation = range_of_covariance(stats.sigma_w, stats.means, stats.priors, precision)
    still = E[:, :dropped]
    directions, values, _ = namespace(still).linalg.svd(still.mT @ weighted)
    return still @ directions[:, int((values > max(deviation, trusted)).sum()) :]


def zhu_nc2(W: Weights[Array]) -> float:
    """|| W W^T / ||W W^T||_F - (I - 1 1^T / K) / sqrt(K - 1) ||_F (Zhu et al. 2021, NC2). Raises ValueError for W = 0."""
    unit = unit_weights(W)
    return _distance_to_etf(unit @ unit.mT, W)


def zhu_nc2_centred(W: Weights[Array]) -> float:
    """`zhu_nc2` of W minus its mean row, as Zhou et al. (2022, MSE) measure it. Raises ValueError where all rows are equal."""
    unit = unit_weights(W)
    centred = unit - unit.mean(0)[None, :]
    if not float(abs(centred).max()) > len(W) * epsilon(unit) * float(abs(unit).max()):
        raise ValueError("the rows of W are equal: centred, they have no direction")
    return zhu_nc2(centred)


def zhu_nc3(stats: ClassStatistics[Array], W: Weights[Array]) -> float:
    """|| W Mbar / ||W Mbar||_F - (I - 1 1^T / K) / sqrt(K - 1) ||_F (Zhu et al. 2021, NC3). Raises ValueError for W Mbar = 0."""
    W = checked_weights(stats, W)
    return _product_to_etf(W, unit_matrix(stats.centred_means, CENTRED))


def yaras_nc3(stats: ClassStatistics[Array], W: Weights[Array]) -> float:
    """`zhu_nc3` with the class means as they are, not centred (Yaras et al. 2022, code)."""
    W = checked_weights(stats, W)
    return _product_to_etf(W, unit_matrix(stats.means, "class means"))


def zhu_bias(stats: ClassStatistics[Array], W: Weights[Array], b: PerClass[Array]) -> float:
    """|| b + W mu_G ||_2 (Zhu et al. 2021): 0 where the bias only centres the features.

    Raises ValueError for W and b of other shapes, and for NaN or infinite entries.
    """
    W, b = checked_classifier(stats, W, b)
    for values, what in ((W, WEIGHTS), (b, "biases b")):
        check_scale(float(abs(values).max()), what)
    return float(((b + W @ stats.global_mean) ** 2).sum() ** 0.5)


def galanti_cdnv(stats: ClassStatistics[Array]) -> float:
    """Avg_{c != c'} (s_c^2 + s_c'^2) / (2 ||mu_c - mu_c'||^2), class-distance normalised variance (Galanti et al. 2021).

    Raises ValueError where two class means coincide.
    """
    first, second = np.triu_indices(stats.C, 1)
    M = stats.centred_means
    gaps = ((M[:, first] - M[:, second]) ** 2).sum(0)
    if not float(gaps.min()) > 0:
        raise ValueError("two class means coincide: the class-distance normalised variance is infinite")
    variances = stats.class_variances
    return float(((variances[first] + variances[second]) / (2 * gaps)).mean())


def tirer_trace_ratio(stats: ClassStatistics[Array]) -> float:
    """tr Sigma_W / tr Sigma_B (Tirer, Huang & Niles-Weed 2022). Raises ValueError where all class means coincide."""
    between = float(((stats.centred_means**2).sum(0) * stats.priors).sum())
    if not between > 0:
        raise ValueError("all class means coincide: Sigma_B = 0, and the ratio of the traces is undefined")
    return float(stats.sigma_w.diagonal().sum()) / between


def sakamoto_rnc1(stats: ClassStatistics[Array], features: Rows[Array]) -> float:
    """tr Sigma_W of the features h / max_i ||h_i||, RNC1 (Sakamoto & Sato 2025, arXiv 2509.20829): rows (n, P) of the statistics.

    The paper divides by the largest norm over all inputs; here it is that of these rows. Raises ValueError where all are 0, and
    for features of another shape or mean square norm than the rows of the statistics have.
    """
    return within_over_square(stats, features, lambda lengths: lengths.max())


def sakamoto_rnc1_of_mean_norm(stats: ClassStatistics[Array], features: Rows[Array]) -> float:
    """tr Sigma_W / (Ave_i ||h_i||)^2, the RNC1 that the code of Sakamoto & Sato plots: at least `sakamoto_rnc1`.

    From within_class_variance and scale_means of github.com/keitaroskmt/collapse-dynamics; examples weigh alike, not classes.
    """
    return within_over_square(stats, features, lambda lengths: lengths.mean())


def liu_log_uniformity(stats: ClassStatistics[Array]) -> float:
    """Avg_{c != c'} log(1 / || v_c - v_c' ||), v_c the unit centred means: hyperspherical uniformity (Liu et al. 2023).

    With their logarithmic kernel. Smallest at a simplex ETF. Raises ValueError where two directions coincide to rounding.
    """
    cosines = pair_cosines(nonzero_columns(stats.centred_means))
    if not 1 - float(cosines.max()) > stats.P * epsilon(cosines):
        raise ValueError("two class means point the same way: the logarithmic energy is infinite")
    return float(-0.5 * namespace(cosines).log(2 - 2 * cosines).mean())


def ammar_nc5(stats: ClassStatistics[Array], ood_features: Rows[Array]) -> float:
    """Avg_c |cos(mu_c - mu_G, mu_ood - mu_G)|, orthogonality of out-of-distribution features (n, P) (Ammar et al. 2024, NC5).

    Raises ValueError where a class mean or the mean of the features is mu_G.
    """
    check_matrix(ood_features, "the out-of-distribution features", columns=stats.P)
    direction = unit_matrix(ood_features.mean(0) - stats.global_mean, "the means of both kinds of features, less each other,")
    return float(abs(direction @ unit_vectors(nonzero_columns(stats.centred_means))).mean())


def _product_to_etf(W: Weights[Array], means: ClassMeans[Array]) -> float:
    unit = unit_weights(W)
    product = unit @ means
    rounding = W.shape[1] * epsilon(product) * float(norms(unit.mT).max()) * float(norms(means).max())
    if not float(abs(product).max()) > rounding:
        raise ValueError("the rows of W are orthogonal to all class means: their products are zero and have no direction")
    return _distance_to_etf(product, W)


def _distance_to_etf(product: Array, W: Weights[Array]) -> float:
    return float(_frobenius(product / _frobenius(product) - _unit_etf(W)))


def _unit_etf(W: Weights[ArrayT]) -> ArrayT:
    """(I - 1 1^T / K) / sqrt(K - 1), of Frobenius norm 1. (K, K)"""
    K = W.shape[0]
    if K < 2:
        raise ValueError(f"W has {K} row: a simplex needs two")
    return (identity_like(W, K) - 1 / K) / (K - 1) ** 0.5


def _frobenius(a: ArrayT) -> ArrayT:
    return (a * a).sum() ** 0.5
