"""Neural regression collapse (Andriopoulos et al. 2024, arXiv 2409.04180): NRC1 to NRC3 of features and a linear last layer.

Features H are rows (n, P), targets Y rows (n, q), W (q, P); numpy or torch. Features are centred and divided by their own length,
so that the first two lie between 0 and 1.
"""

from manifolds.class_centering import whole_number
from manifolds.linalg import Array, ArrayT, namespace
from ufm.arrays import Rows, at_least_single, check_matrix
from ufm.features.vectors import unit_rows


def andriopoulos_nrc1(features: Rows[Array], q: int) -> float:
    """Ave_i ||h_i - proj(h_i on the q leading principal directions)||^2 of centred unit features (n, P): 0 on a q-space.

    With q >= P there are no other directions, and it is 0 whatever the features are: it says nothing about collapse.
    Raises ValueError for q < 1, features that are no finite matrix, and where one of them lies on the mean of all.
    """
    if whole_number(q, "q") < 1:
        raise ValueError(f"q = {q}: a target has at least one dimension")
    xp, unit = namespace(features), _unit_rows(features)
    values = xp.linalg.svd(unit, full_matrices=False)[1] ** 2
    return float(values[q:].sum()) / len(features)


def andriopoulos_nrc2(features: Rows[Array], W: Array) -> float:
    """Ave_i ||h_i - proj(h_i on the row space of W)||^2 of centred unit features (n, P), W (q, P): 0 where W sees all of them.

    Raises ValueError for other shapes, NaN or infinite entries, where W is zero or a feature lies on the mean of all.
    """
    xp, unit = namespace(features), _unit_rows(features)
    check_matrix(W, "the rows of W", columns=unit.shape[1])
    W = at_least_single(W)
    s, Vt = xp.linalg.svd(W, full_matrices=False)[1:]
    trusted = max(W.shape) * float(xp.finfo(s.dtype).eps) * float(s[0])
    if not trusted > 0:
        raise ValueError("W is zero: it has no row space")
    basis = Vt[s > trusted]
    rest = unit - (unit @ basis.mT) @ basis
    return float((rest * rest).sum()) / len(features)


def andriopoulos_nrc3(W: Array, targets: Array, c: float) -> float:
    """|| G/||G|| - T/||T|| ||_F^2 with G = W W^T (q, q), T = [Sigma^{1/2} - sqrt(c) I]_+, Sigma = cov of the targets (n, q).

    c = lambda_H lambda_W for the loss Ave/2 |W h + b - y|^2 + lambda_H/2 Ave |h|^2 + lambda_W/2 |W|^2. The paper writes
    Sigma^{1/2} - sqrt(c) I for c below every eigenvalue of Sigma; the positive part is the optimum for every c.
    Raises ValueError for c < 0, other shapes, NaN or infinite entries, and where W or T is zero.
    """
    if not c >= 0:
        raise ValueError(f"c = {c}: a product of two decays cannot be negative")
    check_matrix(targets, "the targets")
    check_matrix(W, "the rows of W", rows=targets.shape[1])
    targets, W = at_least_single(targets), at_least_single(W)
    xp, centred = namespace(targets), targets - targets.mean(0)
    _, s, Vt = xp.linalg.svd(centred, full_matrices=False)
    kept = xp.clip(s / len(targets) ** 0.5 - c**0.5, min=0.0)
    largest = float(abs(W).max())
    scaled = W / largest if largest > 0 else W
    T, G = (Vt.mT * kept) @ Vt, scaled @ scaled.mT
    sizes = [(A * A).sum() ** 0.5 for A in (T, G)]
    if not float(min(sizes)) > 0:
        raise ValueError(f"sqrt(c) = {c**0.5:.3g} leaves no direction of the targets, or W is zero: NRC3 is not defined")
    return float(((G / sizes[1] - T / sizes[0]) ** 2).sum())


def _unit_rows(features: Rows[ArrayT]) -> Rows[ArrayT]:
    check_matrix(features, "features")
    features = at_least_single(features)
    return unit_rows(features - features.mean(0), "a feature lies on the mean of all features: it has no direction")
