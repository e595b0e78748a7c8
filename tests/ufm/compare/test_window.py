"""Which epochs are compared: the entry to the central path, unusable epochs, vanishing values, and why nothing is compared."""

import numpy as np
import pytest

from tests.ufm.compare.synthetic import class_vectors, trajectory
from ufm.compare.window import find_window, proximity
from ufm.laws.trajectory import Trajectory

C, N, P, K = 5, 8, 7, 4


def trained(ratio: list[float] | None, omega: np.ndarray | None = None) -> Trajectory:
    """A measured run with this L_perp / L_LS at epochs 10, 20, ... (no classifier for None)."""
    T = len(ratio) if ratio is not None else 6
    omega = np.exp(np.linspace(0, 2, T)[:, None] + np.linspace(1, 0, K)) if omega is None else omega
    V = np.tile(class_vectors(C, K), (T, 1, 1))
    U = np.tile(np.eye(P)[:, :K], (T, 1, 1))
    observed = {"nc1": np.arange(T, dtype=float)}
    if ratio is not None:
        ls = np.linspace(2, 1, T)
        observed |= {"loss_perp": np.array(ratio) * ls, "loss": (1 + np.array(ratio)) * ls}
    return Trajectory(10.0 * np.arange(1, T + 1), omega, V[0], C, N, U[0], V, U, observed)


def compared_epochs(compared: Trajectory | None) -> list[float]:
    assert compared is not None
    return compared.t.tolist()


@pytest.mark.parametrize(
    ("ratio", "epochs"),
    [
        ([0.5, 0.2, 0.09, 0.05, 0.02, 0.01], [30, 40, 50, 60]),
        ([0.05, 0.04, 0.03], [10, 20, 30]),
        ([0.5, 0.05, 0.3, 0.05, 0.02, 0.01], [40, 50, 60]),  # below, back, below
        ([0.5, 0.11, 0.05, 0.02, 0.01], [30, 40, 50]),
        ([0.5, float("nan"), 0.05, 0.02, 0.01], [30, 40, 50]),  # what is unknown is not below
    ],
)
def test_the_entry_is_the_first_epoch_from_which_the_ratio_stays_below(ratio: list[float], epochs: list[float]) -> None:
    window = find_window(trained(ratio))
    np.testing.assert_allclose(window.ratio, ratio, rtol=1e-12)
    np.testing.assert_array_equal(window.epochs, 10.0 * np.arange(1, len(ratio) + 1))
    assert (window.entry, window.reason, window.notes) == (epochs[0], "", ())
    assert compared_epochs(window.compared) == epochs


def test_a_larger_fraction_enters_earlier() -> None:
    ratio = [0.5, 0.2, 0.09, 0.05, 0.02, 0.01]
    assert find_window(trained(ratio), fraction=0.3).entry == 20
    assert find_window(trained(ratio), fraction=0.03).entry == 50
    for wrong in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="fraction"):
            find_window(trained(ratio), fraction=wrong)


@pytest.mark.parametrize("ratio", [[0.5, 0.3, 0.25, 0.27], [0.5, 0.05, 0.04, 0.27]], ids=["never", "leaves again"])
def test_a_run_off_the_central_path_says_by_how_much(ratio: list[float]) -> None:
    window = find_window(trained(ratio))
    assert window.entry is None
    assert window.compared is None
    for number in ("0.27", f"{min(ratio):g}", "0.1", "from_epoch"):
        assert number in window.reason
    assert compared_epochs(find_window(trained(ratio), from_epoch=15).compared) == [20, 30, 40]


def test_first_and_last_epoch_may_be_chosen() -> None:
    ratio = [0.5, 0.05, 0.05, 0.05, 0.3, 0.05]
    run = trained(ratio)
    assert compared_epochs(find_window(run, from_epoch=20, to_epoch=50).compared) == [20, 30, 40, 50]
    assert compared_epochs(find_window(run, to_epoch=45).compared) == [20, 30, 40]  # what comes later does not count
    assert find_window(run).reason == "1 usable epoch from epoch 60 on: at least 3 are needed"
    assert "0 usable epochs from epoch 99" in find_window(run, from_epoch=99).reason
    assert find_window(run, to_epoch=5).reason == "no epoch is measured up to 5"
    assert "2 usable epochs" in find_window(run, from_epoch=20, to_epoch=30).reason


def test_without_a_classifier_the_entry_must_be_named() -> None:
    run = trained(None)
    assert np.isnan(proximity(run)).all()
    window = find_window(run)
    assert window.compared is None
    assert "no classifier was measured" in window.reason
    assert compared_epochs(find_window(run, from_epoch=30).compared) == [30, 40, 50, 60]


def test_a_simulated_trajectory_is_on_the_central_path_from_its_start() -> None:
    run = trajectory(np.zeros((4, 3)))
    window = find_window(run)
    assert window.entry == 1
    np.testing.assert_array_equal(window.ratio, 0)
    assert compared_epochs(window.compared) == [1, 2, 3, 4]


def test_epochs_of_undefined_or_lost_values_are_left_out_and_said() -> None:
    omega = np.exp(np.linspace(0, 2, 6)[:, None] + np.linspace(1, 0, K))
    omega[1], omega[3, 2] = np.nan, 0.0
    window = find_window(trained([0.01] * 6, omega))
    assert compared_epochs(window.compared) == [10, 30, 50, 60]
    assert window.compared is not None
    np.testing.assert_array_equal(window.compared.observed["nc1"], [0, 2, 4, 5])
    assert len(window.notes) == 1
    assert window.notes[0].endswith("epoch 20, 40")
    few = find_window(trained([0.01] * 4, omega[:4]))
    assert few.compared is None
    assert few.reason.startswith("2 usable epochs")
    assert few.notes
    none = find_window(trained([0.01] * 4, np.full((4, K), np.nan)))
    assert none.reason.startswith("0 usable epochs")


def test_many_epochs_left_out_are_counted() -> None:
    omega = np.ones((14, K))
    omega[2:12] = np.nan
    assert find_window(trained([0.01] * 14, omega)).notes[0].endswith("epoch 30, 40, 50, 60, 70, 80, 90, 100 and 2 more")


def test_values_that_vanish_throughout_are_left_out_with_their_vectors() -> None:
    omega = np.exp(np.linspace(0, 2, 5)[:, None] + np.linspace(1, 0, K))
    omega[:, 3] = 0.0
    run = trained([0.01] * 5, omega)
    window = find_window(run)
    assert window.notes == ("left out: 1 of 4 singular values, which are 0",)
    assert window.compared is not None
    assert run.V_t is not None
    assert run.U_t is not None
    np.testing.assert_array_equal(window.compared.omega, omega[:, :3])
    np.testing.assert_array_equal(window.compared.V_t, run.V_t[:, :, :3])
    np.testing.assert_array_equal(window.compared.U_t, run.U_t[:, :, :3])
    np.testing.assert_array_equal(window.compared.V, run.V[:, :3])
    assert find_window(trained([0.01] * 5, np.zeros((5, K)))).reason.startswith("every singular value vanishes")
