"""How things are measured: interleaved pairs and the median of their ratios, and peak memory of a fresh process.

The clock of a machine drifts and neighbours come and go; a ratio of two measurements that follow each other survives both.
"""

import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

# the child of a big process inherits its peak through fork, so a small process without numpy starts what is measured
_PEAK = (
    "import resource, subprocess, sys; "
    "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
)
# bytecode is written once, as an installed package has it
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Paired:
    """Median seconds of both, and the median and quartiles of ours / other over the pairs."""

    ours: float
    other: float
    ratio: float
    low: float
    high: float


def paired(
    ours: Callable[[], object],
    other: Callable[[], object],
    pairs: int,
    repeats: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> Paired:
    """Time both in `pairs` interleaved pairs after one warm-up each, the order alternating, each time over `repeats` calls.

    The clock counts processor time, which is wall time less the waits for a core that other processes hold; for what runs in
    processes of its own give time.perf_counter.
    """
    ours(), other()
    a, b = [], []
    for i in range(pairs):
        for times, call in ((a, ours), (b, other)) if i % 2 else ((b, other), (a, ours)):
            began = clock()
            for _ in range(repeats):
                call()
            times.append((clock() - began) / repeats)
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return Paired(median(a), median(b), median(ratios), low, high)


def run_python(*arguments: str) -> str:
    """Standard output of this Python with these arguments, in a process of its own. Raises CalledProcessError where it fails."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=_ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True).stdout


def peak_megabytes(*arguments: str) -> float:
    """Peak resident memory (MB) of this Python with these arguments, in a process of its own."""
    kilobytes = int(run_python("-I", "-S", "-c", _PEAK, sys.executable, *arguments))
    return kilobytes / 1024 if sys.platform != "darwin" else kilobytes / 1024**2


def extra_bytes(call: Callable[[], object]) -> int:
    """The most memory (bytes) that numpy and Python hold during the call beyond what they held before it."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
