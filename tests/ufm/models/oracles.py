"""One check of every number that a model predicts: nothing that `simulate` reports may stay unasserted."""

import numpy as np

from ufm.models.base import Simulation

MINIMUM = 1e-13  # solves end at round-off of the gradient, where the minimum has an error of its square
SQUARES = {"NC1": 1e-14, "NC3": 1e-14}  # squares of first-order errors
FIRST = 1e-8  # first-order errors: round-off of the gradient over the smallest curvature of these problems
LOGITS = dict.fromkeys(("logits", "logits_spread", "logits_off_diagonal"), FIRST)

TOLERANCES: dict[str, dict[str, float]] = {
    # integration to 1e-13 and no stopping rule
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
        "linearised": 2e-5,
        "subspace_law": 1e-10,
    },
    "lu-steinerberger": {**SQUARES, "cosine": FIRST, "NC2": FIRST},
    # projected gradients stop at a relative gradient of 1e-9
    "e-wojtowytsch": {
        **SQUARES,
        **dict.fromkeys(("logit_gap", "feature_cosine", "NC2"), 1e-7),
        **dict.fromkeys(("feature_norm", "singular_values"), 1e-12),  # active constraints, restored by the projection
    },
    "poggio-liao": {**SQUARES, **dict.fromkeys(("norm", "published_norm", "logits", "NC2"), FIRST)},
    "ergen-pilanci": {**SQUARES, **LOGITS, "scale_over_shift": FIRST, "NC2": FIRST},
    "fang": {
        **SQUARES,
        **dict.fromkeys(("norm_ratio", "NC2", "majority_squared_distance", "minority_squared_distance", "minority_cosine"), 1e-7),
        "R0": 2e-4,  # bracketed by solves 1e-4 apart
    },
    "zhu": {
        **SQUARES,
        **dict.fromkeys(("W_squared_norm", "H_squared_norm", "logit_gap", "NC2", "bias_spread"), FIRST),
        "hessian_at_zero": 1e-9,
    },
    "mse-bias-free": {**SQUARES, **LOGITS, **dict.fromkeys(("classifier_squared_norms", "feature_squared_norms", "NC2"), FIRST)},
    "mse-free-bias": {**SQUARES, **dict.fromkeys(("logits", "bias", "W_squared_norm", "NC2"), FIRST)},
    "mse-decayed-bias": {**SQUARES, **dict.fromkeys(("singular_values", "coupling", "bias", "NC2"), FIRST)},
    "label-smoothing": {
        **SQUARES,
        **dict.fromkeys(("W_squared_norm", "H_squared_norm", "logit_gap", "NC2", "bias_spread"), FIRST),
        "hessian_at_zero": 1e-9,
    },
    "focal": {
        **SQUARES,
        **dict.fromkeys(("W_squared_norm", "H_squared_norm", "logit_gap", "NC2", "bias_spread"), FIRST),
        "hessian_at_zero": 1e-9,
    },
    "softmax-codes": {"minimum": 1e-12, "one_vs_rest_margin": 1e-12, "NC1": 1e-14},
    # sequential quadratic programming ends where multipliers explain the gradient to 1e-6
    "seli": {"minimum": 1e-10, **dict.fromkeys(("logits", "classifier_gram", "feature_gram"), 1e-6), "NC1": 1e-14},
    # integration to 1e-13; where P < C a saddle is left on the way
    "joint-decay": dict.fromkeys(
        (*("limit_logits", "law_logits", "law_classifier_gram", "law_feature_gram", "law_loss", "balance", "balance_rate"),),
        1e-7,
    ),
    "block-kernel": dict.fromkeys(("law_logits", "law_loss", "within_share", "bias_moved", "invariant_drift"), 1e-9),
    "mse-any-target": {
        **dict.fromkeys(("singular_values", "classifier_gram", "bias", "logits_moved"), FIRST),
        **dict.fromkeys(("NRC1", "NRC2", "NRC3"), 1e-14),
    },
    "deep-ce": {"NC1": 1e-14, "NC3": 1e-14, **dict.fromkeys(("singular_values", "W_squared_norms", "H_squared_norm"), FIRST)},
    "deep-linear": {**SQUARES, **LOGITS, **dict.fromkeys(("W_squared_norms", "H_squared_norm", "NC2"), FIRST)},
}


def assert_as_predicted(report: Simulation) -> None:
    """Every deviation is within the tolerance of its model and key, absolute below 1, relative above; a key without one fails."""
    name = report.model.facts.name
    tolerances = {"minimum": MINIMUM, **TOLERANCES[name]}
    for key, deviation in report.deviation.items():
        assert key in tolerances, f"{name}: no tolerance for {key}"
        largest = float(np.abs(report.predicted[key]).max())
        assert deviation <= tolerances[key] * max(1.0, largest), f"{name}: {key} is off by {deviation:.1e}"
