"""One Riemannian gradient step at (C, N, P) = (10, 500, 512), beside what a user would otherwise write. One thread, medians.

    python -m benchmarks.manifold [--repeats 7]

All rows start from the same point and take the same losses' gradients, in torch float64 on the CPU; ratios are to ours.
"""

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - after the lines above
import torch  # noqa: E402

torch.set_num_threads(1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import geoopt

from manifolds import geoopt_adapter  # noqa: E402
from manifolds.classes import ClassLayout  # noqa: E402
from manifolds.retractions import nearest_point  # noqa: E402
from ufm.flows import central_path_gradient  # noqa: E402

ETA = 50.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    layout, P = ClassLayout.equal(10, 500), 512
    rng = np.random.default_rng(0)
    start = rng.standard_normal((P, layout.n)) + layout.spread(rng.standard_normal((P, layout.C)))
    X = torch.from_numpy(nearest_point(start - start.mean(-1, keepdims=True), layout))
    G = central_path_gradient(X, layout)
    versions = f"{platform.machine()}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{versions}, CPU time of one thread, medians of {repeats}, X = {X.nbytes / 1e6:.1f} MB")
    report("gradient given: egrad2rgrad and retr", given_gradient(layout, X, G), repeats, X)
    report("L_LS, gradient included", with_gradient(layout, X), repeats, X)


def given_gradient(layout: ClassLayout, X: torch.Tensor, G: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Steps from an ambient gradient G of any loss."""
    root = layout.n**0.5
    stiefel, D = geoopt.EuclideanStiefel(), layout.deviations(X)
    Q = (D / root).mT.contiguous()

    def riemannian(manifold: geoopt.Manifold) -> Callable[[], object]:
        def step() -> object:
            with torch.no_grad():
                return manifold.retr(X, -ETA * manifold.egrad2rgrad(X, G))

        return step

    def scheme() -> object:
        with torch.no_grad():
            return bundle.retr(X, -ETA * G)

    def theirs() -> object:
        with torch.no_grad():
            egrad = layout.deviations(G).mT.contiguous() * root
            means = layout.means(X) - ETA * layout.means(G)
            return stiefel.retr(Q, -ETA / layout.n * stiefel.egrad2rgrad(Q, egrad)), means

    bundle = geoopt_adapter.NormalizedFeatures(layout)
    return {
        "ours, bundle metric, for a G of a loss constant on fibres": scheme,
        "ours, bundle metric: Pi Pi*, renormalisation": riemannian(bundle),
        "ours, embedded metric: P, polar": riemannian(geoopt_adapter.EmbeddedNormalizedFeatures(layout)),
        "geoopt EuclideanStiefel on the deviations (QR)": theirs,
    }


def with_gradient(layout: ClassLayout, X: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Whole steps of L_LS."""
    root, labels = layout.n**0.5, torch.from_numpy(layout.labels)
    Y = torch.nn.functional.one_hot(labels, layout.C).T.to(X.dtype)
    Y_c = Y - Y.mean(-1, keepdim=True)

    def loss(H: torch.Tensor) -> torch.Tensor:
        H = H - H.mean(-1, keepdim=True)
        B = Y_c @ H.T / layout.n
        W = torch.linalg.solve(H @ H.T / layout.n, B.T).T
        return ((W @ H - Y_c) ** 2).sum() / (2 * layout.n)

    def ours(manifold: geoopt.Manifold, project: bool) -> Callable[[], object]:
        def step() -> object:
            with torch.no_grad():
                G = central_path_gradient(X, layout)
                return manifold.retr(X, -ETA * (manifold.egrad2rgrad(X, G) if project else G))

        return step

    def autograd() -> object:
        """The obvious code: autograd of the residual loss, step, renormalise through eigh."""
        H = X.clone().requires_grad_(True)
        loss(H).backward()
        with torch.no_grad():
            Z = H - ETA * H.grad
            D = (Z.view(-1, layout.C, layout.N) - Z.view(-1, layout.C, layout.N).mean(-1, keepdim=True)).view(Z.shape)
            values, E = torch.linalg.eigh(D @ D.T / layout.n)
            return (E / values.sqrt()) @ E.T @ Z

    Q0, M0 = (layout.deviations(X) / root).mT.contiguous(), layout.means(X)

    def stiefel() -> object:
        """geoopt's RiemannianSGD on (deviations, class means), autograd."""
        Q = geoopt.ManifoldParameter(Q0.clone(), manifold=geoopt.EuclideanStiefel())
        M = torch.nn.Parameter(M0.clone())
        optimizer = geoopt.optim.RiemannianSGD([Q, M], lr=ETA / layout.n)
        loss(root * Q.mT + layout.spread(M)).backward()
        optimizer.step()
        return Q

    bundle = geoopt_adapter.NormalizedFeatures(layout)
    return {
        "ours, bundle metric, the paper's scheme": ours(bundle, False),
        "ours, bundle metric: Pi Pi*, renormalisation": ours(bundle, True),
        "ours, embedded metric: P, polar": ours(geoopt_adapter.EmbeddedNormalizedFeatures(layout), True),
        "obvious autograd: residual loss, eigh": autograd,
        "geoopt RiemannianSGD, EuclideanStiefel on the deviations": stiefel,
    }


def report(title: str, steps: dict[str, Callable[[], object]], repeats: int, X: torch.Tensor) -> None:
    """Medians of interleaved runs, ratios to the first three rows, and the peak of memory held by torch beyond the inputs."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            begin = time.thread_time()  # CPU time of the one thread: another process cannot lengthen it by taking the core
            step()
            times[name].append(time.thread_time() - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    mine = [name for name in steps if name.startswith("ours")]
    print(f"\n{title}\n{'':62}{'ms':>8}{'extra X':>9}   time over ours ({', '.join('abc'[: len(mine)])})")
    for k, (name, median) in enumerate(medians.items()):
        label = f"{'abc'[k]}) {name}" if name in mine else f"   {name}"
        ratios = "  ".join(f"{median / medians[own]:5.2f}" for own in mine)
        print(f"{label:62}{1e3 * median:8.1f}{peak(steps[name]) / X.nbytes:9.2f}   {ratios}")


def peak(step: Callable[[], object]) -> int:
    """Most bytes that torch's CPU allocator held at once during a step, beyond what it held before; result included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = most = 0
    for event in sorted(
        (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        held += event.nbytes()
        most = max(most, held)
    return most


if __name__ == "__main__":
    main()
