"""The memory of the metric does not grow with the number of examples."""

import sys
from pathlib import Path

import pytest

from tests.fresh import FreshProcesses

FED = """
import gc, resource, torch
from ufm.monitor import NeuralCollapse, waiting

waiting.IN_MEMORY = 2**24  # a quarter of it, and of the examples: the rest waits in a file

C, P, n = 70, 256, 20_000
W, b = torch.randn(C, P), torch.zeros(C)
h, y = torch.randn(1000, P), torch.arange(1000) % C

def peak_after(examples):
    gc.collect()  # a metric refers to itself
    metric = NeuralCollapse(C)
    for k in range(examples // 1000):
        metric.update(h + k % 7, y, classifier=(W, b))
    assert metric.compute()["examples"] == examples
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

print(peak_after(n), peak_after(4 * n))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB here")
def test_four_times_the_examples_have_the_same_peak(tmp_path: Path, fresh: FreshProcesses) -> None:
    (tmp_path / "fed.py").write_text(FED)
    code, output = fresh.run(tmp_path / "fed.py")
    assert code == 0, output
    first, second = map(int, output.split())
    assert second - first < 16_000, f"{first} kB after 20,000 examples of 1 kB, {second} kB after 80,000"
