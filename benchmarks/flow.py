"""Every line of the targets for speed and memory, measured beside what a user would otherwise pick."""

import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.rows import Row, agree, faster, milliseconds, ratio
from benchmarks.timing import Paired, extra_bytes, paired, peak_megabytes, run_python
from manifolds.class_centering import ClassLayout
from manifolds.normalized_features import constraint_residual
from ufm.features.snr import renormalized_features, snr_spectrum
from ufm.flow.clock import log_spaced
from ufm.laws.discrete_singular_values import recursion_step, run_discrete
from ufm.laws.singular_value_dynamics import EMBEDDED, RENORMALIZED, Law
from ufm.tensor.renormalized_flow import advance_means, autograd_gradient, renormalize_after_step

C, N, P = 10, 500, 512  # the main size
HEAVY = ("torch", "scipy", "geoopt", "pymanopt", "matplotlib")
RTOL, ATOL = 1e-6, 1e-9  # of scipy's RK45
CONDITIONS = (1e4, 1e6, 1e8, 1e10, 1e12)
SMALL = (5, 80, 24)  # C, N, P of the comparison with 50 digits


def _end(omega: np.ndarray, C: int, N: int) -> float:
    """The time in which the smallest omega grows tenfold under law (a), where the command ends by default."""
    return float(RENORMALIZED.time(10 * omega[-1:], omega[-1:], C, N)[0])


def omega_by_scipy(times: np.ndarray, omega0: np.ndarray, C: int, N: int) -> np.ndarray:
    """Law (a) by scipy's Wright omega function: u e^u = u_0 e^{u_0 + 2t / (C^2 N)}, u = omega^2 / C. (T, K)"""
    from scipy.special import wrightomega

    u0 = omega0**2 / C
    return np.sqrt(C * wrightomega(np.log(u0) + u0 + (2 / (C * C * N)) * times[:, None]))


def _times(omega: np.ndarray, C: int, N: int) -> np.ndarray:
    """The 1000 times of the command."""
    return log_spaced(_end(omega, C, N), float(RENORMALIZED.time(1.01 * omega, omega, C, N).min()), 1000)


def command() -> Iterator[Row]:
    """The command of the README against starting numpy: time, memory, imports."""
    arguments = ["-m", "ufm.flow", "--C", str(C), "--N", str(N), "--P", str(P)]
    timing = paired(lambda: run_python(*arguments), lambda: run_python("-c", "import numpy"), 15, clock=time.perf_counter)
    yield ratio("`python -m ufm.flow --C 10 --N 500 --P 512`", '`python -c "import numpy"`', timing, 2.1)
    ours, other = peak_megabytes(*arguments), peak_megabytes("-c", "import numpy")
    yield Row("the same, peak memory", f"{ours:.0f} MB", f"{other:.0f} MB", f"{ours:.0f} MB", "<= 80 MB", ours <= 80)
    code = (
        "import json, sys, ufm.flow.command as f; f.main(['--quiet']); "
        f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    loaded = json.loads(run_python("-c", code))
    yield Row(
        "the same, modules loaded of " + ", ".join(HEAVY), str(len(loaded)), "", ", ".join(loaded) or "none", "none", not loaded
    )


def trajectory() -> Iterator[Row]:
    """Features to 1000 points of omega, in process."""
    H, layout = _features(C, N, P)
    D = layout.deviations(H)
    what = "features (10, 500, 512) to 1000-point trajectory"
    yield ratio(what, "its Sigma_W product D D^T", paired(partial(_closed_trajectory, H, layout), lambda: D @ D.T, 25), 1.5)
    ours, other = partial(_closed_trajectory, H, layout), partial(_integrated_end, H, layout)
    agree(other(), ours()[-1], 1e-4)
    timing = paired(ours, other, 5)
    yield faster(what, "whitening, then scipy RK45 on the full X (rtol 1e-6)", timing, 20)


def _closed_trajectory(H: np.ndarray, layout: ClassLayout) -> np.ndarray:
    omega = snr_spectrum(H, layout).omega
    times = _times(omega, layout.C, layout.N)
    return RENORMALIZED.omega(times, omega, layout.C, layout.N)


def _integrated_end(H: np.ndarray, layout: ClassLayout) -> np.ndarray:
    """What is done without the closed law: the same flow from the cheapest exact right-hand side, which moves the means only."""
    from scipy.integrate import solve_ivp

    X, spectrum = renormalized_features(H, layout)

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        U, omega, Vt = np.linalg.svd(layout.means(x.reshape(X.shape)), full_matrices=False)
        return layout.spread((U * (omega / (layout.C * layout.N * (layout.C + omega * omega)))) @ Vt).reshape(-1)

    t_end = _end(spectrum.omega, layout.C, layout.N)
    end = solve_ivp(velocity, (0.0, t_end), X.reshape(-1), method="RK45", t_eval=[t_end], rtol=RTOL, atol=ATOL)
    return np.linalg.svd(layout.means(end.y[:, -1].reshape(X.shape)), compute_uv=False)[: layout.C - 1]


def closed_forms() -> Iterator[Row]:
    """1000 points x 9 values of laws (a) and (b) against scipy's Wright omega function on as many values."""
    omega0 = np.linspace(0.97, 1.21, C - 1)
    times = _times(omega0[::-1], C, N)
    by_scipy = partial(omega_by_scipy, times, omega0, C, N)

    def ours(law: Law) -> np.ndarray:
        return law.omega(times, omega0, C, N)

    agree(ours(RENORMALIZED), by_scipy(), 1e-13)
    for law, letter in ((RENORMALIZED, "a"), (EMBEDDED, "b")):
        timing = paired(partial(ours, law), by_scipy, 201, repeats=5)
        yield milliseconds(f"closed form of law ({letter}), 1000 points x 9 values", timing, 0.3)
        yield ratio(f"closed form of law ({letter}), 1000 points x 9 values", "scipy.special.wrightomega", timing, 0.6)


def discrete_scheme() -> Iterator[Row]:
    """1000 steps of the exact recursion against autograd steps on the full X; a few of those are measured, not a thousand."""
    import torch

    torch.set_num_threads(1)
    H, layout = _features(C, N, P)
    X, spectrum = renormalized_features(H, layout)
    eta = _end(spectrum.omega, C, N) / 1000
    state, step = torch.from_numpy(X), autograd_gradient(partial(_ls_loss, layout=layout))
    stepped = layout.means(renormalize_after_step(state, eta, step, layout)).numpy()
    agree(np.linalg.svd(stepped, compute_uv=False)[: C - 1], recursion_step(spectrum.omega, eta, C, N), 1e-10)
    times = paired(
        lambda: run_discrete(spectrum.omega, eta, 1000, C, N), lambda: renormalize_after_step(state, eta, step, layout), pairs=7
    )
    thousand = Paired(times.ours, 1000 * times.other, times.ratio / 1000, times.low / 1000, times.high / 1000)
    yield milliseconds("discrete recursion, 1000 steps", times, 10)
    yield faster("discrete recursion, 1000 steps", "autograd steps on the full X (7 measured, x 1000)", thousand, 10_000)


def _ls_loss(X: torch.Tensor, layout: ClassLayout) -> torch.Tensor:
    """L_LS of centred X as one writes it in torch: the least-squares classifier, its outputs, the mean squared residual."""
    M = layout.means(X)
    W = torch.linalg.solve(X @ X.mT / layout.n, M).mT / layout.C
    residual = W @ X + (1 / layout.C) - layout.spread(torch.eye(layout.C, dtype=X.dtype, device=X.device))
    return 0.5 * (residual * residual).sum() / layout.n


def full_step() -> Iterator[Row]:
    """The exact step of the whole X against copying X to memory that is there already."""
    H, layout = _features(C, N, P)
    X, spectrum = renormalized_features(H, layout)
    target = np.empty_like(X)
    step = partial(advance_means, X, spectrum, spectrum.omega, spectrum.omega * (1 + 1e-12), layout)
    times = paired(step, lambda: np.copyto(target, X), 301)
    yield ratio("exact full-X step (10, 500, 512)", "a copy of X", times, 1.5)
    share = extra_bytes(step) / X.nbytes
    yield Row(
        "the same, extra memory",
        f"{share * X.nbytes / 2**20:.2f} MB",
        f"X: {X.nbytes / 2**20:.1f} MB",
        f"{share:.1%} of X",
        "<= 1 X",
        share <= 1,
    )


def large_runs() -> Iterator[Row]:
    """Peak memory of the command at sizes whose CN x CN matrix would have 20 GB, and of its control on the full X."""
    for size in ((10, 5000, 512), (1000, 50, 512)):
        yield _peak(f"command at (C, N, P) = {size}, peak memory", size, (), 2048)
    few_steps = ("--full", "--growth", "1.001", "--points", "4", "--steps", "3", "--quiet")
    yield _peak("the check `--full` at (10, 5000, 512), peak memory", (10, 5000, 512), few_steps, None)


def _peak(quantity: str, size: tuple[int, int, int], options: tuple[str, ...], most: int | None) -> Row:
    sizes = [text for name, value in zip("CNP", size, strict=True) for text in (f"--{name}", str(value))]
    peak, data = peak_megabytes("-m", "ufm.flow", *sizes, *options), math.prod(size) * 8 / 2**20
    shown, beside = f"{peak:.0f} MB", f"X: {data:.0f} MB"
    return (
        Row(quantity, shown, beside, shown) if most is None else Row(quantity, shown, beside, shown, f"< {most} MB", peak < most)
    )


def whitening() -> Iterator[Row]:
    """Residual and omega for ill-conditioned Sigma_W."""
    for condition in CONDITIONS:
        H, layout = _features(C, N, P, condition)
        X, spectrum = renormalized_features(H, layout)
        residual = max(
            float(constraint_residual(X, layout)), spectrum.whitening.residual, snr_spectrum(H, layout).whitening.residual
        )
        what = f"residual of the whitening, cond(Sigma_W) = {condition:.0e}, (10, 500, 512)"
        yield Row(what, f"{residual:.1e}", "", f"{residual:.1e}", "<= 1e-12", residual <= 1e-12)
    for condition in CONDITIONS:
        H, layout = _features(*SMALL, condition)
        error = float(abs(snr_spectrum(H, layout).omega / exact_omega(H, layout) - 1).max())
        what = f"omega, cond(Sigma_W) = {condition:.0e}, {SMALL}"
        yield Row(what, "", "50 digits", f"relative error {error:.1e}", "<= 1e-10", error <= 1e-10)


def exact_omega(H: np.ndarray, layout: ClassLayout) -> np.ndarray:
    """SNR singular values of exactly these numbers with 50 digits, descending. (K,)"""
    import mpmath

    with mpmath.workdps(50):
        blocks = [[mpmath.mpf(float(h)) for h in row] for row in H]
        size, n = layout.N, layout.n
        means = [[mpmath.fsum(row[c * size : (c + 1) * size]) / size for c in range(layout.C)] for row in blocks]
        D = [[h - m[i // size] for i, h in enumerate(row)] for row, m in zip(blocks, means, strict=True)]
        S = mpmath.matrix([[mpmath.fdot(a, b) / n for b in D] for a in D])
        M = mpmath.matrix([[value - mpmath.fsum(m) / layout.C for value in m] for m in means])
        half = mpmath.matrix(mpmath.inverse(mpmath.cholesky(S)) * M)
        values = mpmath.eigsy(half.T * half, eigvals_only=True)
        omega = sorted((float(mpmath.sqrt(abs(value))) for value in values), reverse=True)
    return np.array(omega[: min(layout.C - 1, len(H))])


def _features(C: int, N: int, P: int, condition: float = 1.0) -> tuple[np.ndarray, ClassLayout]:
    """Gaussian features whose Sigma_W has about this condition number, in a random basis. (P, n)"""
    rng = np.random.default_rng(0)
    H = rng.standard_normal((P, C * N))
    if condition > 1:
        basis, _ = np.linalg.qr(rng.standard_normal((P, P)))
        H = basis @ (np.geomspace(1, condition**-0.5, P)[:, None] * H)
    return H, ClassLayout.equal(C, N)


SECTIONS: tuple[Callable[[], Iterator[Row]], ...] = (
    command,
    trajectory,
    closed_forms,
    discrete_scheme,
    full_step,
    large_runs,
    whitening,
)
