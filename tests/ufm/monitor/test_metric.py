"""The streaming metric equals a dense float64 oracle however the data is cut, merged, moved or gathered."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ufm.monitor.test_measurement import dense, problem
from ufm.features.statistics import statistics_of
from ufm.monitor import NeuralCollapse
from ufm.monitor.measurement import measure_features


def tensors(seed: int, noise: float, unequal: bool = True, offset: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features, labels, W, b = problem(seed, noise, unequal)
    return tuple(torch.from_numpy(np.asarray(x)) for x in (features + offset, labels, W, b))  # type: ignore[return-value]


def fed(metric: NeuralCollapse, H: Tensor, y: Tensor, W: Tensor, b: Tensor, cuts: list[int]) -> NeuralCollapse:
    for h, t in zip(H.tensor_split(cuts), y.tensor_split(cuts), strict=True):
        metric.update(h, t, classifier=(W, b))
    return metric


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([1.0, 1e-3, 1e-5]), st.sampled_from([0.0, 0.1]), st.data())
def test_every_value_equals_the_dense_oracle_however_the_batches_are_cut(
    seed: int, unequal: bool, noise: float, lam: float, data: st.DataObject
) -> None:
    H, y, W, b = tensors(seed, noise, unequal)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(H)), max_size=4)))
    metric = fed(NeuralCollapse(len(W), lam=lam), H, y, W, b, cuts)
    values = metric.compute()
    expected = dense(H.numpy(), y.numpy(), W.numpy(), b.numpy(), lam)
    for name, value in expected.items():
        scale = expected["loss"] if name.startswith("loss") else 1e-3
        assert values[name] == pytest.approx(value, rel=1e-9, abs=1e-9 * scale), name
    means = np.stack([H[y == c].numpy().mean(0) for c in range(len(W))])
    nearest = [np.argmin([np.linalg.norm(h - m) for m in means]) for h in H.numpy()]
    assert values["ncc_accuracy"] == pytest.approx(np.mean(nearest == y.numpy()))
    assert values["nc0"] == pytest.approx(np.linalg.norm(W.numpy().sum(0)))
    spectrum = np.linalg.svd(H.numpy() - H.numpy().mean(0), compute_uv=False)
    shares = spectrum[spectrum > 0] / spectrum.sum()
    assert values["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert metric.undefined == {}
    assert all(type(value) is float for value in values.values())


def test_blocks_of_rows_merge_where_the_room_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    H, y, W, b = tensors(4, 1e-4)
    whole = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, []).compute()
    monkeypatch.setattr("ufm.monitor.states.MOST", 5)
    pieces = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, [3, 4, 20]).compute()
    assert whole.keys() == pieces.keys()
    for name, value in whole.items():
        assert pieces[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_collapsed_float32_features_far_from_zero_keep_all_digits() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(4), 50))
    features = (30 + rng.standard_normal((4, 9))[labels] + 2e-6 * rng.standard_normal((200, 9))).astype(np.float32)
    exact = statistics_of(features.astype(np.float64), labels, 4)
    metric = NeuralCollapse(4)
    for h, y in zip(torch.from_numpy(features).split(7), torch.from_numpy(labels).split(7), strict=True):
        metric.update(h, y)
    expected = np.trace(np.asarray(exact.sigma_w, float) @ np.linalg.pinv(np.asarray(exact.sigma_b, float), rcond=1e-9)) / 4
    assert metric.compute()["nc1"] == pytest.approx(expected, rel=1e-9)


def test_values_are_those_of_measure_features() -> None:
    H, y, W, b = tensors(7, 0.3)
    values = fed(NeuralCollapse(len(W), lam=0.05), H, y, W, b, [11]).compute()
    measurement = measure_features(H.numpy(), y.numpy(), W.numpy(), b.numpy(), 0.05)
    for name, value in measurement.scalars.items():
        assert values[name] == pytest.approx(value, rel=1e-10, abs=1e-13), name


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-5]), st.booleans())
def test_merging_two_metrics_is_one_metric_of_both(seed: int, noise: float, lazy: bool) -> None:
    H, y, W, b = tensors(seed, noise)
    classes: Any = "seen" if lazy else "all"
    one = fed(NeuralCollapse(len(W), lam=0.1, classes=classes), H, y, W, b, []).compute()
    half = len(H) // 3
    first = fed(NeuralCollapse(len(W), lam=0.1, classes=classes), H[:half], y[:half], W, b, [2])
    first.merge_state(fed(NeuralCollapse(len(W), lam=0.1, classes=classes), H[half:], y[half:], W, b, [5]))
    both = first.compute()
    for name, value in one.items():
        assert both[name] == pytest.approx(value, rel=1e-9, abs=1e-11), name


def test_ignored_labels_count_for_nothing_whatever_their_features_hold() -> None:
    H, y, W, b = tensors(3, 0.5)
    expected = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, []).compute()
    padded = torch.cat([H[:5], torch.full_like(H[:3], float("nan")), H[5:]])
    labels = torch.cat([y[:5], torch.full((3,), -100), y[5:]])
    values = NeuralCollapse(len(W), lam=0.1, ignore_index=-100)
    values.update(padded, labels, classifier=(W, b))
    assert values.compute() == pytest.approx(expected, rel=1e-10, abs=1e-13)


def test_tokens_are_rows_and_a_causal_model_predicts_the_next() -> None:
    H, y, W, b = tensors(5, 0.5, unequal=False)
    T = len(H) // 6
    H, y = H[: 6 * T], y[: 6 * T]
    tokens, labels = H.reshape(6, T, -1), y.reshape(6, T)
    flat = NeuralCollapse(len(W))
    flat.update(tokens[:, :-1].reshape(-1, H.shape[1]), labels[:, 1:].reshape(-1), classifier=(W, b))
    causal = NeuralCollapse(len(W), shift=True)
    causal.update(tokens, labels, classifier=(W, b))
    assert causal.compute() == pytest.approx(flat.compute(), nan_ok=True)


def test_a_vocabulary_keeps_the_classes_seen_alone() -> None:
    H, y, W, _ = tensors(6, 0.4)
    C, vocabulary = len(W), torch.tensor([7, 99_999, 3, 50_000, 12][: len(W)])
    generator = torch.Generator().manual_seed(0)
    wide, bias = torch.randn(100_000, H.shape[1], generator=generator).double(), torch.zeros(100_000)
    metric = NeuralCollapse(100_000, classes="seen", lam=0.1)
    fed(metric, H, vocabulary[y], wide, bias, [9, 30])
    values = metric.compute()
    order = vocabulary.argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(C)
    expected = measure_features(H.numpy(), rank[y].numpy(), wide[vocabulary[order]].numpy(), np.zeros(C), 0.1)
    for name in ("nc1", "nc2_equinorm", "nc2_maxangle", "nc2_maxangle_w", "nc3"):
        assert values[name] == pytest.approx(expected.scalars[name], rel=1e-9), name
    decided = (H @ wide.T).argmax(1)
    assert values["train_error"] == pytest.approx(float((decided != vocabulary[y]).double().mean()))
    assert (values["classes_seen"], values["examples"]) == (C, len(H))
    assert np.isnan(values["loss"])
    assert "have no example, and the loss includes all classes" in metric.undefined["loss_perp"]
    near: Any = metric.near
    assert len(near) == C


def test_fewer_features_than_classes_less_one_are_measured() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(9), 20)
    H = rng.standard_normal((9, 3))[y] + 0.1 * rng.standard_normal((180, 3))
    metric = NeuralCollapse(9)
    metric.update(torch.from_numpy(H), torch.from_numpy(y), classifier=(torch.from_numpy(rng.standard_normal((9, 3))), None))
    values = metric.compute()
    stats = statistics_of(H, y, 9)
    assert values["nc1"] == pytest.approx(np.trace(stats.sigma_w @ np.linalg.inv(stats.sigma_b)) / 9)
    assert set(metric.undefined) == {"loss", "loss_nc1", "loss_nc23", "loss_perp"}


def test_what_is_undefined_is_nan_with_its_reason() -> None:
    H, y, W, b = tensors(2, 0.3)
    missing = NeuralCollapse(len(W) + 1)
    missing.update(H, y)
    assert {name for name, value in missing.compute().items() if not np.isnan(value)} == {
        "effective_rank",
        "examples",
        "classes_seen",
    }
    assert f"class {len(W)} has no example" in missing.undefined["nc1"]
    plain = NeuralCollapse(len(W))
    plain.update(H, y)
    assert np.isfinite(plain.compute()["nc1"])
    assert "no classifier is known" in plain.undefined["nc3"]
    assert plain.compute()["ncc_accuracy"] > 0.9
    unstored = fed(NeuralCollapse(len(W), stored=False), H, y, W, b, [])
    assert np.isnan(unstored.compute()["nc4"])
    assert f"0 of {len(H)} features are stored" in unstored.undefined["nc4"]
    assert "0 of" in unstored.undefined["train_error"]
    zero = fed(NeuralCollapse(len(W), lam=0.1), H, y, 0 * W, b, [])
    zero.compute()
    assert "a vector is zero" in zero.undefined["nc2_equinorm_w"]
    rank_less = fed(NeuralCollapse(len(W), lam=0.1), torch.cat([H, 0 * H], 1), y, torch.cat([W, W], 1), b, [])
    assert set(rank_less.compute()) == set(zero.compute())
    assert rank_less.compute()["dropped"] == H.shape[1]
    for metric in (missing, plain, unstored, zero, rank_less):
        values = metric.compute()
        assert {name for name, value in values.items() if np.isnan(value)} == metric.undefined.keys()


def test_state_dict_pickle_and_copies_go_on_where_it_stood() -> None:
    H, y, W, b = tensors(8, 0.3)
    expected = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, []).compute()
    started = fed(NeuralCollapse(len(W), lam=0.1), H[:9], y[:9], W, b, [])
    restored = NeuralCollapse(len(W), lam=0.1)
    restored.load_state_dict(started.state_dict())
    for metric in (restored, pickle.loads(pickle.dumps(started)), copy.deepcopy(started)):
        metric.update(H[9:], y[9:])
        values = metric.compute()
        for name in expected.keys() - {"nc4", "train_error", "ncc_accuracy"}:
            assert values[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
        assert f"{len(H) - 9} of {len(H)} features are stored" in metric.undefined["nc4"]
    started.update(H[9:], y[9:])
    assert started.compute() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_reset_forgets_everything() -> None:
    H, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W), lam=0.1), 5 * H + 1, y, 2 * W, b, [])
    metric.compute()
    metric.reset()
    fresh = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, []).compute()
    assert fed(metric, H, y, W, b, []).compute() == fresh


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, lambda m: m.to(torch.float16), nn.Module.float])
def test_moments_stay_float64_when_the_network_around_changes_precision(convert: Any) -> None:
    H, y, W, b = tensors(8, 1e-5)
    holder = nn.Module()
    holder.metric = metric = fed(NeuralCollapse(len(W)), H[:20], y[:20], W, b, [])
    convert(holder)
    metric.update(H[20:], y[20:])
    expected = fed(NeuralCollapse(len(W)), H, y, W, b, []).compute()["nc1"]
    assert metric.compute()["nc1"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_float_dtype_is_taken_as_it_is(dtype: torch.dtype) -> None:
    H, y, W, b = tensors(8, 0.3)
    H = H.to(dtype)
    exact = fed(NeuralCollapse(len(W)), H.double(), y, W, b, []).compute()
    values = fed(NeuralCollapse(len(W)), H, y, W, b, [5]).compute()
    for name in ("nc1", "nc3", "nc4", "train_error"):
        assert values[name] == pytest.approx(exact[name], rel=1e-9), name


class NothingAsked(TorchDispatchMode):
    """Fails at every operation that makes a device answer before the program goes on."""

    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "item", "index.Tensor_mask")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(func) for name in self.ASKING), f"{func} asks the device"
        if "aten.index.Tensor" in str(func):
            assert all(index is None or index.dtype is not torch.bool for index in args[1]), "a mask asks the device"
        return func(*args, **(kwargs or {}))


def test_an_update_asks_the_device_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    H, y, W, b = tensors(8, 0.3)
    monkeypatch.setattr("ufm.monitor.states.MOST", 16)  # moments are taken in during the updates
    monkeypatch.setattr("ufm.monitor.metric.refuse", lambda *_: None)  # what a CPU does at once and a GPU in compute
    monkeypatch.setattr("ufm.monitor.inputs.surely_sound", lambda _: False)  # what a CPU alone is asked
    metric = NeuralCollapse(len(W), stored=False, ignore_index=-100)
    with NothingAsked():
        for h, t in zip(H.split(7), y.split(7), strict=True):
            metric.update(h, t, classifier=(W, b))
    assert metric.compute()["nc1"] == pytest.approx(fed(NeuralCollapse(len(W)), H, y, W, b, []).compute()["nc1"], rel=1e-9)
    with pytest.raises(AssertionError, match="asks the device"), NothingAsked():
        bool(H.isnan().any())


def test_faults_of_a_device_are_raised_in_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    H, y, W, _ = tensors(8, 0.3)
    with monkeypatch.context() as patched:
        patched.setattr("ufm.monitor.metric.refuse", lambda *_: None)
        metric = NeuralCollapse(len(W))
        metric.update(torch.cat([H, H[:1] * float("nan")]), torch.cat([y, y[:1]]))
    with pytest.raises(ValueError, match="1 examples have NaN or infinite"):
        metric.compute()


def test_what_cannot_be_taken_in_is_refused_and_nothing_of_it_stays() -> None:
    H, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, [])
    before = metric.compute()
    C, P = W.shape
    for change, message in (
        ((H * float("inf"), y), "NaN or infinite"),
        ((H, y + C), rf"outside of 0..{C - 1} \(they run from {C}"),
        ((H, y - 1), "ignore_index= leaves a label out"),
        ((H[:, 1:], y), f"features of P = {P - 1} cannot be added"),
        ((H, y[1:]), "got shapes"),
        ((H, y.double()), "labels are torch.float64"),
        ((H.long(), y), "features are torch.int64"),
        ((H[:, :0], y), "P = 0: at least one feature is needed"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(*change)
    assert metric.compute() == before
    with pytest.raises(ValueError, match="the classifier is W"):
        NeuralCollapse(C).update(H, y, classifier=(W.T, b))
    refused: Any = NeuralCollapse  # given wrong settings on purpose
    for settings, message in (
        ({}, "at least 2 classes"),
        ({"num_classes": 1}, "at least 2 classes"),
        ({"num_classes": 3, "lam": -1.0}, "lam = -1.0"),
        ({"num_classes": 3, "targets": "both"}, "'classes' or 'regression'"),
        ({"num_classes": 3, "targets": "regression"}, "leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            refused(**settings)
    with pytest.raises(ValueError, match="call compute"):
        _ = NeuralCollapse(3).measurement


@pytest.mark.parametrize("inside", [0, 1])
def test_features_come_from_the_users_inference_mode_and_from_outside_of_it(inside: int) -> None:
    H, y, W, b = tensors(8, 1e-3)
    expected = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, []).compute()
    metric = NeuralCollapse(len(W), lam=0.1)
    for k, part in enumerate((slice(0, 20), slice(20, None))):
        with torch.inference_mode(k == inside):
            metric.update(1 * H[part], y[part], classifier=(1 * W, 1 * b))
    assert metric.compute() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    copy.deepcopy(metric).update(H, y)


def test_values_that_are_no_tensors_are_refused_with_the_way_out() -> None:
    H, y, *_ = tensors(8, 0.3)
    metric: Any = NeuralCollapse(9)
    for batch, message in (
        ((H.numpy(), y), "features are ndarray, a torch tensor is needed: torch.as_tensor makes one"),
        ((H, y.tolist()), "labels are list, a torch tensor is needed"),
    ):
        with pytest.raises(TypeError, match=message):
            metric.update(*batch)
    assert int(metric.counts.sum()) == 0


def test_metrics_of_other_settings_are_not_merged_and_nothing_of_them_stays() -> None:
    H, y, W, b = tensors(8, 0.3)
    C = len(W)
    metric = fed(NeuralCollapse(C), H, y, W, b, [])
    before = metric.compute()
    more = NeuralCollapse(C + 1)
    more.update(H, y)
    targets = NeuralCollapse(targets="regression")
    targets.update(H, H[:, :1])
    seen = NeuralCollapse(C + 9, classes="seen")
    seen.update(H, y + 9)
    for other, message in (
        (more, f"num_classes = {C + 1} cannot be merged into a metric with num_classes = {C}"),
        (targets, "num_classes = None cannot be merged"),
        (more.state_dict(), f"states of {C + 1} classes do not go with a metric of {C}"),
        (NeuralCollapse(C, classes="seen"), "lazy = True cannot be merged"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.merge_state(other)
    with pytest.raises(ValueError, match=f"states of {C + 1} classes"):
        metric.load_state_dict(more.state_dict())
    assert metric.compute() == before
    few = NeuralCollapse(C, classes="seen")
    with pytest.raises(ValueError, match=f"states of class {int(y.max()) + 9} do not go with a metric of {C} classes"):
        few.merge_state(seen.state_dict())


def test_another_classifier_in_the_middle_of_a_pass_is_refused() -> None:
    H, y, W, b = tensors(8, 0.3)
    head = nn.Linear(W.shape[1], W.shape[0]).double()
    metric = NeuralCollapse(len(W), lam=0.1)
    metric.update(H[:9], y[:9], classifier=head)
    metric.update(H[9:], y[9:], classifier=(head.weight.clone(), head.bias.clone()))
    before = metric.compute()
    for other in (W, b):
        with torch.no_grad():
            (head.weight if other is W else head.bias).add_(1)  # a step of training
        with pytest.raises(ValueError, match=r"differs from that of the features before.*call reset\(\) between passes"):
            metric.update(H, y, classifier=head)
    assert metric.compute() == before
    others = fed(NeuralCollapse(len(W)), H, y, W, b, [])
    for states in (others, others.state_dict()):
        with pytest.raises(ValueError, match="differs from that of the features before"):
            metric.merge_state(states)
    assert metric.compute() == before
    metric.reset()
    metric.update(H, y, classifier=(W, None))
    assert metric.compute()["nc0"] == pytest.approx(float(W.sum(0).norm()), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda states: states.pop("near"), "the states lack near: they are of another version or of another metric"),
        (lambda states: states.update(width=3), "the states lack width"),
        (lambda states: states.update(counts=states["counts"].float()), r"the state counts is \(\d+,\) torch.float32, "),
        (lambda states: states.update(rest=states["rest"][:, 1:]), r"the state rest is \(\d+, \d+\) torch.float64, "),
        (lambda states: states.update(faults=states["faults"][:1]), r"the state faults is \(1,\)"),
    ],
)
def test_states_of_another_version_are_refused_and_nothing_of_them_stays(change: Any, message: str) -> None:
    H, y, W, b = tensors(8, 0.3)
    metric = fed(NeuralCollapse(len(W), lam=0.1), H, y, W, b, [])
    before, states = metric.compute(), dict(fed(NeuralCollapse(len(W)), H, y, W, b, []).state_dict())
    change(states)
    for take_in in (metric.merge_state, metric.load_state_dict):
        with pytest.raises(ValueError, match=message):
            take_in(dict(states))
    assert metric.compute() == before


def test_tensors_that_are_not_dense_floats_are_refused_with_the_way_out() -> None:
    H, y, W, _ = tensors(8, 0.3)
    metric, targets = NeuralCollapse(len(W)), NeuralCollapse(targets="regression")
    with pytest.raises(ValueError, match=r"features are torch.sparse_coo, a dense tensor is needed: features.to_dense\(\) makes"):
        metric.update(H.to_sparse(), y)
    with pytest.raises(
        ValueError, match=r"features are torch.float8_e4m3fn, floats are needed: float64, float32, bfloat16, float16"
    ):
        metric.update(H.to(torch.float8_e4m3fn), y)
    with pytest.raises(ValueError, match=r"targets are torch.complex128"):
        targets.update(H, H[:, :2] * 1j)
    for C in (2.5, 3.0, "3"):
        with pytest.raises(ValueError, match=f"num_classes = {C!r}: a whole number is needed"):
            NeuralCollapse(C)  # type: ignore[bad-argument-type]


def test_features_of_regression_are_floats_and_at_least_one() -> None:
    H, *_ = tensors(8, 0.3)
    metric = NeuralCollapse(targets="regression")
    for features, message in ((H[:, :0], "P = 0"), (H.long(), "features are torch.int64, floats are needed")):
        with pytest.raises(ValueError, match=message):
            metric.update(features, H[:, :2])


def test_a_failing_compute_leaves_nothing_gathered() -> None:
    metric = NeuralCollapse(3, dist_sync_fn=lambda value, group: [value, value], distributed_available_fn=lambda: True)
    metric.update(torch.eye(3), torch.arange(3))
    metric.faults += 1
    with pytest.raises(ValueError, match="outside"):
        metric.compute()
    assert not metric._is_synced
