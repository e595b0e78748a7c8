"""On a CUDA device: the same numbers, and nothing leaves the device. Run on demand: `python -m pytest -m gpu`."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from manifolds.class_centering import ClassLayout
from manifolds.linalg import inverse_cholesky
from manifolds.metrics import BundleMetric
from manifolds.normalized_features import constraint_residual
from manifolds.retractions import Retraction, cholesky_retraction, polar_retraction
from manifolds.steps import ACCELERATOR_COLUMNS, gradient_step
from tests.strategies import features
from tests.ufm.launched import launch
from ufm.features.snr import renormalized_features, snr
from ufm.features.statistics import statistics_of
from ufm.files import store
from ufm.flow import command as flow
from ufm.laws.singular_value_dynamics import LAWS
from ufm.tensor.integrate import dormand_prince
from ufm.tensor.renormalized_flow import FLOWS, advance_means, central_path_field, central_path_gradient, renormalize_after_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
LAYOUT = ClassLayout.equal(6, 50)
H = features(LAYOUT, 40, np.random.default_rng(0))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
@pytest.mark.parametrize("name", ["renormalized", "embedded"])
def test_flow_scheme_and_exact_step_stay_on_the_device(name: str, dtype: torch.dtype, tolerance: float) -> None:
    X, spectrum = renormalized_features(H, LAYOUT)
    start = snr(torch.from_numpy(H).cuda(), LAYOUT)
    np.testing.assert_allclose(start.omega.cpu(), spectrum.omega, rtol=1e-10)
    law, t = FLOWS[name].law, 2e4
    omega = law.omega(np.array(t), spectrum.omega, LAYOUT.C, LAYOUT.N)
    on_device = torch.from_numpy(X).to("cuda", dtype)
    *_, last = dormand_prince(
        central_path_field(FLOWS[name], LAYOUT), on_device, 0.0, t, LAYOUT.means, max(tolerance / 100, 1e-9)
    )
    assert last.X.is_cuda
    assert last.X.dtype == dtype
    np.testing.assert_allclose(torch.linalg.svdvals(LAYOUT.means(last.X))[: LAYOUT.C - 1].cpu(), omega, rtol=tolerance)
    moved = advance_means(on_device.clone(), start, start.omega, torch.from_numpy(omega).cuda(), LAYOUT)
    np.testing.assert_allclose(moved.cpu(), last.X.cpu(), atol=10 * tolerance * omega[0])
    stepped = renormalize_after_step(on_device, 50.0, lambda X: central_path_gradient(X, LAYOUT), LAYOUT)
    assert stepped.is_cuda
    assert float(constraint_residual(stepped, LAYOUT)) < (1e-11 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("n", [200, 2 * ACCELERATOR_COLUMNS + 6], ids=["one block", "three blocks"])
@pytest.mark.parametrize("retraction", [polar_retraction, cholesky_retraction], ids=lambda move: move.name)
def test_a_whole_step_on_the_device_is_that_of_the_cpu(retraction: Retraction, n: int) -> None:
    layout = ClassLayout((n // 2 + 1, n // 2 - 1))
    X, G = (torch.from_numpy(A) for A in np.random.default_rng(1).standard_normal((2, 40, layout.n)))
    X = renormalized_features(X, layout)[0]
    moved = gradient_step(X, G, 0.3, BundleMetric(layout), retraction)
    on_device = gradient_step(X.cuda(), G.cuda(), 0.3, BundleMetric(layout), retraction)
    assert on_device.is_cuda
    np.testing.assert_allclose(on_device.cpu(), moved, rtol=0, atol=1e-11)


@pytest.mark.parametrize("P", [7, 200])
def test_the_inverse_cholesky_factor_on_the_device(P: int) -> None:
    Q = torch.linalg.qr(torch.from_numpy(np.random.default_rng(2).standard_normal((2, P, P))))[0]
    S = (Q * torch.logspace(0, -8, P, dtype=torch.float64)) @ Q.mT
    inverse = inverse_cholesky(((S + S.mT) / 2).cuda())
    assert not inverse.triu(1).any()
    one = torch.eye(P, dtype=torch.float64)
    assert float(torch.linalg.matrix_norm(inverse.cpu() @ S @ inverse.cpu().mT - one).max()) < 1e8 * P * 2.3e-16
    torch.testing.assert_close(inverse_cholesky(S[0].cuda()), inverse[0], rtol=0, atol=1e-6 * float(abs(inverse[0]).max()))
    with pytest.raises(torch.linalg.LinAlgError):
        inverse_cholesky(-torch.eye(P, dtype=torch.float64).cuda())


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_closed_laws_on_the_device(law: object) -> None:
    t, omega0 = torch.linspace(0, 1e4, 50, dtype=torch.float64), torch.tensor([3.0, 0.2], dtype=torch.float64)
    expected = law.omega(t, omega0, 6, 50)  # type: ignore[attr-defined]
    got = law.omega(t.cuda(), omega0.cuda(), 6, 50)  # type: ignore[attr-defined]
    assert got.is_cuda
    np.testing.assert_allclose(got.cpu(), expected, rtol=1e-12)


def test_statistics_on_the_device() -> None:
    labels = torch.from_numpy(LAYOUT.labels)
    rows = torch.from_numpy(H.T.copy()).float()
    stats = statistics_of(rows.cuda(), labels.cuda(), 6)
    assert stats.sigma_w.is_cuda
    np.testing.assert_allclose(stats.sigma_w.cpu(), statistics_of(rows, labels, 6).sigma_w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_the_command_on_the_device(tmp_path: Path, full: list[str]) -> None:
    common = ["--C", "6", "--N", "50", "--P", "40", "--steps", "20", "--points", "20", "--quiet", *full]
    assert flow.main([*common, "--out", str(tmp_path / "cpu.npz")]) == 0
    assert flow.main([*common, "--device", "cuda", "--out", str(tmp_path / "cuda.npz")]) == 0
    cpu, cuda = store.load_arrays(tmp_path / "cpu.npz"), store.load_arrays(tmp_path / "cuda.npz")
    np.testing.assert_allclose(cuda["omega"], cpu["omega"], rtol=1e-7)
    np.testing.assert_allclose(cuda["omega_discrete"], cpu["omega_discrete"], rtol=1e-9)


def test_two_processes_read_shards_on_a_machine_with_a_card(tmp_path: Path) -> None:
    """The arrays of `ufm.flow` lie on the CPU, and travel over gloo, whatever device is there."""
    for k, part in enumerate(np.array_split(np.random.default_rng(1).permutation(LAYOUT.n), 3)):
        np.savez(tmp_path / f"shard-{k}.npz", features=H.T[part], labels=LAYOUT.labels[part])
    common = ["--features", str(tmp_path / "shard-*.npz"), "--steps", "20", "--points", "20", "--quiet"]
    assert flow.main([*common, "--out", str(tmp_path / "one.npz")]) == 0
    launch(sys.executable, 2, "ufm.flow", "--", *common, "--out", str(tmp_path / "two.npz"))
    one, two = (store.load_arrays(tmp_path / name) for name in ("one.npz", "two.npz"))
    np.testing.assert_allclose(two["omega"], one["omega"], rtol=1e-12)
