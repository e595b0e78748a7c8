"""One check of every number that a model predicts: nothing that `simulate` reports may stay unasserted."""

import numpy as np

from ufm.models.base import Report

MINIMUM = 1e-10  # stationary points have an error of the second order in the gradient, ACCEPTED = 1e-6 at most
SQUARES = {"NC1": 1e-10, "NC3": 1e-10}  # squares of first-order errors
FIRST = 1e-6  # first-order errors: a gradient of about GRADIENT = 1e-9 over the smallest curvature, 1e-3 of these problems
FLAT = 2e-4  # at the onset of the decayed bias itself the minimum has no second-order growth along 1

TOLERANCES: dict[str, dict[str, float]] = {
    # integration to 1e-11 and no stopping rule
    "central-path": {
        "omega": 1e-8,
        "omega_ratio": 1e-8,
        "loss": 1e-10,
        **dict.fromkeys(("constraint_residual", "deviations_moved", "left_vectors_turned"), 1e-7),
    },
    # for a start of size s = 1e-5: b and NC2 end at order s, the rest at order s^2, the law knows no s
    "mixon": {
        **dict.fromkeys(("bias", "NC2"), 1e-4),
        **dict.fromkeys(("singular_values", "gram_defect", "NC1", "NC3"), 1e-8),
        "subspace_law": 1e-10,
    },
    "lu-steinerberger": {**SQUARES, "cosine": FIRST, "NC2": FIRST},
    "e-wojtowytsch": {
        **SQUARES,
        **dict.fromkeys(("logit_gap", "feature_cosine", "NC2"), FIRST),
        **dict.fromkeys(("feature_norm", "singular_values"), 1e-12),  # active constraints, restored by the projection
    },
    "poggio-liao": {**SQUARES, "norm": 1e-8, "published_norm": 1e-12, "logits": 1e-8, "NC2": 1e-7},
    # bounded below: the line search ends at round-off of f, before GRADIENT is reached
    "ergen-pilanci": {
        **SQUARES,
        **dict.fromkeys(("logits", "logits_off_class"), 1e-5),
        **dict.fromkeys(("scale_over_shift", "NC2"), 2e-5),
    },
    "fang": {
        **SQUARES,
        **dict.fromkeys(("norm_ratio", "NC2", "majority_squared_distance", "minority_squared_distance", "minority_cosine"), 5e-6),
        "R0": 5e-3,  # bisected over solves
    },
    "zhu": {
        **SQUARES,
        **dict.fromkeys(("W_squared_norm", "H_squared_norm", "logit_gap", "NC2"), 5e-6),  # nearest to c = 1
        "bias_spread": 2e-5,  # nearly flat where lb = 0
        "hessian_at_zero": 1e-9,
    },
    "mse-bias-free": {
        **SQUARES,
        **dict.fromkeys(("classifier_squared_norms", "feature_squared_norms", "logits", "logits_off_diagonal", "NC2"), 5e-6),
    },
    "mse-free-bias": {**SQUARES, **dict.fromkeys(("logits", "bias"), FIRST), "W_squared_norm": 5e-6, "NC2": 5e-6},
    "mse-decayed-bias": {"NC1": 1e-10, "NC3": FLAT**2, "singular_values": FLAT, "bias": 1e-5, "NC2": FLAT},
    "deep-linear": {
        **SQUARES,
        **dict.fromkeys(("logits", "logits_off_diagonal", "W_squared_norms", "H_squared_norm", "NC2"), FIRST),
    },
}


def assert_as_predicted(report: Report) -> None:
    """Every deviation is within the tolerance of its model and key, absolute below 1, relative above; a key without one fails."""
    name = report.model.facts.name
    tolerances = {"minimum": MINIMUM, **TOLERANCES[name]}
    for key, deviation in report.deviation.items():
        assert key in tolerances, f"{name}: no tolerance for {key}"
        largest = float(np.abs(report.predicted[key]).max())
        assert deviation <= tolerances[key] * max(1.0, largest), f"{name}: {key} is off by {deviation:.1e}"
