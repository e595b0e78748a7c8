"""Ticks of logarithmic axes: few, and always enough to read the scale from."""

import pytest
from matplotlib.figure import Figure

from ufm.files.plot import few_ticks


@pytest.mark.parametrize(
    ("low", "high"), [(1.5, 1.6), (0.2, 0.8), (0.02, 0.3), (0.3, 30.0), (2e-4, 0.15), (1e-6, 1.0), (1e-12, 1e3), (1e-300, 1.0)]
)
def test_a_logarithmic_axis_has_two_to_ten_labels_whatever_it_spans(low: float, high: float) -> None:
    axes = Figure(figsize=(3, 2)).subplots()
    axes.semilogy([0, 1], [low, high])
    few_ticks(axes)
    bottom, top = axes.get_ylim()
    pairs = zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
    labels = [label.get_text() for label, y in pairs if bottom <= y <= top]
    assert 2 <= len(labels) <= 10
    assert all(labels)
    assert len(set(labels)) == len(labels)
    assert not any("$" in label for label in labels)  # mathtext, which takes most of the time
    assert len(axes.get_yticks(minor=True)) == 0


def test_a_linear_axis_keeps_its_ticks() -> None:
    axes = Figure().subplots()
    axes.plot([0, 1], [0.0, 2.0])
    before = axes.get_yticks().tolist()
    few_ticks(axes)
    assert axes.get_yticks().tolist() == before
