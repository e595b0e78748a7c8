"""The table of docs/monitor.md has a formula for every value that comes back, and plain numpy with these formulas gives them."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from ufm.monitor import NeuralCollapse, watch

PAGE = (Path(__file__).parents[3] / "docs" / "monitor.md").read_text()
LAM = 0.03


def documented() -> set[str]:
    """The names in the first column of every table with a formula."""
    tables = re.findall(r"^\| name \| formula \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.M)
    return {name for table in tables for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def classified(P: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, P) of 4 unequal classes, labels, W, b."""
    rng = np.random.default_rng(P)
    labels = rng.permutation(np.repeat(np.arange(4), (30, 12, 9, 20)))
    features = rng.standard_normal((4, P))[labels] + rng.standard_normal((71, P)) @ np.diag(rng.uniform(0.3, 0.8, P)) + 2
    return features, labels, rng.standard_normal((4, P)), rng.standard_normal(4)


def angles(vectors: np.ndarray) -> dict[str, Any]:
    """NC2 of the rows, by loops over pairs."""
    lengths = [np.linalg.norm(v) for v in vectors]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(vectors, 2)]
    return {
        "nc2_equinorm": np.std(lengths, ddof=1) / np.mean(lengths),
        "nc2_equiangular": np.std(cosines, ddof=1),
        "nc2_maxangle": np.mean([abs(cosine + 1 / (len(vectors) - 1)) for cosine in cosines]),
    }


def by_formulas(H: np.ndarray, y: np.ndarray, W: np.ndarray, b: np.ndarray, lam: float) -> dict[str, Any]:
    """Every value of the table, from all features at once."""
    n, C = len(H), len(W)
    shares = np.array([np.mean(y == c) for c in range(C)])
    mu = np.array([H[y == c].mean(0) for c in range(C)])
    m = mu - H.mean(0)
    sigma_w = (H - mu[y]).T @ (H - mu[y]) / n
    sigma_b = sum(share * np.outer(v, v) for share, v in zip(shares, m, strict=True))
    deviations, E = np.linalg.eigh(sigma_w)
    kept = deviations > 1e-12 * deviations[-1]
    omega = np.linalg.svd((E[:, kept] / np.sqrt(deviations[kept])).T @ m.T)[1][: min(C - 1, int(kept.sum()))]
    weakest, eps = deviations[kept][0], np.finfo(float).eps
    nearest = np.array([np.argmin([np.linalg.norm(h - v) for v in mu]) for h in H])
    decided = np.array([np.argmax(W @ h + b) for h in H])
    values = np.linalg.svd(H - H.mean(0))[1]
    entropy = -sum(p * np.log(p) for p in values / values.sum() if p > 1e-13)
    # the least-squares classifier from its normal equations, b being the weight of a feature that is 1
    A, Y = np.column_stack([H, np.ones(n)]), np.eye(C)[y]
    W_LS = np.linalg.solve(A.T @ A / n + lam * np.eye(A.shape[1]), A.T @ Y / n).T

    def loss(W: np.ndarray, b: np.ndarray) -> Any:
        return np.mean([np.sum((W @ h + b - t) ** 2) for h, t in zip(H, Y, strict=True)]) / 2 + lam / 2 * (
            np.sum(W**2) + np.sum(b**2)
        )

    V, c = W_LS[:, :-1], W_LS[:, -1]
    nc23 = sum(share * np.sum((V @ v + c - e) ** 2) for share, v, e in zip(shares, mu, np.eye(C), strict=True)) / 2
    return {
        **angles(m),
        **{f"{name}_w": value for name, value in angles(W).items()},
        "nc1": np.trace(sigma_w @ np.linalg.pinv(sigma_b, rcond=1e-10)) / C,
        "nc3": np.sum((W / np.linalg.norm(W) - m / np.linalg.norm(m)) ** 2),
        "nc4": np.mean(decided != nearest),
        "nc0": np.linalg.norm(W.sum(0)),
        "train_error": np.mean(decided != y),
        "ncc_accuracy": np.mean(nearest == y),
        "effective_rank": np.exp(entropy),
        "omega_geometric_mean": np.prod(omega) ** (1 / len(omega)),
        "dropped": float(np.sum(~kept)),
        "omega_rounding": eps * deviations[-1] / weakest + eps * np.sqrt(np.mean(np.sum(H**2, 1)) / weakest),
        "lost_signal": np.sum((m @ E[:, ~kept]) ** 2) / np.sum(m**2),
        "loss": loss(W, b),
        "loss_nc1": (np.trace(V @ sigma_w @ V.T) + lam * (np.sum(V**2) + np.sum(c**2))) / 2,
        "loss_nc23": nc23,
        "loss_perp": loss(W, b) - loss(V, c),
        "examples": float(n),
        "classes_seen": float(C),
    }


@pytest.mark.parametrize("P", [2, 3, 6])
@pytest.mark.parametrize("empty", [False, True])
def test_every_value_is_that_of_its_formula(P: int, empty: bool) -> None:
    H, y, W, b = classified(P)
    if empty:  # no example leaves its class mean along the last direction, and the class means differ along it
        H = np.column_stack([H, np.array([0.5, -1.0, 0.25, 2.0])[y]])
        W = np.column_stack([W, np.ones(4)])
    metric = NeuralCollapse(4, lam=LAM)
    for rows, labels in zip(torch.from_numpy(H).split(13), torch.from_numpy(y).split(13), strict=True):
        metric.update(rows, labels, classifier=(torch.from_numpy(W), torch.from_numpy(b)))
    values, expected = metric.compute(), by_formulas(H, y, W, b, LAM)
    assert metric.undefined == {}
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-9, abs=1e-13), name
    assert values["loss_nc1"] + values["loss_nc23"] + values["loss_perp"] == pytest.approx(values["loss"], rel=1e-12)


def test_the_page_has_a_formula_for_every_value() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    H, y, *_ = classified(6)
    watched = watch(net, "2", inner="0", lam=LAM)
    returned = watched.measure([(torch.from_numpy(H).float(), torch.from_numpy(y))])
    rows = watched.by_layer()
    of_layers = {name for row in rows for name in row} - {"layer"}
    regression = NeuralCollapse(targets="regression")
    regression.update(torch.from_numpy(H), torch.from_numpy(H[:, :2]), classifier=(torch.ones(2, 6), None))
    assert documented() == {name.removeprefix("0/") for name in returned} | of_layers | set(regression.compute())


def test_gain_is_the_difference_of_the_logarithms() -> None:
    H, y, *_ = classified(6)
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    watched = watch(net, "2", inner=("0", "1"))
    values = watched.measure([(torch.from_numpy(H), torch.from_numpy(y))])
    first, second, head = watched.by_layer()
    logarithms = [np.log(values[name]) for name in ("0/omega_geometric_mean", "1/omega_geometric_mean", "omega_geometric_mean")]
    assert np.isnan(float(first["gain"]))
    assert [second["gain"], head["gain"]] == pytest.approx(np.diff(logarithms))
    assert [row["reduced"] for row in (first, second, head)] == [0, 0, 0]


def test_regression_values_are_those_of_their_formulas() -> None:
    rng = np.random.default_rng(2)
    Y = rng.standard_normal((40, 2)) @ np.array([[1.0, 0.3], [0.0, 0.7]]) + 3
    H = Y @ rng.standard_normal((2, 5)) + 0.1 * rng.standard_normal((40, 5))
    W, b = rng.standard_normal((2, 5)), rng.standard_normal(2)
    metric = NeuralCollapse(targets="regression")
    metric.update(torch.from_numpy(H), torch.from_numpy(Y), classifier=(torch.from_numpy(W), torch.from_numpy(b)))
    values = metric.compute()
    unit = (H - H.mean(0)) / np.linalg.norm(H - H.mean(0), axis=1, keepdims=True)
    for name, basis in (("nrc1", np.linalg.svd(H - H.mean(0))[2][:2]), ("nrc2", np.linalg.svd(W)[2][:2])):
        projector = basis.T @ basis
        assert values[name] == pytest.approx(np.mean([np.sum((h - projector @ h) ** 2) for h in unit])), name
    sigma = np.cov(Y.T, ddof=0)
    distances = []
    for gamma in np.linspace(0, np.linalg.eigvalsh(sigma)[0], 20001)[:-1]:
        T = np.real(sqrtm(sigma)) - gamma**0.5 * np.eye(2)
        distances.append(np.sum((W @ W.T / np.linalg.norm(W @ W.T) - T / np.linalg.norm(T)) ** 2))
    assert values["nrc3"] == pytest.approx(min(distances), rel=1e-3)
    assert values["mse"] == pytest.approx(np.mean([np.sum((W @ h + b - t) ** 2) for h, t in zip(H, Y, strict=True)]))
    assert values["examples"] == 40
