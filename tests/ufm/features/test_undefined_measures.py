"""Measures of what has no direction, no scale or no numbers are refused with the reason, where NaN or LAPACK's error came."""

from typing import Any

import numpy as np
import pytest
import torch

from manifolds.linalg import Array
from ufm.features import measures
from ufm.features.conventions import roy_effective_rank, xu_vci
from ufm.features.measures import sakamoto_rnc1, sakamoto_rnc1_of_mean_norm
from ufm.features.out_of_distribution import ammar_neco
from ufm.features.regression_collapse import andriopoulos_nrc1, andriopoulos_nrc2, andriopoulos_nrc3
from ufm.features.statistics import ClassStatistics, statistics_of

LABELS = np.repeat(np.arange(3), 4)
ROWS = np.random.default_rng(0).standard_normal((12, 4))
W = np.random.default_rng(1).standard_normal((3, 4))
KINDS = (np.asarray, torch.from_numpy)


def statistics(kind: Any = np.asarray) -> ClassStatistics[Array]:
    """Of ROWS, numpy or torch."""
    return statistics_of(kind(ROWS), kind(LABELS), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_without_direction_has_neither_nc2_nor_nc3(kind: Any) -> None:
    """W = 0 gave 0/0; so did equal rows once centred, or a quotient of rounding."""
    stats, zero = statistics(kind), kind(np.zeros((3, 4)))
    calls = [
        (lambda: measures.zhu_nc2(zero), "weights W are zero"),
        (lambda: measures.zhu_nc2_centred(zero), "weights W are zero"),
        (lambda: measures.zhu_nc2_centred(kind(np.tile(W[0], (3, 1)))), "rows of W are equal"),
        (lambda: measures.zhu_nc3(stats, zero), "weights W are zero"),
        (lambda: measures.yaras_nc3(stats, zero), "weights W are zero"),
        (lambda: measures.phd_nc3(stats, zero), "weights W are zero"),
        (lambda: measures.phd_nc3(stats, kind(np.nan * W)), "NaN or infinite"),
        (lambda: measures.zhu_nc2(kind(np.inf * np.sign(W))), "NaN or infinite"),
        (lambda: measures.zhu_nc2(kind(W[:1])), "W has 1 row"),
        (lambda: measures.phd_equinorm(kind(np.nan * W.T)), "NaN entries"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_class_means_without_direction_have_no_nc3() -> None:
    stats = statistics()
    same = ClassStatistics(stats.counts, np.zeros((4, 3)), stats.sigma_w, stats.class_variances)
    for measure in (measures.phd_nc3, measures.zhu_nc3, measures.yaras_nc3):
        with pytest.raises(ValueError, match="class means are zero"):
            measure(same, W)
    with pytest.raises(ValueError, match="ratio of the traces"):
        measures.tirer_trace_ratio(same)
    with pytest.raises(ValueError, match="less each other, are zero"):
        measures.ammar_nc5(stats, np.asarray(stats.global_mean)[None])
    left = np.linalg.svd(np.asarray(stats.centred_means))[0][:, 2:]  # W sees nothing in which the means differ
    with pytest.raises(ValueError, match="orthogonal to all class means"):
        measures.zhu_nc3(stats, W[:, :2] @ left.T)


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e120])
def test_nc2_and_nc3_do_not_depend_on_a_size_whose_square_overflows_or_vanishes(size: float) -> None:
    stats = statistics()
    for value, plain in (
        (measures.zhu_nc2(size * W), measures.zhu_nc2(W)),
        (measures.zhu_nc2_centred(size * W), measures.zhu_nc2_centred(W)),
        (measures.zhu_nc3(stats, size * W), measures.zhu_nc3(stats, W)),
        (measures.phd_nc3(stats, size * W), measures.phd_nc3(stats, W)),
    ):
        assert value == pytest.approx(plain, rel=1e-12)


def test_the_effective_rank_of_what_is_no_finite_matrix_is_refused() -> None:
    wrong: list[tuple[Any, str]] = [(np.nan * ROWS, "NaN or infinite"), (ROWS[0], r"\(4,\): \(n, P\)"), (ROWS[:0], r"\(0, 4\)")]
    for features, message in wrong:
        for kind in KINDS:
            with pytest.raises(ValueError, match=message):
                roy_effective_rank(kind(features))
    named: Any = [[1.0, 2.0]]
    with pytest.raises(TypeError, match="got list"):
        roy_effective_rank(named)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_effective_rank_of_sixteen_bits_is_that_of_the_same_numbers(dtype: torch.dtype) -> None:
    narrow = torch.from_numpy(ROWS).to(dtype)
    assert roy_effective_rank(narrow) == pytest.approx(roy_effective_rank(narrow.double()), rel=1e-5)
    if dtype is torch.float16:
        assert roy_effective_rank(narrow.numpy()) == pytest.approx(roy_effective_rank(narrow.double()), rel=1e-5)
    assert roy_effective_rank(np.diag([1e130, 1e130, 1e-300])) == pytest.approx(2)  # the last share vanishes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_later_measures_of_sixteen_bits_are_those_of_the_same_numbers(dtype: torch.dtype) -> None:
    """No decomposition takes 16 bits: torch raised NotImplementedError."""
    rows, weights = torch.from_numpy(ROWS).to(dtype), torch.from_numpy(W).to(dtype)
    for measure in (
        lambda h, w: andriopoulos_nrc1(h, 2),
        andriopoulos_nrc2,
        lambda h, w: andriopoulos_nrc3(w, h[:, :3], 0.1),
        lambda h, w: float(ammar_neco(h, h[:9], 2).sum()),
    ):
        assert measure(rows, weights) == pytest.approx(measure(rows.double(), weights.double()), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_vci_takes_singular_values_only(kind: Any) -> None:
    for omega, message in (
        (np.array([1.0, -2.0]), "smallest omega is -2"),
        (np.array([1.0, np.nan]), "smallest omega is nan"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.array(1.0), r"shape \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            xu_vci(kind(omega))
    with pytest.raises(ValueError, match=r"rank is 2\.5"):
        xu_vci(kind(np.ones(2)), rank=2.5)  # type: ignore[arg-type]
    assert float(xu_vci(kind(np.array([1e200, 1.0, 2.0])))) == pytest.approx((1 / (1 + 1 / 4) + 1 / (1 + 4 / 4)) / 3)
    assert float(xu_vci(kind(np.array([np.inf, np.inf])))) == 0.0


def test_measures_of_a_list_say_what_they_need() -> None:
    plain: Any = [1.0, 2.0]
    for measure in (xu_vci, measures.zhu_nc2, measures.zhu_nc2_centred, measures.phd_equinorm):
        with pytest.raises(TypeError, match="numpy array or a torch tensor, got list"):
            measure(plain)


def test_rnc1_refuses_rows_of_the_right_shape_that_are_not_those_of_the_statistics() -> None:
    stats = statistics()
    for measure in (sakamoto_rnc1, sakamoto_rnc1_of_mean_norm):
        with pytest.raises(ValueError, match="mean square norm"):
            measure(stats, 2 * ROWS)
        with pytest.raises(ValueError, match="mean square norm"):
            measure(stats, ROWS - ROWS.mean(0))
        with pytest.raises(ValueError, match="NaN or infinite"):
            measure(stats, np.nan * ROWS)
        value = measure(stats, ROWS)
        assert measure(stats, ROWS[::-1]) == pytest.approx(value, rel=1e-12)  # the same rows in another order
        assert measure(stats, ROWS.astype(np.float32)) == pytest.approx(value, rel=1e-6)


def test_a_classifier_of_float32_goes_with_statistics_of_float64() -> None:
    """A network's W and b are float32, statistics float64: torch refused the product of both, numpy did not."""
    stats, b = statistics(torch.from_numpy), torch.from_numpy(W[:, 0]).float()
    narrow = torch.from_numpy(W).float().requires_grad_()
    wide = narrow.detach().double()
    for measure in (measures.zhu_nc3, measures.yaras_nc3, measures.phd_nc3):
        assert measure(stats, narrow) == pytest.approx(measure(stats, wide), rel=1e-14)
    assert measures.zhu_bias(stats, narrow, b) == pytest.approx(measures.zhu_bias(stats, wide, b.double()), rel=1e-14)
    assert measures.zhu_nc3(statistics(), narrow) == pytest.approx(measures.zhu_nc3(stats, wide), rel=1e-12)
    rows = torch.from_numpy(ROWS)
    for features, weights in ((rows.float(), wide), (rows, narrow)):
        mixed = measures.phd_nc4(features, weights, b, stats.means)
        assert mixed == measures.phd_nc4(features.double(), wide, b.double(), stats.means)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_are_no_classifier_and_no_features_are_named(kind: Any) -> None:
    stats, w, b, rows = statistics(kind), kind(W), kind(W[:, 0].copy()), kind(ROWS)
    calls: list[tuple[Any, str]] = [
        (lambda: measures.zhu_nc2(w[0]), r"W has shape \(4,\): \(C, P\)"),
        (lambda: measures.zhu_nc2(w[:0]), r"W has shape \(0, 4\)"),
        (lambda: measures.zhu_nc2_centred(w[0]), r"W has shape \(4,\)"),
        (lambda: measures.zhu_nc3(stats, w[0]), r"W has shape \(4,\)"),
        (lambda: measures.zhu_bias(stats, w[:, :2], b), r"W has shape \(3, 2\)"),
        (lambda: measures.zhu_bias(stats, w, b[:2]), r"b has shape \(2,\)"),
        (lambda: measures.zhu_bias(stats, np.inf * w, b), "NaN or infinite"),
        (lambda: measures.zhu_bias(stats, w, np.nan * b), "NaN or infinite"),
        (lambda: measures.phd_equinorm(w[0]), r"shape \(4,\): \(P, C\)"),
        (lambda: measures.phd_equiangular(w[None]), r"shape \(1, 3, 4\)"),
        (lambda: measures.phd_maximal_angle(w[:, :0]), r"shape \(3, 0\)"),
        (lambda: measures.phd_equinorm(np.inf * abs(w)), "NaN or infinite"),
        (lambda: measures.phd_equinorm(1e200 * w), "overflow or underflow"),
        (lambda: measures.phd_nc4(rows[:0], w, b, stats.means), r"features have shape \(0, 4\)"),
        (lambda: measures.phd_nc4(np.nan * rows, w, b, stats.means), "NaN or infinite"),
        (lambda: measures.phd_nc4(rows, np.inf * w, b, stats.means), "NaN or infinite"),
        (lambda: measures.phd_nc4(rows, w, b, stats.means[0]), r"class means \(3,\)"),
        (lambda: measures.ammar_nc5(stats, rows[:0]), r"shape \(0, 4\)"),
        (lambda: measures.ammar_nc5(stats, rows[:, :2]), r"shape \(12, 2\)"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
