"""The laws for any class sizes beside what a user would otherwise step: the whole X, generically or by its class means alone."""

import resource
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from benchmarks.flow import omega_by_scipy
from benchmarks.rows import Row, agree, faster, ratio
from benchmarks.timing import Paired, paired
from manifolds.class_centering import ClassLayout
from manifolds.normalized_features import oblique_projection, renormalize
from ufm.features.snr import renormalized_features
from ufm.laws.general import GeneralLaw
from ufm.laws.general_discrete import general_step, safe_step
from ufm.laws.general_run import run_general
from ufm.laws.kernel_ratio import RenormalizedKernelRatio, UnnormalizedKernelRatio
from ufm.laws.singular_value_dynamics import RENORMALIZED, Law
from ufm.tensor.renormalized_flow import ls_gradient

SIZES, P = tuple(range(455, 555, 10)), 512  # ten classes of 455 to 545 examples, 5000 in all
MANY, FEW_FEATURES = 1000, 512
RATIOS = 1e-6, 0.05, 0.5, 4.0, 100.0, 1e4  # of kernels
RUN = 100  # steps measured in a row, as a run takes them


def general_law() -> Iterator[Row]:
    """A step of the general law in its reduced coordinates against steps of the whole X."""
    law, layout = GeneralLaw(SIZES), ClassLayout(SIZES)
    H = np.random.default_rng(0).standard_normal((P, layout.n))
    X, _ = renormalized_features(H, layout)
    S = law.scaled_means(layout.means(X))
    U, sigma, Vt = np.linalg.svd(S, full_matrices=False)
    K = law.C - 1
    Z, eta = sigma[:K, None] * Vt[:K], 0.3 * safe_step(law)

    def generic() -> np.ndarray:
        return renormalize(X - eta * oblique_projection(X, ls_gradient(X, layout), layout), layout)

    def by_means() -> np.ndarray:
        change = law.class_means(general_step(law, U[:, :K].T @ (layout.means(X) * law.priors**0.5), eta) - Z)
        return layout.add_to_means(X, 0 * (U[:, :K] @ change))  # X is written, and stays what it is

    full = renormalize(X - eta * ls_gradient(X, layout), layout)
    agree(law.class_means(U[:, :K] @ general_step(law, Z, eta)), layout.means(full), 1e-6)
    what = "a step of the general law, C = 10, N about 500, P = 512"

    def steps() -> None:
        for _ in range(RUN):
            general_step(law, Z, eta)

    for other, name, least, pairs in (
        (generic, "gradient, projection, renormalisation of the whole X", 1000, 9),
        (by_means, "the exact class-mean step on X", 20, 25),
    ):
        timing = paired(steps, other, pairs)
        one = Paired(timing.ours / RUN, timing.other, timing.ratio / RUN, timing.low / RUN, timing.high / RUN)
        yield faster(what, name, one, least)


def many_classes() -> Iterator[Row]:
    """1000 classes of unequal size, P = 512: a whole trajectory with its error bound."""
    rng = np.random.default_rng(0)
    counts = tuple(rng.integers(20, 200, MANY).tolist())
    law = GeneralLaw(counts)
    S = law.scaled_means(rng.standard_normal((FEW_FEATURES, MANY)) / np.sqrt(counts))
    end = 50.0 * law.n * law.C
    began = time.process_time()
    run = run_general(law, S, np.concatenate([[0.0], np.geomspace(1e-4 * end, end, 19)]))
    seconds = time.process_time() - began
    growth = float(run.omega[-1, -1] / run.omega[0, -1])
    what = f"trajectory of 1000 unequal classes, P = 512, 20 times, smallest omega x {growth:.0f}"
    yield Row(what, f"{seconds:.0f} s of one core", "", f"error bound {run.error:.1e}", "< 60 s, <= 1e-10", seconds < 60)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield Row("the same, peak memory", f"{peak:.0f} MB", "", f"{peak:.0f} MB", "< 2048 MB", peak < 2048)


def kernel_ratio_law() -> Iterator[Row]:
    """The closed laws of a class-block kernel against scipy's Wright omega function, which inverts r = 1 alone."""
    C, N, omega0, starts = 10, 500, np.linspace(0.97, 1.21, 9), np.geomspace(0.1, 10, 100_000)
    agree(RenormalizedKernelRatio(1.0).omega(_times(RENORMALIZED, omega0, C, N), omega0, C, N), _by_scipy(omega0, C, N)(), 1e-13)
    for name, kind in (("renormalized", RenormalizedKernelRatio), ("unnormalized", UnnormalizedKernelRatio)):
        for r in RATIOS:
            law = kind(r)
            times = _times(law, omega0, C, N)
            timing = paired(partial(law.omega, times, omega0, C, N), _by_scipy(omega0, C, N), 51, repeats=2)
            what = f"closed {name} law of kernel ratio {r:g}"
            yield ratio(f"{what}, 1000 points x 9 values", "scipy.special.wrightomega", timing, 0.6)
            end = np.array([float(law.time(np.array(3.0), np.array(1.0), C, N))])
            timing = paired(partial(law.omega, end, starts, C, N), partial(omega_by_scipy, end, starts, C, N), 25)
            yield ratio(f"{what}, {len(starts):,} starts at one time", "scipy.special.wrightomega", timing, 0.6)


def _times(law: Law, omega0: np.ndarray, C: int, N: int) -> np.ndarray:
    """1000 times until the last omega has grown tenfold."""
    return np.concatenate([[0.0], np.geomspace(1e-6, 1.0, 999)]) * float(law.time(10 * omega0, omega0, C, N).max())


def _by_scipy(omega0: np.ndarray, C: int, N: int) -> Callable[[], np.ndarray]:
    return partial(omega_by_scipy, _times(RENORMALIZED, omega0, C, N), omega0, C, N)


SECTIONS = (general_law, many_classes, kernel_ratio_law)
