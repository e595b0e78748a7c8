"""Calls that a user of torch makes on the first day: float32 parameters, labels where a layout belongs, lists."""

import numpy as np
import pytest
import torch

import ufm
from ufm.features.ranges import reduce_to_range
from ufm.features.snr import renormalized_features


@pytest.fixture
def network():
    """Features (60, 5) of a float32 network, labels of 4 classes, and its last layer."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 4
    return torch.randn(60, 5) + torch.randn(4, 5)[labels], labels, torch.nn.Linear(5, 4)


def test_the_loss_of_a_float32_layer_is_that_of_its_float64_copy(network):
    features, labels, layer = network
    statistics = ufm.statistics_of(features, labels, C=4)
    parts = ufm.decompose(statistics, layer.weight, layer.bias, lam=1e-3)
    W, b = layer.weight.detach().double(), layer.bias.detach().double()
    assert parts == ufm.decompose(statistics, W, b, lam=1e-3)
    of_numpy = ufm.statistics_of(features.numpy(), labels.numpy(), C=4)
    np.testing.assert_allclose(ufm.decompose(of_numpy, layer.weight, layer.bias, lam=1e-3).loss, parts.loss, rtol=1e-6)
    with torch.no_grad():
        outputs = layer(features).double()
    decay = 0.5 * 1e-3 * float((W * W).sum() + (b * b).sum())
    mean = 0.5 * float(((outputs - torch.eye(4, dtype=torch.float64)[labels]) ** 2).sum(1).mean())
    np.testing.assert_allclose(parts.loss, mean + decay, rtol=1e-5)


def test_tensors_where_numpy_is_needed_are_refused_with_the_way_out(network):
    features, labels, _ = network
    with pytest.raises(TypeError, match=r"tensor\.detach\(\)\.cpu\(\)\.numpy\(\)"):
        ufm.class_blocks(features, labels)


@pytest.mark.parametrize("function", [ufm.snr, renormalized_features, reduce_to_range])
def test_labels_in_the_place_of_a_layout_are_refused_with_the_way_out(network, function):
    features, labels, _ = network
    with pytest.raises(TypeError, match=r"ufm\.class_blocks"):
        function(features.numpy(), labels.numpy())


def test_the_scheme_takes_a_list():
    run = ufm.run_discrete(omega0=[2, 1.5, 0.9], eta=0.1, steps=3, C=4, N=60)
    np.testing.assert_array_equal(run.omega, ufm.run_discrete(np.array([2, 1.5, 0.9]), eta=0.1, steps=3, C=4, N=60).omega)
