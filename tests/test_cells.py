"""The costs of the paper's cells: counts against arithmetic by hand, and the page against the counts of today."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.cells import HEAD, METHOD, PAGE, STEP_FLOPS, cost_of, paper_cells
from sims.training.protocol import protocol


def test_operations_and_parameters_of_vgg_are_those_of_its_layers() -> None:
    channels, sides = (1, 64, 128, 256, 256, 512, 512, 512, 512), (32, 16, 8, 8, 4, 4, 2, 2)
    multiplications = sum(9 * a * b * side**2 for a, b, side in zip(channels, channels[1:], sides, strict=False))
    dense = 512 * 49 * 4096 + 4096 * 4096 + 4096 * 10
    cost = cost_of(protocol("mnist", "vgg11", "mse"))
    assert cost.forward == 2 * (multiplications + dense)
    # backwards, weights and inputs: twice as many, but no gradient of the images
    assert cost.training == 3 * cost.forward - 2 * 9 * 64 * 32**2
    weights = sum(9 * a * b + 3 * b for a, b in pairwise(channels))
    assert cost.parameters == weights + dense + 2 * 4096 + 10


def test_recomputing_costs_the_bottlenecks_again_and_spares_memory() -> None:
    efficient = cost_of(replace(protocol("cifar10", "densenet100", "mse"), memory_efficient=True))
    bottlenecks, inner = 0, 24
    for side in (32, 16, 8):
        bottlenecks += sum(2 * (inner + 12 * k) * 48 * side**2 for k in range(16))
        inner = (inner + 12 * 16) // 2
    # of a layer all but its last convolution, whose result nobody asks for; no gradient of the images
    assert efficient.training == 3 * efficient.forward - 2 * 9 * 3 * 24 * 32**2 + bottlenecks
    assert efficient.kept < efficient.plainly_kept / 7


@pytest.mark.slow
def test_densenet250_would_keep_41_gib() -> None:
    efficient = cost_of(protocol("fashionmnist", "densenet250", "mse"))
    assert efficient.step_bytes(efficient.plainly_kept) / 2**30 == pytest.approx(41, abs=1)


def test_the_page_has_all_fifteen_cells_with_the_counts_of_today() -> None:
    names = paper_cells()
    assert len(names) == 15
    page = PAGE.read_text()
    assert page.startswith(HEAD)
    assert all(part in page for part in METHOD.format(step=STEP_FLOPS, where="|").split("|"))
    rows = re.findall(r"^\| (\w+), (\w+)(?:, memory-efficient)? \| ([\d,]+) \| ([\d,]+) \| ([\d.e+]+) ", page, re.M)
    assert [f"{dataset}-{net}-mse" for dataset, net, *_ in rows] == names
    for dataset, net, images, parameters, flops in rows:
        if net in ("vgg11", "densenet40", "resnet34"):
            cost = cost_of(protocol(dataset, net, "mse"))
            assert (int(images.replace(",", "")), int(parameters.replace(",", ""))) == (cost.images, cost.parameters)
            assert float(flops) == pytest.approx(cost.training * cost.images, rel=0.01)
