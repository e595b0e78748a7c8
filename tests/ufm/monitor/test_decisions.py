"""Decisions by float32 products are those of float64, however close the best two are, however far and large the features."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ufm.features import nearest_class_mean
from ufm.features.ranges import Classifier
from ufm.monitor.certified import CertifiedDecisions, LinearScores, certified_radii
from ufm.monitor.decisions import Decider, Decisions, _Scores

SIZES = st.tuples(st.integers(5, 60), st.integers(2, 9), st.integers(2, 11)).filter(lambda sizes: len(set(sizes)) == 3)


def expected(rows: Tensor, labels: Tensor, classifier: Classifier, means: Tensor) -> Decisions:
    """By the definitions in extended precision, ties to the first class."""
    wide = rows.double().numpy().astype(np.longdouble)
    scores = wide @ classifier.W.numpy().astype(np.longdouble).T + classifier.b.numpy()
    distances = ((wide[:, :, None] - means.numpy().astype(np.longdouble)) ** 2).sum(1)
    network, nearest, y = scores.argmax(1), distances.argmin(1), labels.numpy()
    return Decisions(int((network != y).sum()), int((network != nearest).sum()), int((nearest != y).sum()))


def problem(seed: int, n: int, P: int, C: int, offset: float, noise: float) -> tuple[Tensor, Tensor, Classifier, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, n)
    means = offset + rng.standard_normal((P, C))
    rows = torch.from_numpy((means.T[labels] + noise * rng.standard_normal((n, P))).astype(np.float32))
    W = rng.standard_normal((C, P))
    classifier = Classifier(torch.from_numpy(W), torch.from_numpy(-W @ np.full(P, offset)))
    return rows, torch.from_numpy(labels), classifier, torch.from_numpy(means)


@given(st.integers(0, 2**32 - 1), SIZES, st.sampled_from([0.0, 30.0, 1e4]), st.sampled_from([1e-3, 0.5, 3.0]))
def test_counts_are_those_of_extended_precision(seed: int, sizes: tuple[int, int, int], offset: float, noise: float) -> None:
    rows, labels, classifier, means = problem(seed, *sizes, offset, noise)
    assert Decider(classifier, means)(rows, labels) == expected(rows, labels, classifier, means)
    assert Decider(None, means)(rows, labels) == Decisions(0, 0, expected(rows, labels, classifier, means).wrong_by_mean)


def near_ties(seed: int = 0, n: int = 400, P: int = 24) -> tuple[Tensor, Tensor, Classifier, Tensor]:
    """Rows whose scores of two classes, and distances to two means, differ by 1e-9: far below what float32 can tell."""
    rng = np.random.default_rng(seed)
    direction = np.linalg.qr(rng.standard_normal((P, P)))[0][:, 0]
    means = np.stack([direction, -direction], 1) * 3 + 20
    rows = 20 + rng.standard_normal((n, P))
    rows -= np.outer((rows - 20) @ direction, direction)  # half-way between both
    rows += np.outer(rng.choice([-1e-9, 1e-9], n), direction)
    W = np.stack([direction, -direction])
    classifier = Classifier(torch.from_numpy(W), torch.from_numpy(-W @ np.full(P, 20.0)))
    return torch.from_numpy(rows), torch.from_numpy(rng.integers(0, 2, n)), classifier, torch.from_numpy(means)


def test_what_float32_cannot_tell_is_decided_by_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, classifier, means = near_ties()
    counts = Decider(classifier, means)(rows, labels)
    assert counts == expected(rows, labels, classifier, means)
    assert counts.disagreements == 0

    def sure(scores: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addmm(scores.offsets, x, scores.weights.mT).argmax(1), torch.zeros(len(x)).bool()

    monkeypatch.setattr("ufm.monitor.decisions._Scores.best", sure)
    assert Decider(classifier, means)(rows, labels) != counts  # the rows are hard: float32 alone gets them wrong


@pytest.fixture
def rough_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("rough_products")
def test_products_that_the_user_has_made_rougher_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, classifier, means = problem(0, 50, 6, 4, 5.0, 0.5)
    monkeypatch.setattr("ufm.monitor.decisions._Scores.best", lambda *_: pytest.fail("float32 products are of another precision"))
    assert Decider(classifier, means)(rows, labels) == expected(rows, labels, classifier, means)


def test_autocast_around_it_changes_no_decision() -> None:
    rows, labels, classifier, means = problem(3, 500, 40, 7, 30.0, 3.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Decider(classifier, means)(rows, labels) == expected(rows, labels, classifier, means)


def test_scales_outside_of_float32_are_decided_too() -> None:
    for scale in (1e-30, 1e30, 1e100):
        rows, labels, classifier, means = problem(5, 60, 7, 4, 0.0, 1.0)
        classifier = Classifier(classifier.W, scale * classifier.b)
        moved = rows.double() * scale, labels, classifier, means * scale
        assert Decider(classifier, means * scale)(moved[0], labels) == expected(*moved), scale


def test_equal_scores_go_to_the_first_class_and_few_rows_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, classifier, means = problem(7, 3000, 30, 8, 30.0, 0.3)
    same = Classifier(0 * classifier.W, 0 * classifier.b)
    assert Decider(same, means)(rows, labels).wrong == int((labels != 0).sum())
    again: list[int] = []
    nearest = nearest_class_mean.nearest_mean
    monkeypatch.setattr(nearest_class_mean, "nearest_mean", lambda H, m: (again.append(len(H)), nearest(H, m))[1])
    Decider(classifier, means)(rows, labels)
    assert sum(again) < 30


@given(st.integers(0, 2**32 - 1), SIZES, st.sampled_from([0.0, 30.0, 1e4]), st.sampled_from([1e-3, 0.3, 1.0, 3.0]))
def test_certified_decisions_are_those_of_extended_precision(
    seed: int, sizes: tuple[int, int, int], offset: float, noise: float
) -> None:
    rows, labels, classifier, means = problem(seed, *sizes, offset, noise)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ufm.monitor.decisions.FEW_CLASSES", 2)
        decide = Decider(classifier, means)
        while decide._certified is None:
            assert decide(rows, labels) == expected(rows, labels, classifier, means)
        assert decide(rows, labels) == expected(rows, labels, classifier, means)
        wrong = labels.roll(1)  # the class named is not that of the row
        assert decide(rows, wrong) == expected(rows, wrong, classifier, means)
        assert Decider(None, means)(rows, labels).wrong_by_mean == expected(rows, labels, classifier, means).wrong_by_mean


def linear(weights: Tensor, offsets: Tensor) -> LinearScores:
    return LinearScores(weights, offsets, torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e9])
def test_scores_that_cancel_altogether_far_from_zero_are_those_of_float64(offset: float) -> None:
    C, P = 70, 30  # all classes at one point, where all scores are equal but for rounding
    for seed in range(12):
        rng = np.random.default_rng(seed)
        labels, W = torch.arange(400) % C, torch.from_numpy(rng.standard_normal((C, P)))
        point = torch.from_numpy(offset * (1 + rng.standard_normal(P))).float().double()
        means = point[:, None] + offset * 2e-15 * torch.from_numpy(rng.standard_normal((P, C)))
        rows = means.mT[labels] + offset * 1e-17 * torch.from_numpy(rng.standard_normal((400, P)))
        classifier = Classifier(W, -W @ point)
        wrong = int((torch.addmm(classifier.b, rows, W.mT).argmax(1) != labels).sum())
        decide = Decider(classifier, means)
        assert [decide(rows, labels).wrong for _ in range(2)] == [wrong, wrong], seed


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype_are_numbers_not_masks(dtype: torch.dtype) -> None:
    rows, labels, classifier, means = problem(7, 600, 30, 70, 30.0, 1e-3)
    decide = Decider(classifier, means)
    whole = decide(rows, labels)
    assert decide(rows, labels.to(dtype)) == whole


@given(st.integers(0, 2**32 - 1), SIZES, st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_decision_changes_at_the_certified_radius_and_not_before(seed: int, sizes: tuple[int, int, int], scale: float) -> None:
    K, P, C = sizes
    rng = np.random.default_rng(seed)
    points, W, b = scale * rng.standard_normal((P, K)), rng.standard_normal((C, P)), rng.standard_normal(C)
    best, radii = (x.numpy() for x in certified_radii(torch.from_numpy(points), linear(torch.from_numpy(W), torch.from_numpy(b))))
    scores = W @ points + b[:, None]
    assert best.tolist() == scores.argmax(0).tolist()
    for k, radius in enumerate(radii):
        directions = W - W[best[k]]
        directions /= np.maximum(np.linalg.norm(directions, axis=1), 1e-300)[:, None]
        for share, changed in ((1 - 1e-6, False), (1 + 1e-6, True)):
            moved = points[:, k] + share * radius * directions  # straight to every other class
            assert ((moved @ W.T + b).argmax(1) != best[k]).any() == changed


def test_what_is_certain_is_inside_however_small_the_scale_and_needs_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.standard_normal((6, 5)))
    weights, offsets = 2 * points.mT, -(points * points).sum(0)
    labels = torch.arange(5)
    radii = certified_radii(points, linear(weights, offsets))[1]
    for scale in (1e-36, 1e-30, 1e-15, 1.0, 1e15):
        certified = CertifiedDecisions(scale * points, None, [linear(scale * weights, scale**2 * offsets)])
        for share in (0.5, 1.01):
            moved = points + share * radii * torch.nn.functional.normalize(points.roll(1, 1) - points, dim=0)
            certain = certified((scale * moved.mT).float(), labels)[0].certain
            assert not certain.any() if share > 1 or scale < 1e-20 else certain.all(), (scale, share)
    rows, labels, classifier, means = problem(7, 600, 30, 70, 30.0, 1e-3)
    decide = Decider(classifier, means)
    decide(rows, labels)
    whole = expected(rows, labels, classifier, means)
    kept: list[int] = []
    best = _Scores.best
    monkeypatch.setattr(_Scores, "best", lambda scores, x: (kept.append(len(x)), best(scores, x))[1])
    assert decide(rows, labels) == whole
    assert sum(kept) < 30
