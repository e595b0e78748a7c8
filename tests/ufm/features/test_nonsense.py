"""What is no features is refused with what it is: complex, masked, dates, strings, numbers beyond the powers of float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from manifolds.class_centering import ClassLayout
from ufm.features.labels import class_blocks
from ufm.features.least_squares import lambda_of_weight_decay
from ufm.features.snr import snr, snr_spectrum
from ufm.features.statistics import StreamingStatistics, statistics_of
from ufm.flow.config import FlowConfig

LAYOUT = ClassLayout((7, 9, 11))
ROWS = np.random.default_rng(0).standard_normal((LAYOUT.n, 4))
WAYS: dict[str, Callable] = {
    "class_blocks": lambda rows: class_blocks(rows, LAYOUT.labels),
    "statistics": lambda rows: statistics_of(rows, LAYOUT.labels, 3),
    "snr": lambda rows: snr(rows.T, LAYOUT),
    "snr_spectrum": lambda rows: snr_spectrum(rows.T, LAYOUT),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.astype(complex), "complex128"),
        (np.ma.masked_less(ROWS, 0), "masked"),
        (ROWS.astype("datetime64[s]"), "datetime64"),
        (ROWS.astype(str), "<U"),
        (ROWS.astype(object), "object"),
        (ROWS.astype(int), "int64"),
        (ROWS * 1e200, "rescale|NaN or infinite"),
        (ROWS * 1e-200, "rescale"),
        (np.where(ROWS[3, 1] == ROWS, np.nan, ROWS), "NaN or infinite"),
        (np.where(ROWS[3, 1] == ROWS, np.inf, ROWS), "NaN or infinite"),
    ],
    ids=["complex", "masked", "dates", "strings", "objects", "integers", "huge", "tiny", "nan", "infinite"],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_what_is_no_features_is_refused(way: str, rows: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WAYS[way](rows)


def test_complex_tensors_are_refused_and_a_batch_that_is_refused_is_not_taken_in() -> None:
    stream = StreamingStatistics(3).update(ROWS, LAYOUT.labels)
    with pytest.raises(ValueError, match="complex"):
        StreamingStatistics(3).update(torch.from_numpy(ROWS).to(torch.complex128), torch.from_numpy(LAYOUT.labels))
    with pytest.raises(ValueError, match="rescale"):
        stream.update(ROWS * 1e150, LAYOUT.labels)
    np.testing.assert_array_equal(stream.compute().means, statistics_of(ROWS, LAYOUT.labels, 3).means)


def test_masked_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="masked"):
        class_blocks(ROWS, np.ma.masked_equal(LAYOUT.labels, 1))


@pytest.mark.parametrize("name", ["C", "N", "P", "seed", "points", "steps"])
def test_counts_are_whole_numbers(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 2.9: it must be a whole number"):
        FlowConfig(**{name: 2.9})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        StreamingStatistics(2.9)  # type: ignore[arg-type]


def test_labels_whose_mask_would_be_lost_are_refused() -> None:
    labels = np.ma.masked_equal(LAYOUT.labels, 1)
    for take in (lambda: statistics_of(ROWS, labels, 3), lambda: class_blocks(ROWS, labels)):
        with pytest.raises(ValueError, match="masked"):
            take()


def test_a_sparse_tensor_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="to_dense"):
        statistics_of(torch.from_numpy(ROWS).to_sparse(), torch.from_numpy(LAYOUT.labels), 3)


def test_names_of_classes_are_refused_with_the_way_out() -> None:
    named = np.array(["cat", "dog", "elk"])[LAYOUT.labels]
    for take in (lambda labels: statistics_of(ROWS, labels, 3), lambda labels: class_blocks(ROWS, labels)):
        with pytest.raises(ValueError, match="return_inverse"):
            take(named)
        take(np.unique(named, return_inverse=True)[1])


@pytest.mark.parametrize(
    ("weight_decay", "C", "message"),
    [
        (-1e-3, 3, "negative"),
        (float("nan"), 3, "finite"),
        (float("inf"), 3, "finite"),
        (1e-3, 2.9, "whole"),
        (1e-3, 1, "classes"),
    ],
)
def test_lambda_is_that_of_a_weight_decay_and_a_number_of_classes(weight_decay: float, C: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lambda_of_weight_decay(weight_decay, C)
