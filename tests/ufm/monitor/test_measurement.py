"""What is measured on a network equals a dense float64 oracle, example by example, from one streaming pass."""

import errno
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from manifolds.class_centering import ClassLayout
from tests import oracles
from ufm.features import snr as exact
from ufm.features.ranges import reduce_to_range, snr_in_range
from ufm.features.statistics import statistics_of
from ufm.files.spool import FeatureSpool
from ufm.monitor.measurement import Measurement, measure_features
from ufm.monitor.network import measure_network


def dense(features: np.ndarray, labels: np.ndarray, W: np.ndarray, b: np.ndarray, lam: float) -> dict[str, float]:
    """Every scalar written out with dense matrices and loops over examples, classes and pairs."""
    C, n = len(W), len(features)
    means = np.stack([features[labels == c].mean(0) for c in range(C)])
    mu = features.mean(0)
    centred = means - mu
    sigma_w = sum(np.outer(h - means[y], h - means[y]) for h, y in zip(features, labels, strict=True)) / n
    sigma_b = sum(np.outer(m, m) * np.mean(labels == c) for c, m in enumerate(centred))
    left, values, _ = np.linalg.svd(sigma_b)
    pinv = np.sum([np.outer(left[:, k], left[:, k]) / values[k] for k in range(min(C - 1, len(mu)))], axis=0)
    ls = oracles.least_squares(features, labels, C, lam)
    W_ls, b_ls = ls[:, :-1], ls[:, -1]

    def cosines(rows: np.ndarray) -> np.ndarray:
        pairs = [(i, j) for i in range(C) for j in range(i)]
        return np.array([rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) for i, j in pairs])

    def spread(x: np.ndarray) -> float:
        return float(np.std(x, ddof=1)) if len(x) > 1 else 0.0

    within = sum(np.sum((W_ls @ (h - means[y])) ** 2) for h, y in zip(features, labels, strict=True)) / n
    between = sum(np.sum((W_ls @ means[y] + b_ls - np.eye(C)[y]) ** 2) for y in labels) / n
    full, best = oracles.mse(features, labels, W, b, lam), oracles.mse(features, labels, W_ls, b_ls, lam)
    out = {
        "loss": full,
        "loss_nc1": 0.5 * (within + lam * (np.sum(W_ls**2) + np.sum(b_ls**2))),
        "loss_nc23": 0.5 * between,
        "loss_perp": full - best,
        "nc1": np.trace(sigma_w @ pinv) / C,
        "nc3": np.sum((W / np.linalg.norm(W) - centred / np.linalg.norm(centred)) ** 2),
        "nc4": np.mean([np.argmax(W @ h + b) != np.argmin([np.linalg.norm(h - m) for m in means]) for h in features]),
        "train_error": np.mean([np.argmax(W @ h + b) != y for h, y in zip(features, labels, strict=True)]),
    }
    for suffix, rows in (("", centred), ("_w", W)):
        norms = np.linalg.norm(rows, axis=1)
        out[f"nc2_equinorm{suffix}"] = spread(norms) / norms.mean()
        out[f"nc2_equiangular{suffix}"] = spread(cosines(rows))
        out[f"nc2_maxangle{suffix}"] = np.mean(abs(cosines(rows) + 1 / (C - 1)))
    return out


def problem(seed: int, noise: float, unequal: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    C, P = int(rng.integers(2, 6)), int(rng.integers(6, 10))
    sizes = rng.integers(11, 22, C) if unequal else np.full(C, 12)
    labels = rng.permutation(np.repeat(np.arange(C), sizes))
    means = rng.standard_normal((C, P))
    features = means[labels] + noise * rng.standard_normal((len(labels), P))
    return features, labels, rng.standard_normal((C, P)), rng.standard_normal(C)


def identity_net(W: np.ndarray, b: np.ndarray) -> nn.Module:
    """A network whose last linear layer sees its input."""
    model = nn.Sequential()
    model.add_module("body", nn.Identity())
    head = nn.Linear(W.shape[1], len(W)).double()
    model.add_module("head", head)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(W))
        head.bias.copy_(torch.from_numpy(b))
    return model


def loader(features: np.ndarray, labels: np.ndarray, batch: int = 7) -> list[tuple[torch.Tensor, torch.Tensor]]:
    H, y = torch.from_numpy(features), torch.from_numpy(labels)
    return list(zip(H.split(batch), y.split(batch), strict=True))


def assert_matches(measurement: Measurement, expected: dict[str, float], prefix: str = "") -> None:
    for name, value in expected.items():
        measured = measurement.scalars[f"{prefix}{name}" if name != "train_error" else f"{prefix or 'train_'}error"]
        scale = expected["loss"] if name.startswith("loss") else 1e-3
        assert measured == pytest.approx(value, rel=1e-9, abs=1e-9 * scale), name


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([1.0, 0.1, 1e-5]), st.sampled_from([0.0, 1e-3, 0.2]))
def test_every_scalar_equals_the_dense_oracle(seed: int, unequal: bool, noise: float, lam: float) -> None:
    features, labels, W, b = problem(seed, noise, unequal)
    measurement = measure_network(identity_net(W, b), loader(features, labels), "head", lam)
    assert_matches(measurement, dense(features, labels, W, b, lam))
    assert measurement.undefined == ()
    in_memory = measure_features(features, labels, W, b, lam)
    for name, value in measurement.scalars.items():
        assert in_memory.scalars[name] == pytest.approx(value, rel=1e-10, abs=1e-13), name


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([1.0, 1e-3]), st.sampled_from([0.0, 0.01]))
def test_the_decomposition_sums_to_the_loss(seed: int, unequal: bool, noise: float, lam: float) -> None:
    features, labels, W, b = problem(seed, noise, unequal)
    s = measure_network(identity_net(W, b), loader(features, labels), "head", lam).scalars
    assert s["loss_nc1"] + s["loss_nc23"] + s["loss_perp"] == pytest.approx(s["loss"], rel=1e-10)
    assert s["loss"] == pytest.approx(oracles.mse(features, labels, W, b, lam), rel=1e-10)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01]))
def test_l_perp_is_round_off_at_the_least_squares_head(seed: int, lam: float) -> None:
    features, labels, W, _ = problem(seed, 0.5, True)
    ls = oracles.least_squares(features, labels, len(W), lam)
    s = measure_features(features, labels, ls[:, :-1], ls[:, -1], lam).scalars
    assert 0 <= s["loss_perp"] < 1e-20
    assert s["loss"] > 1e-3


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([1.0, 1e-5]))
def test_the_snr_equals_that_of_the_features(seed: int, unequal: bool, noise: float) -> None:
    features, labels, W, b = problem(seed, noise, unequal)
    order = np.argsort(labels, kind="stable")
    expected = exact.snr(np.ascontiguousarray(features[order].T), ClassLayout(tuple(np.bincount(labels))))
    measurement = measure_network(identity_net(W, b), loader(features, labels), "head", 0.1).snr
    assert (measurement.dropped, measurement.lost_signal) == (0, pytest.approx(0, abs=1e-13))
    np.testing.assert_allclose(measurement.omega, np.asarray(expected.omega, float), rtol=1e-9)
    assert_same_pairs(measurement.U, measurement.V, expected.left_vectors, expected.V, expected.omega)


def assert_same_pairs(U: np.ndarray, V: np.ndarray, U_0: np.ndarray, V_0: np.ndarray, omega: np.ndarray) -> None:
    """The pairs (u_j, v_j) up to one sign, to 1e-9 of what their gap allows (Wedin): an error e of SNR turns them by e / gap."""
    others = abs(omega[:, None] - omega) + np.diag(np.full(len(omega), np.inf))
    gap = np.minimum(others.min(1), omega)  # the smallest also turns into the space where SNR is 0
    allowed = 1e-9 * omega[0] / gap
    sign = np.sign((V * V_0).sum(0))  # for two classes the entries of v are +-1/sqrt(2), and the convention of signs a tie
    assert (V.max(0) >= -V.min(0) - 1e-9).all()
    for vectors, expected in ((U * sign, U_0), (V * sign, V_0)):
        assert (np.linalg.norm(vectors - expected, axis=0) <= allowed).all()


def test_tr_sigma_w_far_below_tr_sigma_b_is_measured_to_nine_digits() -> None:
    features, labels, W, b = problem(3, 1e-5 / 2**0.5, True)
    stats = statistics_of(features, labels, len(W))
    assert 2e-11 < np.trace(stats.sigma_w) / np.trace(stats.sigma_b) < 2e-10
    assert_matches(measure_network(identity_net(W, b), loader(features, labels), "head", 0.0), dense(features, labels, W, b, 0.0))


def test_dead_features_are_dropped_and_counted_as_the_reduction_does() -> None:
    features, labels, W, b = problem(8, 0.3, False)
    C, P = W.shape
    dead = np.hstack([features, np.zeros((len(features), 2)), np.full((len(features), 1), 0.7)])
    wide = np.hstack([W, np.ones((C, 3))])
    order = np.argsort(labels, kind="stable")
    layout = ClassLayout.equal(C, len(labels) // C)
    reduced, reduction = reduce_to_range(np.ascontiguousarray(dead[order].T), layout)
    expected = exact.snr(reduced, layout)
    for lam in (0.0, 0.05):
        measurement = measure_features(dead, labels, wide, b, lam)
        assert measurement.snr.dropped == reduction.dropped == 3
        assert measurement.snr.lost_signal == pytest.approx(0, abs=1e-14)
        np.testing.assert_allclose(measurement.snr.omega, expected.omega, rtol=1e-9)
        assert measurement.snr.U.shape == (P + 3, C - 1)
        np.testing.assert_allclose(measurement.snr.U.T @ measurement.snr.U, np.eye(C - 1), atol=1e-12)
        assert not abs(measurement.snr.U[P:]).max() > 1e-12
        assert_matches(measurement, {k: v for k, v in dense(dead, labels, wide, b, lam).items() if k.startswith("loss")})
        assert measurement.undefined == ()


def test_signal_without_variability_is_reported_as_lost() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 10)
    features = np.hstack([rng.standard_normal((30, 4)), 5.0 * np.eye(3)[labels]])
    stats = statistics_of(torch.from_numpy(features), torch.from_numpy(labels), 3)
    spectrum = snr_in_range(stats, 2e-16)
    assert spectrum.dropped == 3
    assert 0.9 < spectrum.lost_signal < 1


def test_a_range_smaller_than_the_number_of_classes_pads_with_zeros() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 8)
    features = np.hstack([rng.standard_normal((40, 2)) + labels[:, None], np.zeros((40, 4))])
    spectrum = snr_in_range(statistics_of(torch.from_numpy(features), torch.from_numpy(labels), 5), 2e-16)
    assert (spectrum.omega.shape, spectrum.V.shape, spectrum.U.shape) == ((4,), (5, 4), (6, 4))
    assert (spectrum.omega > 0).tolist() == [True, True, False, False]


@given(st.integers(0, 2**32 - 1))
def test_the_test_set_has_its_own_statistics_and_the_means_of_the_training_set(seed: int) -> None:
    features, labels, W, b = problem(seed, 0.8, True)
    C = len(W)
    rng = np.random.default_rng(seed + 1)
    test_labels = rng.permutation(np.repeat(np.arange(C), rng.integers(11, 15, C)))
    test = rng.standard_normal((len(test_labels), W.shape[1])) + test_labels[:, None]
    measurement = measure_network(identity_net(W, b), loader(features, labels), "head", 0.1, loader(test, test_labels, 5))
    expected = dense(test, test_labels, W, b, 0.1)
    means = [features[labels == c].mean(0) for c in range(C)]
    expected["nc4"] = np.mean([np.argmax(W @ h + b) != np.argmin([np.linalg.norm(h - m) for m in means]) for h in test])
    assert_matches(measurement, expected, "test_")
    about = sum(np.outer(h - means[y], h - means[y]) for h, y in zip(test, test_labels, strict=True)) / len(test)
    M = np.stack(means) - features.mean(0)
    sigma_b = sum(np.outer(m, m) * np.mean(labels == c) for c, m in enumerate(M))
    nc1 = np.trace(about @ np.linalg.pinv(sigma_b, rcond=1e-10)) / C
    assert measurement.scalars["test_nc1_train_means"] == pytest.approx(nc1, rel=1e-9)
    own = measure_features(test, test_labels, W, b, 0.1).snr
    assert measurement.test_snr is not None
    assert (measurement.test_snr.dropped, measurement.test_snr.lost_signal) == (
        own.dropped,
        pytest.approx(own.lost_signal, abs=1e-14),
    )
    np.testing.assert_allclose(measurement.test_snr.omega, own.omega, rtol=1e-9)
    assert_same_pairs(measurement.test_snr.U, measurement.test_snr.V, own.U, own.V, own.omega)


def test_the_network_is_left_as_it_was_and_its_running_statistics_untouched() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Sequential(nn.ReLU(), nn.Linear(6, 3, bias=False))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = np.random.default_rng(0)
    data = loader(rng.standard_normal((60, 4)).astype(np.float32), np.repeat(np.arange(3), 20)[rng.permutation(60)])
    kept: dict[str, np.ndarray] = {}
    measure_network(model, data, "2.1", 0.0, keep=lambda H, y: kept.update(H=np.array(H), y=y))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        expected = torch.cat([torch.relu(model[1](model[0](x))) for x, _ in data])
    np.testing.assert_allclose(kept["H"], expected.numpy(), rtol=1e-5, atol=1e-6)  # float32; other batches round otherwise
    np.testing.assert_array_equal(kept["y"], torch.cat([y for _, y in data]).numpy())


def floating_bytes_alive() -> int:
    """Bytes of the distinct storages of every floating-point tensor that anything in this process still holds.

    What has no storage of its own, such as sparse tensors and those that torch's compiler traces with, is left out.
    """
    own = (torch.Tensor, nn.Parameter)
    tensors = [kept for kept in gc.get_objects() if type(kept) in own and kept.is_floating_point()]
    tensors = [kept for kept in tensors if kept.layout is torch.strided]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_no_batch_outlives_its_turn_so_memory_does_not_grow_with_the_examples() -> None:
    features, labels, W, b = problem(2, 0.5, False)

    def alive_after(count: int) -> list[int]:
        rows = []

        def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for _ in range(count):
                yield torch.from_numpy(features.copy()), torch.from_numpy(labels)
            rows.append(floating_bytes_alive())

        measure_network(identity_net(W, b), batches(), "head", 0.1, batches())
        return rows

    alive_after(5)  # what torch makes once and keeps is there before anything is counted
    # strictly less than one batch more, whatever else lives: eight times the examples may not keep even one of them
    assert all(abs(long - short) < features.nbytes for short, long in zip(alive_after(5), alive_after(40), strict=True))


def test_undefined_measures_are_nan_with_their_reason_and_the_rest_is_there() -> None:
    features, labels, W, b = problem(1, 0.5, False)
    measurement = measure_features(features, labels, 0 * W, b, 0.1)
    assert np.isnan(measurement.scalars["nc2_equinorm_w"])
    assert any("nc2_equinorm_w: a vector is zero" in reason for reason in measurement.undefined)
    assert measurement.scalars["nc1"] > 0
    means = np.stack([features[labels == c].mean(0) for c in range(len(W))])
    collapsed = measure_features(means[labels], labels, W, b, 0.1)
    assert np.isnan(collapsed.snr.omega).all()
    assert any("Sigma_W = 0" in reason for reason in collapsed.undefined)


class Wrapped(nn.Module):
    """A network that returns something else than what its last layer gives."""

    def __init__(self, inner: nn.Module, last: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.inner, self.last = inner, last

    def forward(self, x: torch.Tensor) -> object:
        return self.last(self.inner(x))


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (lambda z: (z, None), r"the model returned tuple, logits \(b, C\) are needed: wrap it"),
        (lambda z: {"logits": z}, "the model returned dict"),
        (lambda z: z[:, :1], r"the model returned \(7, 1\), its last linear layer \(7, .\): name the layer"),
        (lambda z: z.softmax(1), "away from the output of its last linear layer: .*no softmax"),
        (lambda z: 2 * z, "no scaling"),
    ],
)
def test_a_model_that_does_not_return_its_last_layer_is_refused(last: Callable[[torch.Tensor], object], message: str) -> None:
    features, labels, W, b = problem(1, 0.5, False)
    with pytest.raises(ValueError, match=message):
        measure_network(Wrapped(identity_net(W, b), last), loader(features, labels), "inner.head", 0.1)


def test_a_model_may_return_its_last_layer_in_another_precision() -> None:
    features, labels, W, b = problem(1, 0.5, False)
    plain = measure_network(identity_net(W, b), loader(features, labels), "head", 0.1)
    cast = measure_network(Wrapped(identity_net(W, b), torch.Tensor.float), loader(features, labels), "inner.head", 0.1)
    assert cast.scalars == plain.scalars


def test_what_cannot_be_measured_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, W, b = problem(1, 0.5, False)
    model, data = identity_net(W, b), loader(features, labels)
    with pytest.raises(ValueError, match="no linear layer called 'fc'; it has: head"):
        measure_network(model, data, "fc", 0.1)
    with pytest.raises(ValueError, match="labels run from"):
        measure_network(model, loader(features, labels + len(W)), "head", 0.1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure_network(model, loader(features * np.inf, labels), "head", 0.1)
    with pytest.raises(ValueError, match="class 0 has no example"):
        measure_network(model, loader(features[labels > 0], labels[labels > 0]), "head", 0.1)
    with pytest.raises(ValueError, match=r"it saw \(7, 1, "):
        measure_network(model, [(x[:, None], y) for x, y in data], "head", 0.1)
    with pytest.raises(ValueError, match=f"cannot keep features in {tmp_path / 'absent'}: No such file .* name a folder"):
        measure_network(model, data, "head", 0.1, scratch=tmp_path / "absent")
    with pytest.raises(ValueError, match="do not fit"):
        measure_features(features, labels, W[:, 1:], b, 0.1)

    class Full:
        def write(self, _: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: Full())
    with FeatureSpool(tmp_path) as spool, pytest.raises(ValueError, match="cannot keep the features for measuring: No space"):
        spool.append(features, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda H, y: (H, y + 0.9, 0.1), "labels have dtype float64: integers"),
        (lambda H, y: (H, y.astype(str), 0.1), "labels have dtype <U21: integers"),
        (lambda H, y: (H, np.where(y == 0, np.nan, y), 0.1), "labels have dtype float64: integers"),
        (lambda H, y: (np.ma.masked_greater(H, 1.0), y, 0.1), "features are a masked array"),
        (lambda H, y: (H, np.ma.masked_equal(y, 2), 0.1), "labels are a masked array"),
        (lambda H, y: (H, y, -1.0), r"lam = -1\.0: lambda is at least 0"),
        (lambda H, y: (H, y, None), "lam = None: lambda is at least 0, or"),
    ],
)
def test_labels_features_and_lambda_that_are_none_are_refused(change: Callable, message: str) -> None:
    rng, labels = np.random.default_rng(0), np.arange(30) % 3
    H, y, lam = change(rng.standard_normal((30, 4)), labels)
    with pytest.raises(ValueError, match=message):
        measure_features(H, y, rng.standard_normal((3, 4)), np.zeros(3), lam)


def test_features_of_another_byte_order_and_labels_as_floats_are_measured() -> None:
    rng, labels = np.random.default_rng(0), np.arange(30) % 3
    H, W = rng.standard_normal((30, 4)), rng.standard_normal((3, 4))
    expected = measure_features(H, labels, W, np.zeros(3), 0.1).scalars
    assert measure_features(H.astype(">f8"), labels.astype(float), W, np.zeros(3), 0.1).scalars == expected
