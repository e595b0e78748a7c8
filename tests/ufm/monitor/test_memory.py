"""The memory of the metric does not grow with the number of examples."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FED = """
import gc, resource, torch
from ufm.monitor import NeuralCollapse

C, P, n = 70, 256, 45_000
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
def test_four_times_the_examples_have_the_same_peak() -> None:
    run = subprocess.run([sys.executable, "-c", FED], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = map(int, run.stdout.split())
    assert second - first < 16_000, f"{first} kB after 45,000 examples of 1 kB, {second} kB after 180,000"
