"""Singular values followed in time by their vectors, through crossings and changes of sign."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ufm.compare.synthetic import class_vectors
from ufm.features import spectral_loss
from ufm.laws.trajectory import Trajectory, followed
from ufm.monitor.record import Record

C, N, P, K, T = 5, 8, 7, 4, 9


def crossing(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """omega (T, K) of values that cross several times, with their slowly turning V (T, C, K) and U (T, P, K)."""
    s = np.linspace(0, 1, T)[:, None]
    omega = np.array([8.0, 5.0, 3.0, 1.0]) * (1 - s) + np.array([2.0, 9.0, 1.5, 6.0]) * s
    V = np.stack([_turn(rng, 0, C) @ class_vectors(C, K)] * T)
    U = np.stack([np.linalg.qr(rng.standard_normal((P, P)))[0][:, :K]] * T)
    for k in range(T):
        V[k], U[k] = _turn(np.random.default_rng(1), 0.05 * k, C) @ V[k], _turn(np.random.default_rng(2), 0.05 * k, P) @ U[k]
    return omega, V, U


def _turn(rng: np.random.Generator, angle: float, m: int) -> np.ndarray:
    a, b = np.linalg.qr(rng.standard_normal((m, 2)))[0].T
    plane = np.outer(a, a) + np.outer(b, b)
    return np.eye(m) + (np.cos(angle) - 1) * plane + np.sin(angle) * (np.outer(b, a) - np.outer(a, b))


def as_svd_gives_them(
    rng: np.random.Generator, omega: np.ndarray, V: np.ndarray, U: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted at every time, with signs at random common to v_j and u_j; the first time as it is."""
    order = np.argsort(-omega, axis=1, kind="stable")
    signs = rng.choice([-1.0, 1.0], size=(len(omega), 1, omega.shape[1]))
    signs[0] = 1
    columns = order[:, None, :]
    return (
        np.take_along_axis(omega, order, 1),
        np.take_along_axis(V, columns, 2) * signs,
        np.take_along_axis(U, columns, 2) * signs,
    )


@given(st.integers(0, 999))
def test_crossing_values_are_followed_by_their_vectors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = crossing(rng)
    shuffled = as_svd_gives_them(rng, *truth)
    kept = [array.copy() for array in shuffled]
    for values, expected in zip(followed(*shuffled), truth, strict=True):
        np.testing.assert_array_equal(values, expected)
    for array, before in zip(shuffled, kept, strict=True):
        np.testing.assert_array_equal(array, before)
    assert followed(*shuffled[:2])[2] is None


def record(omega: np.ndarray, V: np.ndarray, U: np.ndarray) -> Record:
    scalars = {name: np.arange(float(len(omega))) for name in ("train_error", "nc1", "loss", "loss_perp")}
    counts = {"counts": np.full(C, N), "lambda": np.asarray(0.0)}
    return Record({"epoch": 3 * np.arange(len(omega)), "omega": omega, "V": V, "U": U} | scalars | counts)


def test_a_record_follows_them_and_leaves_undefined_and_rank_deficient_epochs_out() -> None:
    rng = np.random.default_rng(3)
    truth = crossing(rng)
    omega, V, U = as_svd_gives_them(rng, *truth)
    omega[2], V[2], U[2] = np.nan, np.nan, np.nan
    omega[5, -1] = 0.0
    V[5], U[5] = V[5][:, ::-1], U[5][:, ::-1]  # vectors of another moment must not lead astray
    trajectory = record(omega, V, U).trajectory()
    kept = [0, 1, 3, 4, 6, 7, 8]
    np.testing.assert_array_equal(trajectory.t, 3.0 * np.array(kept))
    for got, expected in zip((trajectory.omega, trajectory.V_t, trajectory.U_t), truth, strict=True):
        np.testing.assert_array_equal(got, expected[kept])
    np.testing.assert_array_equal(trajectory.V, truth[1][0])
    np.testing.assert_array_equal(trajectory.U, truth[2][0])
    np.testing.assert_array_equal(trajectory.observed["loss_perp"], kept)
    assert (trajectory.C, trajectory.N) == (C, N)
    assert "omega" not in trajectory.observed


def test_rows_are_the_same_trajectory_at_some_times() -> None:
    omega, V, U = crossing(np.random.default_rng(0))
    whole = Trajectory(np.arange(9.0), omega, V[0], C, N, U[0], V, U, {"nc1": np.arange(9.0)})
    some = whole.rows(np.array([1, 4]))
    for got, expected in ((some.t, whole.t), (some.omega, omega), (some.V_t, V), (some.U_t, U), (some.observed["nc1"], whole.t)):
        np.testing.assert_array_equal(got, expected[[1, 4]])
    np.testing.assert_array_equal(some.V, V[0])
    np.testing.assert_array_equal(some.loss, whole.loss[[1, 4]])
    bare = Trajectory(np.arange(9.0), omega, V[0], C, N).rows(np.array([0]))
    assert bare.U is bare.V_t is bare.U_t is None


def test_the_loss_of_a_network_is_not_taken_for_that_of_its_features() -> None:
    """A measured run observes `loss`, the network's; L_LS is Lemma 1's or `ls_loss`, unknown for unequal classes without it."""
    t, omega, V = np.zeros(1), np.ones((1, 2)), np.eye(3)[:, :2]
    expected = spectral_loss.spectral_loss(omega, 3)
    assert Trajectory(t, omega, V, 3, 5, observed={"loss": np.array([9.0])}).loss == expected
    assert Trajectory(t, omega, V, 3, 5, observed={"ls_loss": np.array([9.0])}).loss == 9
    with pytest.raises(ValueError, match="ls_loss of unequal classes"):
        _ = Trajectory(t, omega, V, 3, 5, counts=(4, 5, 6)).loss
    kept = Trajectory(t, omega, V, 3, 5, observed={"ls_loss_nc1": t + 2}, counts=(4, 5, 6)).rows(np.array([0]))
    assert kept.counts == (4, 5, 6)
    assert kept.loss_nc1 == 2


def observed_trajectory(counts: tuple[int, ...] | None = None) -> Trajectory:
    omega, V, U = crossing(np.random.default_rng(4))
    observed = {"ls_loss": np.arange(T) / 7, "nc1": 1 / np.arange(1, T + 1), "spectrum": omega}
    return Trajectory(np.geomspace(1, 50, T), omega, V[0], C, N, U[0], V, U, observed, counts)


def test_a_table_holds_every_number_of_a_trajectory() -> None:
    one = observed_trajectory()
    frame = one.to_pandas()
    names = [*(f"omega_{j}" for j in range(1, K + 1)), "loss", "loss_nc1", "loss_nc23", "nc1"]
    assert list(frame.columns) == names
    np.testing.assert_array_equal(frame.index, one.t)
    np.testing.assert_array_equal(frame[names[:K]], one.omega)
    np.testing.assert_array_equal(frame["loss"], one.observed["ls_loss"])
    np.testing.assert_array_equal(frame["loss_nc1"], spectral_loss.spectral_loss_nc1(one.omega, C))
    np.testing.assert_array_equal(frame["nc1"], one.observed["nc1"])


def test_unequal_classes_tabulate_only_the_losses_that_were_observed() -> None:
    frame = observed_trajectory((8, 8, 8, 8, 9)).to_pandas()
    assert [name for name in frame.columns if "loss" in name] == ["loss"]


def test_a_dataset_names_every_axis() -> None:
    one = observed_trajectory((8, 8, 8, 8, 8))
    data = one.to_xarray()
    assert dict(data.sizes) == {"t": T, "j": K, "c": C, "p": P}
    assert (data.attrs["C"], data.attrs["N"], data.attrs["counts"]) == (C, N, [8] * C)
    np.testing.assert_array_equal(data["omega"].sel(j=2), one.omega[:, 1])
    assert one.U_t is not None
    np.testing.assert_array_equal(data["U_t"].isel(t=3, p=1), one.U_t[3, 1])
    np.testing.assert_array_equal(data["V"].transpose("c", "j"), one.V)
    np.testing.assert_array_equal(data["loss_nc23"], one.loss_nc23)


@pytest.mark.parametrize(("name", "method"), [("pandas", "to_pandas"), ("xarray", "to_xarray")])
def test_a_missing_library_says_what_to_install(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name} is not installed: pip install 'neural-collapse-flow\[tables\]'"):
        getattr(observed_trajectory(), method)()
