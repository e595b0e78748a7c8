"""`python -m benchmarks.monitor`: NC1-NC4 of the same float32 features by our metric, by definition, and by plain accumulators.

"two passes" writes the definitions of Papyan, Han & Donoho down over all features in memory, in float64. "rhubarbwu" is
rhubarbwu/neural-collapse from its definition, no line of it copied: float32, a pass for the means, one for the covariance about
them, one for NC4, where squared distances are expanded and the bias does not enter. "sums" is the same in one pass: class sums
and an uncentred second moment, means subtracted afterwards. Digits are -log10 of the relative error against float64 two passes.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import peak_megabytes
from ufm.features import measures
from ufm.features.ranges import Classifier
from ufm.features.statistics import CHUNK, StreamingStatistics
from ufm.monitor import NeuralCollapse
from ufm.monitor.decisions import Decider

SIZES = {"small": (5_000, 64, 10), "medium": (50_000, 512, 10), "large": (100_000, 512, 1_000)}
BATCH, OFFSET = 256, 30.0
Values = dict[str, float]


def data(n: int, P: int, C: int, noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """float32 features far from zero, labels, and a classifier along the class means."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % C
    means = torch.randn(C, P, generator=generator)
    H = torch.randn(n, P, generator=generator).mul_(noise).add_(OFFSET)
    for h, t in zip(H.split(BATCH), y.split(BATCH), strict=True):  # in place, so that no copy hides what a method needs
        h += means[t]
    W = means - means.mean(0) + 0.1 * torch.randn(C, P, generator=generator)
    return H, y, W, -W @ torch.full((P,), OFFSET)


def ours(H: Tensor, y: Tensor, W: Tensor, b: Tensor) -> Values:
    """The metric, fed in batches."""
    metric = NeuralCollapse(len(W))
    for h, t in zip(H.split(BATCH), y.split(BATCH), strict=True):
        metric.update(h, t, classifier=(W, b))
    return metric.compute()


def streaming(H: Tensor, y: Tensor, W: Tensor, b: Tensor) -> Values:
    """The class statistics alone in one pass, and another one for NC4."""
    statistics = StreamingStatistics(len(W))
    for h, t in zip(H.split(BATCH), y.split(BATCH), strict=True):
        statistics.update(h, t)
    stats = statistics.compute()
    decide = Decider(Classifier(W.double(), b.double()), stats.means)
    disagreements = sum(decide(h, t).disagreements for h, t in zip(H.split(CHUNK), y.split(CHUNK), strict=True))
    measured = {"nc1": measures.phd_nc1(stats), "nc2_equiangular": measures.phd_equiangular(stats.centred_means)}
    return measured | {"nc3": measures.phd_nc3(stats, W.double()), "nc4": disagreements / len(H)}


def two_passes(H: Tensor, y: Tensor, W: Tensor, b: Tensor) -> Values:
    """The definitions over all features in float64, everything in memory."""
    H, W, b, C = H.double(), W.double(), b.double(), len(W)
    counts = torch.bincount(y, minlength=C).double()
    means = torch.zeros(C, H.shape[1], dtype=H.dtype).index_add(0, y, H) / counts[:, None]
    D = H - means[y]
    return _values(D.T @ D / len(H), means, counts, W) | {"nc4": _disagreement(H.split(BATCH), means, W, b)}


def rhubarbwu(H: Tensor, y: Tensor, W: Tensor, b: Tensor) -> Values:
    """Three passes in float32: means, covariance about them, decisions by expanded distances and without bias."""
    C, P = W.shape
    counts, sums, scatter = torch.zeros(C), torch.zeros(C, P), torch.zeros(P, P)
    batches = list(zip(H.split(BATCH), y.split(BATCH), strict=True))
    for h, t in batches:
        counts += torch.bincount(t, minlength=C)
        sums.index_add_(0, t, h)
    means = sums / counts[:, None]
    for h, t in batches:
        D = h - means[t]
        scatter += D.T @ D
    apart = 0
    for h, _ in batches:
        squares = (h * h).sum(1)[:, None] + (means * means).sum(1) - 2 * h @ means.T
        apart += int(((h @ W.T).argmax(1) != squares.argmin(1)).sum())
    return _values(scatter / len(H), means, counts, W) | {"nc4": apart / len(H)}


def accumulators(H: Tensor, y: Tensor, W: Tensor, b: Tensor) -> Values:
    """Sums and uncentred second moments in float32, then a second pass for NC4."""
    C, P = W.shape
    counts, sums, second = torch.zeros(C), torch.zeros(C, P), torch.zeros(P, P)
    for h, t in zip(H.split(BATCH), y.split(BATCH), strict=True):
        counts += torch.bincount(t, minlength=C)
        sums.index_add_(0, t, h)
        second += h.T @ h
    means = sums / counts[:, None]
    within = second / len(H) - (means * (counts / len(H))[:, None]).T @ means
    return _values(within, means, counts, W) | {"nc4": _disagreement(H.split(BATCH), means, W, b)}


def _values(within: Tensor, means: Tensor, counts: Tensor, W: Tensor) -> Values:
    C, share = len(W), counts / counts.sum()
    M = means - share @ means
    U, values, _ = torch.linalg.svd(M.T * share.sqrt(), full_matrices=False)
    K = min(C - 1, means.shape[1])
    nc1 = float((((within @ U[:, :K]) * U[:, :K]).sum(0) / values[:K] ** 2).sum()) / C
    unit = M / M.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[tuple(torch.triu_indices(C, C, 1))]
    nc3 = float(((W / W.norm() - M / M.norm()) ** 2).sum())
    return {"nc1": nc1, "nc2_equiangular": float(cosines.std()), "nc3": nc3}


def _disagreement(batches: tuple[Tensor, ...], means: Tensor, W: Tensor, b: Tensor) -> float:
    apart = sum(int(((h @ W.T + b).argmax(1) != torch.cdist(h, means).argmin(1)).sum()) for h in batches)
    return apart / sum(len(h) for h in batches)


METHODS: dict[str, Callable[..., Values]] = {
    "our metric": ours,
    "StreamingStatistics": streaming,
    "two passes": two_passes,
    "rhubarbwu": rhubarbwu,
    "sums": accumulators,
}


def digits(value: float, exact: float) -> str:
    """How many leading digits are right."""
    error = abs(value - exact) / abs(exact) if exact else abs(value)
    return "all" if error < 1e-15 else f"{max(-np.log10(error), 0):.1f}"


def main(argv: list[str] | None = None) -> int:
    """Print one table a size and one for features far more collapsed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitor", description="Measuring collapse, side by side.")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["medium", "large"])
    parser.add_argument("--noise", nargs="+", type=float, default=[0.3, 1e-3], help="within-class deviation beside means of 1")
    parser.add_argument("--memory", nargs=2, metavar=("SIZE", "METHOD"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.memory:
        METHODS.get(args.memory[1], lambda *_: None)(*data(*SIZES[args.memory[0]], 0.3))
        return 0
    for size in args.sizes:
        peaks = {name: peak_megabytes("-m", "benchmarks.monitor", "--memory", size, name) for name in ("nothing", *METHODS)}
        for noise in args.noise:
            _table(size, noise, peaks)
    return 0


def _table(size: str, noise: float, peaks: dict[str, float]) -> None:
    problem = data(*SIZES[size], noise)
    exact = two_passes(*problem)
    print(f"\n(n, P, C) = {SIZES[size]}, noise {noise:g}, offset {OFFSET:g}; {torch.get_num_threads()} thread(s)")
    print("| method | seconds | MB beside the features | digits of NC1 | NC2 angle | NC3 | NC4 |\n|---|---|---|---|---|---|---|")
    for name, method in METHODS.items():
        times = []
        for _ in range(2):
            began = time.process_time()
            values = method(*problem)
            times.append(time.process_time() - began)
        shown = " | ".join(digits(values[key], exact[key]) for key in ("nc1", "nc2_equiangular", "nc3", "nc4"))
        print(f"| {name} | {min(times):.2f} | {peaks[name] - peaks['nothing']:.0f} | {shown} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
