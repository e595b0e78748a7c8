"""One Riemannian gradient step at (C, N, P) = (10, 500, 512), beside what a user would otherwise write. One thread, medians.

    python -m benchmarks.manifold [--repeats 7]

All rows start from the same point and take the same losses' gradients, in torch float64 on the CPU.
Ratios are medians of the ratios of interleaved runs.
"""

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the lines above
import torch  # noqa: E402

torch.set_num_threads(1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import geoopt

from benchmarks.timing import extra_bytes  # noqa: E402
from manifolds import steps  # noqa: E402
from manifolds.class_centering import ClassLayout  # noqa: E402
from manifolds.metrics import BundleMetric, EmbeddedMetric  # noqa: E402
from manifolds.renormalized_gradient_step import renormalized_step  # noqa: E402
from manifolds.retractions import cholesky_retraction, nearest_point, polar_retraction, renormalisation  # noqa: E402
from ufm.tensor.renormalized_flow import central_path_gradient  # noqa: E402

ETA = 50.0

Rule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
Step = Callable[[], object]
Steps = tuple[dict[str, Step], dict[str, Step]]  # ours, theirs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    layout, P = ClassLayout.equal(10, 500), 512
    rng = np.random.default_rng(0)
    start = rng.standard_normal((P, layout.n)) + layout.spread(rng.standard_normal((P, layout.C)))
    X = torch.from_numpy(nearest_point(start - start.mean(-1, keepdims=True), layout))
    G = torch.from_numpy(rng.standard_normal(X.shape) / ETA / 50)  # a step of 2% of X
    versions = f"{platform.machine()}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{versions}, CPU time of one thread, medians of {repeats}, X = {X.nbytes / 1e6:.1f} MB")
    with torch.no_grad():
        report("any loss, its ambient gradient G given", given_gradient(layout, X, G), repeats, X)
    report("L_LS, gradient included", with_gradient(layout, X), repeats, X)


def rules(layout: ClassLayout) -> dict[str, Rule]:
    """Our steps, of any loss."""
    bundle, embedded = BundleMetric(layout), EmbeddedMetric(layout)
    qr, polar = cholesky_retraction, polar_retraction
    return {
        "projected step, embedded metric": lambda X, G, out: steps.projected_step(X, G, ETA, embedded, out=out),
        "projected step, bundle metric": lambda X, G, out: steps.projected_step(X, G, ETA, bundle, out=out),
        "P G, Cholesky (= QR)": lambda X, G, out: steps.gradient_step(X, G, ETA, embedded, qr, out=out),
        "Pi Pi* G, Cholesky": lambda X, G, out: steps.gradient_step(X, G, ETA, bundle, qr, out=out),
        "P G, polar": lambda X, G, out: steps.gradient_step(X, G, ETA, embedded, polar, out=out),
        "Pi Pi* G, renormalisation": lambda X, G, out: steps.gradient_step(X, G, ETA, bundle, renormalisation, out=out),
    }


def given_gradient(layout: ClassLayout, X: torch.Tensor, G: torch.Tensor) -> Steps:
    """Steps from an ambient gradient G of any loss."""
    root = layout.n**0.5
    stiefel, D = geoopt.EuclideanStiefel(), layout.deviations(X)
    Q = (D / root).mT.contiguous()

    def theirs() -> object:
        egrad = layout.deviations(G).mT.contiguous() * root
        means = layout.means(X) - ETA * layout.means(G)
        return stiefel.retr(Q, -ETA / layout.n * stiefel.egrad2rgrad(Q, egrad)), means

    ours: dict[str, Step] = {name: partial(rule, X, G, None) for name, rule in rules(layout).items()}
    return ours, {"geoopt EuclideanStiefel on the deviations (QR)": theirs}


def with_gradient(layout: ClassLayout, X: torch.Tensor) -> Steps:
    """Whole steps of L_LS; it is constant on fibres, so that the paper's scheme too is a Riemannian step."""
    root, labels = layout.n**0.5, torch.from_numpy(layout.labels)
    Y = torch.nn.functional.one_hot(labels, layout.C).T.to(X.dtype)
    Y_c = Y - Y.mean(-1, keepdim=True)

    def loss(H: torch.Tensor) -> torch.Tensor:
        H = H - H.mean(-1, keepdim=True)
        B = Y_c @ H.T / layout.n
        W = torch.linalg.solve(H @ H.T / layout.n, B.T).T
        return ((W @ H - Y_c) ** 2).sum() / (2 * layout.n)

    def autograd() -> object:
        """The obvious code: autograd of the residual loss, step, renormalise through eigh."""
        H = X.clone().requires_grad_(True)
        loss(H).backward()
        with torch.no_grad():
            assert H.grad is not None
            Z = H - ETA * H.grad
            D = (Z.view(-1, layout.C, layout.N) - Z.view(-1, layout.C, layout.N).mean(-1, keepdim=True)).view(Z.shape)
            values, E = torch.linalg.eigh(D @ D.T / layout.n)
            return (E / values.sqrt()) @ E.T @ Z

    Q0, M0 = (layout.deviations(X) / root).mT.contiguous(), layout.means(X)

    def stiefel() -> object:
        """geoopt's RiemannianSGD on (deviations, class means), autograd."""
        Q = geoopt.ManifoldParameter(Q0.clone(), manifold=geoopt.EuclideanStiefel())  # type: ignore[unexpected-keyword]
        M = torch.nn.Parameter(M0.clone())
        optimizer = geoopt.optim.RiemannianSGD([Q, M], lr=ETA / layout.n)
        loss(root * Q.mT + layout.spread(M)).backward()
        optimizer.step()
        return Q

    def whole(rule: Rule) -> object:
        with torch.no_grad():
            G = central_path_gradient(X, layout)
            return rule(X, G, G)

    scheme = {"the paper's scheme D.1": lambda X, G, out: renormalized_step(X, G, ETA, layout, out=out)}
    ours = {name: partial(whole, rule) for name, rule in (scheme | rules(layout)).items()}
    return ours, {"obvious autograd, eigh": autograd, "geoopt RiemannianSGD, EuclideanStiefel, autograd": stiefel}


def report(title: str, both: Steps, repeats: int, X: torch.Tensor) -> None:
    """Medians, medians of the ratios theirs / ours, and the peak of memory held beyond the inputs, result included."""
    ours, theirs = both
    every = ours | theirs
    times: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(repeats + 1):
        for name, step in every.items():
            begin = time.thread_time()  # CPU time of the one thread: another process cannot lengthen it by taking the core
            step()
            times[name].append(time.thread_time() - begin)
    print(f"\n{title}\n{'':52}{'ms':>7}{'extra X':>9}   " + "".join(f"time of {name}   " for name in theirs))
    for name, step in every.items():
        own = times[name][1:]
        ratios = [statistics.median(b / a for a, b in zip(own, times[other][1:], strict=True)) for other in theirs]
        columns = "   ".join(f"{ratio:5.2f} x" for ratio in ratios) if name in ours else ""
        held = (peak(step) + extra_bytes(step)) / X.nbytes  # by torch, and by numpy
        print(f"{name:52}{1e3 * statistics.median(own):7.1f}{held:9.2f}   {columns}")


def peak(step: Callable[[], object]) -> int:
    """Most bytes that torch's CPU allocator held at once during a step, beyond what it held before; result included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = most = 0
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events: list[Any] = profile.profiler.kineto_results.events()  # torch declares no nbytes
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


if __name__ == "__main__":
    main()
