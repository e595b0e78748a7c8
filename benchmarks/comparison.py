"""What comparing one run costs: `python -m benchmarks.comparison` (50 measured epochs, C = 10, P = 512).

The whole command beyond imports and its peak memory: of a record of omega and vectors, and of a log with the class
statistics, W and b of every epoch, of which every model is predicted. And the fit of one law beside
`scipy.optimize.least_squares` on the same problem (starts and clock of law (a) in closed form as unknowns, finite differences).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from benchmarks.timing import paired, peak_megabytes
from ufm.compare.exponent import fit_exponent, profile, resample
from ufm.files.store import save_arrays
from ufm.laws.singular_value_dynamics import RENORMALIZED
from ufm.monitor.logs import RunLog
from ufm.monitor.measurement import measure_features

C, N, P, EPOCHS = 10, 500, 512, 50
LOGGED, GROWTH, KAPPA = 150, 8.0, 10.0  # examples a class of the log, its growth of omega, the rate of its classifier
COMMAND = (
    "import sys, time, scipy.optimize, scipy.stats, matplotlib.figure, matplotlib.backends.backend_svg;"
    "import sims.compare, sims.comparison.report, ufm.monitor.record;"
    "began = time.process_time();"
    "code = sims.compare.main([sys.argv[1], '--from-epoch', '1', '--out', sys.argv[2], '--quiet']);"
    "print(time.process_time() - began); sys.exit(code)"
)


def measured_run(path: Path) -> np.ndarray:
    """Write a run as `sims.measure --out` does, law (a) through a clock with 1 % noise; returns its omega (T, K)."""
    rng = np.random.default_rng(0)
    omega0 = np.sort(rng.uniform(2, 5, C - 1))[::-1]
    omega = RENORMALIZED.omega(3e6 * np.linspace(0, 1, EPOCHS) ** 2, omega0, C, N)
    omega *= np.exp(0.01 * rng.standard_normal(omega.shape))
    V = np.linalg.qr(rng.standard_normal((C, C)) - np.full((C, C), 1 / C))[0][:, : C - 1]
    U = np.linalg.qr(rng.standard_normal((P, C - 1)))[0]
    scalars = {name: np.ones(EPOCHS) for name in ("nc1", "loss", "train_error", "nc4")}
    arrays = {"epoch": np.arange(1, EPOCHS + 1), "omega": omega, "counts": np.full(C, N), "lambda": np.asarray(0.0)}
    vectors = {"V": np.broadcast_to(V, (EPOCHS, *V.shape)), "U": np.broadcast_to(U, (EPOCHS, *U.shape))}
    save_arrays(path, {**arrays, **vectors, **scalars, "loss_perp": np.full(EPOCHS, 0.01)})
    return omega


def joint_log(folder: Path) -> None:
    """Write the log of gradient descent on free features, W and b together: one affine map a class, so M, a factor D of Sigma_W,
    W and b close. Standard deviations within classes differ by up to e^3.
    """
    rng, n = np.random.default_rng(1), C * LOGGED
    labels = np.repeat(np.arange(C), LOGGED)
    Z = rng.standard_normal((P, n))
    for c in range(C):
        Z[:, labels == c] -= Z[:, labels == c].mean(1, keepdims=True)
    Z *= np.sqrt(n) / np.linalg.norm(Z, axis=1, keepdims=True)
    covariance = Z @ Z.T / n
    D = np.linalg.qr(rng.standard_normal((P, P)))[0] * np.exp(rng.uniform(-1.5, 1.5, P))
    M = D @ rng.standard_normal((P, C)) * np.sqrt(10 / P)
    M -= M.mean(1, keepdims=True)
    b = np.full(C, 1 / C)

    def least_squares_classifier() -> np.ndarray:
        return np.linalg.solve(D @ covariance @ D.T + M @ M.T / C, M / C).T

    def level() -> float:
        white = np.linalg.solve(np.linalg.cholesky(D @ covariance @ D.T), M - M.mean(1, keepdims=True))
        return float(np.log(np.linalg.svd(white, compute_uv=False)[: C - 1]).mean())

    W, start, epoch, rate = least_squares_classifier(), level(), 0, 0.0
    log = RunLog(folder, 0.0, loss="mse", optimizer="sgd")
    for k in range(200_000):
        if k % 20 == 0:
            largest = np.linalg.norm(D, 2) ** 2 + np.linalg.norm(M, 2) ** 2 / C + 1
            rate = 0.2 / max(np.linalg.norm(W, 2) ** 2, KAPPA * largest)
        if k % 20 == 0 and level() - start >= np.log(GROWTH) * epoch / (EPOCHS - 1):
            epoch += 1
            log(epoch, {}, measure_features((M[:, labels] + D @ Z).T, labels, W, b, 0.0))
            if epoch == EPOCHS:
                return
        R = W @ M + b[:, None] - np.eye(C)
        of_M, of_D = W.T @ R, W.T @ (W @ D)
        of_W = W @ D @ covariance @ D.T + R @ M.T / C
        M, D = M - rate * of_M, D - rate * of_D
        W, b = W - rate * KAPPA * of_W, b - rate * KAPPA * R.mean(1)
    raise RuntimeError("the log has not grown as far as it should")


def plain_fit(x: np.ndarray) -> float:
    """Squared errors of log omega left by law (a) with free starts and clock, by scipy's solver on the law in closed form."""
    K = x.shape[1]
    log_omega = 0.5 * (x + np.log(C))

    def residual(theta: np.ndarray) -> np.ndarray:
        starts, clock = np.exp(theta[:K]), np.exp(theta[K:])
        later = RENORMALIZED.log_omega(clock, starts, C, N)
        return (np.concatenate([theta[None, :K], later]) - log_omega).ravel()

    clock = RENORMALIZED.time(np.exp(log_omega[1:].mean(1)), np.exp(log_omega[0].mean()), C, N)
    solution = least_squares(residual, np.r_[log_omega[0], np.log(np.maximum(clock, 1.0))])
    return float(2 * solution.cost)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__).parse_args()
    print(f"{EPOCHS} epochs, C = {C}, P = {P}, one run")
    with tempfile.TemporaryDirectory() as folder:
        run, log, out = (Path(folder) / name for name in ("run.npz", "log", "report"))
        omega = measured_run(run)
        joint_log(log)
        for name, path in (("omega and vectors", run), ("these, class statistics, W and b", log)):
            command = "-c", COMMAND, str(path), str(out)
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True).stdout
            seconds, megabytes = float(done.splitlines()[-1]), peak_megabytes(*command)
            print(f"sims.compare of {name}: {seconds:.2f} s of processor time beyond imports, {megabytes:.0f} MB at peak")
    x = np.log(omega**2 / C)
    taken = resample([C - 1], 1000, np.random.default_rng(0))
    fit = paired(lambda: profile(x, 1.0), lambda: plain_fit(x), 5)
    print(f"fit of law (a) against scipy's least_squares: {fit.ratio:.3f} x ({fit.low:.3f} to {fit.high:.3f})")
    print(f"squared errors left: {profile(x, 1.0).squares:.8g}, scipy's {plain_fit(x):.8g}")
    whole = paired(lambda: fit_exponent([x], taken), lambda: plain_fit(x), 5)
    print(f"exponent and interval against that one fit of scipy's: {whole.ratio:.2f} x ({whole.low:.2f} to {whole.high:.2f})")


if __name__ == "__main__":
    main()
