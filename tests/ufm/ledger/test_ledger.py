"""The ledger of networks: the theorem on 200 of them, sums that add up, any user's model, and nothing changed by looking."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from manifolds.class_centering import ClassLayout
from tests.typed import global_state
from tests.ufm.ledger.maps import EPS
from tests.ufm.ledger.networks import Blocks, DataDependent, InPlaceSkip, Remembering, images, vectors
from ufm.features.snr import snr_spectrum
from ufm.features.statistics import statistics_of
from ufm.ledger import ChannelMeans, Ledger, Sketch, ledger, ledger_of_features
from ufm.ledger.discrimination import discrimination


def omega_of(features: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    return discrimination(statistics_of(features.double(), labels, int(labels.max()) + 1), EPS).omega


def whole(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 10))])
def test_the_theorem_holds_in_every_operation_of_200_networks(part: int) -> None:
    """20 networks each: no affine operation raises an omega by 1e-9; with identities nothing does; the gains telescope."""
    for seed in range(20 * part, 20 * part + 20):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        identity = seed % 5 == 0
        activation = nn.Identity if identity else (nn.ReLU, nn.GELU, nn.Tanh)[seed % 3]
        C = int(rng.integers(2, 5))
        result = ledger(Blocks(rng, C, activation).double(), images(rng, C, 160))
        worst = result.violations()
        assert result.seen == "torch.fx"
        assert np.nanmax(worst) <= 1e-9, (seed, result.operations[int(np.nanargmax(worst))])
        assert sum(affine is True for affine in result.affine) >= 7
        if identity:
            assert all(result.affine)
            assert np.nanmax(result.gain) <= 1e-9
        finite = np.isfinite(result.gain).all(0)  # a layer of fewer units than contrasts has omega 0
        assert finite.any()
        total = np.log(result.omega[-1, finite]) - np.log(result.omega[0, finite])
        np.testing.assert_allclose(result.gain.sum(0)[finite], total, atol=1e-12)


def test_rows_are_the_snr_of_the_state_after_each_operation() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    batches = vectors()
    x, y = whole(batches)
    result = ledger(net, batches)
    assert result.operations == ("0", "1", "2", "3")
    assert result.kinds == ("Linear", "BatchNorm1d", "ReLU", "Linear")
    assert result.affine == (True, True, False, True)
    assert result.omega.shape == (5, 2)
    order = torch.argsort(y, stable=True)
    for k in range(5):
        H = net[:k](x)[order].detach().numpy().T
        if k < 4:
            expected = snr_spectrum(H, ClassLayout(tuple(np.bincount(y).tolist()))).omega
            np.testing.assert_allclose(result.omega[k], expected[:2], rtol=1e-8)
    np.testing.assert_allclose(result.gain, np.diff(np.log(result.omega), axis=0))
    assert result.gains("corrected").shape == (4, 2)
    interval = result.mean_gain_interval()
    assert (interval[:, 0] <= result.mean_gain()).all()
    assert (result.mean_gain() <= interval[:, 1]).all()


def test_the_state_inside_a_residual_block_is_the_pair() -> None:
    torch.manual_seed(1)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 4)
            self.outer = nn.Linear(4, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.outer(torch.relu(self.inner(x)))

    net, batches = Block().double(), vectors()
    x, y = whole(batches)
    result = ledger(net, batches)
    hidden = torch.relu(net.inner(x))
    assert result.operations == ("inner", "relu", "outer", "add")
    pair = omega_of(torch.cat([x, hidden], 1).detach(), y)
    np.testing.assert_allclose(result.omega[2], pair, rtol=1e-8)
    np.testing.assert_allclose(result.omega[1], result.omega[0], rtol=1e-8)  # the skip still holds all of it
    assert result.features.tolist() == [6, 10, 10, 12, 6]
    assert result.affine == (True, False, True, True)


SPELLINGS: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (
    lambda h, x: h.flatten(1),
    lambda h, x: h.reshape(x.shape[0], -1),
    lambda h, x: h.view(x.size(0), -1),
    lambda h, x: h.flatten(1).to(x.device, x.dtype).flatten(x.dim() - 3),
    lambda h, x: h.flatten(1) + torch.zeros(1, dtype=x.dtype).to(x.device),
)


@pytest.mark.parametrize("spelling", range(1, len(SPELLINGS)))
def test_to_read_the_shape_of_the_input_late_does_not_make_it_a_part_of_the_state(spelling: int) -> None:
    class Late(nn.Module):
        def __init__(self, spelling: int) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.conv, self.head, self.spelling = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, 3), SPELLINGS[spelling]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.spelling(torch.relu(self.conv(x)), x))

    batches = images(np.random.default_rng(4), 3, 160)
    plain, late = (ledger(Late(k).double(), batches) for k in (0, spelling))
    rows = [0, 1, 2, -1]  # the input, conv, relu, head: the operations that all spellings have
    for name in ("features", "omega", "corrected", "held_out"):
        np.testing.assert_array_equal(getattr(late, name)[rows], getattr(plain, name)[rows])
    assert late.features[2] == 32


def test_zeros_that_are_written_to_in_place_are_a_part_of_the_state() -> None:
    class Written(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.zeros_like(x)
            h.add_(x.tanh())
            return h * 2

    result, (x, y) = ledger(Written(), vectors()), whole(vectors())
    np.testing.assert_allclose(result.omega[-2:], [omega_of(x.tanh(), y)] * 2, rtol=1e-8)


def test_an_in_place_operation_on_a_skip_is_seen_as_it_acts() -> None:
    torch.manual_seed(2)
    net, batches = InPlaceSkip().double(), vectors()
    x, y = whole(batches)
    result = ledger(net, batches)
    after = torch.relu(net.first(x)).detach()
    np.testing.assert_allclose(result.omega[result.operations.index("act") + 1], omega_of(after, y), rtol=1e-8)
    assert result.omega[-1] == pytest.approx(omega_of(net(x).detach(), y), rel=1e-6)
    assert np.nanmax(result.violations()) <= 1e-9


def test_nothing_of_the_callers_changes() -> None:
    torch.manual_seed(3)
    net, batches = Remembering().double(), vectors()
    net.train()
    net.drop.eval()
    x, y = whole(batches)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=17, shuffle=True)
    calls: list[int] = []
    handle = net.layer.register_forward_hook(lambda *_: calls.append(1))
    states = torch.get_rng_state(), random.getstate(), global_state()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    result = ledger(net, loader)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (global_state() == states[2]).all()
    assert (net.training, net.drop.training, net.layer.training) == (True, False, True)
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert list(net.layer._forward_hooks) == [handle.id]
    assert not net.head._forward_hooks
    assert all(isinstance(call, int) for call in calls)
    assert net.last is None or isinstance(net.last, torch.Tensor)
    assert "layer (call 2)" in result.operations
    again = ledger(net, batches)
    np.testing.assert_allclose(result.omega, again.omega, rtol=1e-8)


class Counting(nn.Module):
    """Counts its calls in buffers, in place and by another tensor, in evaluation mode too."""

    calls: torch.Tensor
    times: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("times", torch.zeros(()))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.times = self.times + 1
        return self.head(x)


@pytest.mark.parametrize("hooked", [False, True], ids=["traced through", "one operation"])
def test_buffers_that_a_forward_changes_are_as_before(hooked: bool) -> None:
    counting = Counting().double()
    counting.register_buffer("still", torch.zeros(()).expand(3))  # cannot be written to
    if hooked:
        counting.register_forward_hook(lambda *_: None)
    before = dict(counting.named_buffers())
    ledger(nn.Sequential(counting, nn.ReLU()), vectors())
    assert all(value is before[name] and not value.any() for name, value in counting.named_buffers())


class TwoInputs(nn.Module):
    """Needs two tensors; or one and an optional second."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.head(x + z)


class OptionalInput(TwoInputs):
    """Takes a second tensor if there is one."""

    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(x if z is None else x + z)


def test_a_model_of_two_inputs_is_refused_by_their_names() -> None:
    with pytest.raises(ValueError, match=r"forward needs 2 arguments \(x, z\): pairs .* one tensor of inputs"):
        ledger(TwoInputs().double(), vectors())
    assert ledger(OptionalInput().double(), vectors()).operations[-1] == "head"


def test_models_that_torch_fx_cannot_trace_are_seen_by_hooks_and_say_so() -> None:
    torch.manual_seed(5)
    net, batches = DataDependent().double(), vectors()
    result = ledger(net, batches)
    assert result.seen == "hooks"
    assert "activations, pooling, sums) are counted with the module that follows" in result.note
    assert result.operations == ("first", "second")
    assert result.kinds == ("Linear ?", "Linear ?")
    assert result.affine == (None, None)
    assert not net.first._forward_hooks
    x, y = whole(batches)
    np.testing.assert_allclose(result.omega[1], omega_of(net.first(x).detach(), y), rtol=1e-8)
    assert result.note in result.table()


def test_a_model_with_hooks_of_its_own_is_run_with_them() -> None:
    net, batches = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double(), vectors()
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 3,))
    assert ledger(net, batches).seen == "hooks"


def test_labels_may_be_any_integers_in_any_order_and_classes_of_any_size() -> None:
    torch.manual_seed(6)
    net, batches = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 9)).double(), vectors()
    plain = ledger(net, batches)
    renamed = [(x, torch.tensor([40, -3, 7])[y]) for x, y in reversed(batches)]
    result = ledger(net, renamed)
    assert result.classes.tolist() == [-3, 7, 40]
    np.testing.assert_allclose(result.omega, plain.omega, rtol=1e-8)


def test_float32_networks_keep_the_theorem_to_their_precision() -> None:
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 20), nn.BatchNorm1d(20), nn.Linear(20, 4))
    result = ledger(net, [(x + 100, y) for x, y in vectors(dtype=torch.float32)])
    assert result.ranks.tolist()[:2] == [6, 6]
    assert result.dropped[1] == 6
    assert np.nanmax(result.violations()) < 1e-3


def test_a_network_that_knows_its_classes_by_heart_has_infinite_rows() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, torch.sign(x[:, :1])], 1)

    y = torch.arange(80) % 2
    x = torch.randn(80, 3).double()
    x[:, 0] = (2.0 * y - 1) * (1 + x[:, 0].abs())
    result = ledger(Constant(), [(x, y)])
    assert np.isinf(result.omega[-1]).all()
    assert np.isinf(result.held_out[-1]).all()
    assert np.isinf(result.gain[result.omega[1:, 0] == np.inf][0]).all()
    assert isinstance(result.table(), str)


def test_too_few_examples_give_no_estimate_and_say_why() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    result = ledger(net, images(np.random.default_rng(0), 3, 18))
    assert np.isnan(result.held_out[0]).all()
    assert np.isfinite(result.held_out[-1]).all()
    assert "too few data" in result.table()
    assert "n - C = 15" in result.table() or "15 degrees" in result.table()


def test_a_row_without_a_geometric_mean_has_a_dash_and_a_reason() -> None:
    torch.manual_seed(11)
    y = torch.arange(150) % 3
    x = torch.randn(150, 8).double()
    x[:, 0] += 3 * (y == 1)  # one contrast has a signal, the other has none
    result = ledger(nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 1)).double(), [(x, y)])
    assert (result.held_out[:2, 1] == 0).all()
    rows, lines = result.rows(), result.table().splitlines()
    assert "held out: 1 of 2 omega_j estimated as 0: noise" in rows[0]["reason"]
    assert rows[2]["reason"] == "2 contrasts in 1 directions: 1 omega_j are 0, and no geometric mean is defined"
    assert lines[2].split()[-1] == "-"
    assert lines[3].split()[-2:] == ["-", "-"]
    assert all(row["reason"] in lines for row in rows)
    one = ledger_of_features({"x": x.numpy(), "y": np.c_[x.numpy(), y.numpy()]}, y.numpy())
    assert one.rows()[1]["reason"].startswith("omega is infinite along")


def test_directions_of_single_examples_are_set_aside_counted_and_change_nothing_else() -> None:
    torch.manual_seed(10)
    x, y = whole(vectors())
    alone = torch.zeros(120, 2).double()
    alone[7, 0], alone[11, 1] = 3.0, -2.0
    extended = torch.cat([x, alone], 1)
    order = torch.randperm(120)
    batches = [(extended[order[k : k + 50]], y[order[k : k + 50]]) for k in range(0, 120, 50)]
    net = nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    result = ledger(net, batches)
    assert result.set_aside.tolist() == [2, 2, 0, 0]
    assert result.ranks.tolist() == [8, 8, 9, 3]
    assert np.isfinite(result.held_out).all()
    keep = torch.ones(120, dtype=torch.bool)
    keep[[7, 11]] = False
    plain = ledger(nn.Sequential(nn.Linear(6, 3)).double(), [(x[keep], y[keep])])
    np.testing.assert_allclose(result.held_out[0], plain.held_out[0], rtol=0.05)
    np.testing.assert_allclose(result.omega[0], omega_of(extended, y), rtol=1e-8)
    columns = ledger_of_features({"x": extended.numpy(), "half": extended[:, :4].numpy()}, y.numpy())
    np.testing.assert_allclose(columns.held_out[0], result.held_out[0], rtol=1e-6)
    assert columns.operations == ("half",)
    assert columns.set_aside.tolist() == [2, 0]


def test_stored_features_are_refused_where_they_do_not_fit() -> None:
    with pytest.raises(ValueError, match="an input and at least one"):
        ledger_of_features({"x": np.ones((4, 2))}, np.arange(4) % 2)
    with pytest.raises(ValueError, match="there are 4 labels"):
        ledger_of_features({"x": np.ones((4, 2)), "y": np.ones((3, 2))}, np.arange(4) % 2)


@pytest.mark.parametrize("reduction", [Sketch(24), ChannelMeans(24)])
def test_reduced_states_give_lower_bounds_and_are_marked(reduction: Sketch | ChannelMeans) -> None:
    rng = np.random.default_rng(8)
    torch.manual_seed(8)
    batches = images(rng, 3, 400, side=6)
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(8, 3)).double()
    exact, result = ledger(net, batches), ledger(net, batches, reduction)
    assert result.reduced.tolist() == [True, True, True, False, False, False]
    assert (result.omega <= exact.omega * (1 + 1e-9)).all()
    assert (result.omega[:2] < exact.omega[:2]).all()
    np.testing.assert_allclose(result.omega[3:], exact.omega[3:], rtol=1e-8)
    assert np.isnan(result.violations()[:3]).all()
    assert (result.shortfall[3:] == 0).all()
    assert result.shortfall[0] > 0 if isinstance(reduction, Sketch) else np.isnan(result.shortfall[0])
    told = f"half as many features would divide it by {np.exp(result.shortfall.max()):.3g} at most"
    assert (told in result.table()) == isinstance(reduction, Sketch)
    assert "lower bound" in result.table()


def test_the_share_that_a_sketch_keeps_of_an_even_signal_is_k_over_P() -> None:
    """Isotropic deviations, a signal spread over P features: omega^2 of a sketch of k is Beta(k/2, (P-k)/2) of the whole."""
    rng, P, k = np.random.default_rng(9), 600, 60
    shares = []
    for seed in range(40):
        direction = rng.standard_normal(P)
        view = Sketch(k, seed)([torch.from_numpy(np.stack([direction, -direction]))]).numpy()
        shares.append(((view[0] - view[1]) ** 2).sum() / 4 / (direction @ direction))
        assert view.shape == (2, k)
    assert np.mean(shares) == pytest.approx(k / P, rel=0.15)
    assert np.std(shares) == pytest.approx(np.sqrt(2 * k / P * (1 - k / P) / (P + 2)), rel=0.5)


def test_loaders_that_cannot_serve_are_refused() -> None:
    net, batches = nn.Sequential(nn.Linear(6, 3)).double(), vectors()
    with pytest.raises(ValueError, match="read only once"):
        ledger(net, iter(batches))
    with pytest.raises(ValueError, match="at least 2 are needed"):
        ledger(net, [(x, y * 0) for x, y in batches])
    with pytest.raises(ValueError, match="integers are needed"):
        ledger(net, [(x, y.double()) for x, y in batches])
    with pytest.raises(ValueError, match=r"labels have shape \(50, 3\): integers \(n,\) .*argmax"):
        ledger(net, [(x, nn.functional.one_hot(y, 3)) for x, y in batches])
    with pytest.raises(ValueError, match=r"labels have shape \(50, 1\)"):
        ledger(net, [(x, y[:, None]) for x, y in batches])

    class Augmented:
        def __iter__(self):
            return iter([(x + torch.randn_like(x), y) for x, y in batches])

    net.train()
    with pytest.raises(ValueError, match="without random augmentation"):
        ledger(net, Augmented())
    assert net.training
    with pytest.raises(ValueError, match="no axis has the examples"):
        ledger(nn.Sequential(nn.Linear(6, 3), Averaged()).double(), batches)


def test_batches_of_other_kinds_are_refused_in_words_and_empty_ones_are_left_out() -> None:
    net, batches = nn.Sequential(nn.Linear(6, 3)).double(), vectors()
    unusual_kinds: tuple[Any, ...] = (
        [{"x": x, "y": y} for x, y in batches],
        [({"x": x}, y) for x, y in batches],
        [((x, x), y) for x, y in batches],
    )
    for unusual in unusual_kinds:
        with pytest.raises(ValueError, match=r"is a dict: pairs|are a (dict|tuple): pairs \(inputs, labels\)"):
            ledger(net, unusual)
    with pytest.raises(ValueError, match="input has no floating-point features"):
        ledger(
            nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(12, 3)), [(torch.randint(9, (30, 2)), torch.arange(30) % 3)]
        )
    x, y = batches[0]
    for place in (0, 1, len(batches)):
        with_empty = [*batches[:place], (x[:0], y[:0]), *batches[place:]]
        np.testing.assert_array_equal(ledger(net, with_empty).omega, ledger(net, batches).omega)


class InPlaceInput(nn.Module):
    """Changes the tensor that it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2).relu_()


def test_a_model_that_changes_its_input_does_not_change_the_data() -> None:
    batches = vectors()
    copies = [x.clone() for x, _ in batches]
    result = ledger(InPlaceInput(), batches)
    assert all(torch.equal(x, copy) for (x, _), copy in zip(batches, copies, strict=True))
    np.testing.assert_allclose(result.omega[0], omega_of(*whole(batches)), rtol=1e-8)


class Averaged(nn.Module):
    """The mean over the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0)


def test_an_interrupt_is_not_swallowed_and_leaves_the_model_as_it_was() -> None:
    net, batches = nn.Sequential(nn.Linear(6, 3)).double().train(), vectors()

    class Stopped:
        def __init__(self) -> None:
            self.reads = 0

        def __iter__(self):
            self.reads += 1
            if self.reads > 2:
                raise KeyboardInterrupt
            return iter(batches)

    with pytest.raises(KeyboardInterrupt):
        ledger(net, Stopped())
    assert net.training


def test_unknown_estimates_are_refused() -> None:
    result: Ledger = ledger(nn.Sequential(nn.Linear(6, 3)).double(), vectors())
    with pytest.raises(ValueError, match="it is one of omega, corrected, held_out"):
        result.level("best")
    with pytest.raises(ValueError, match="the in-sample gain is what it is"):
        result.mean_gain_interval("omega")
    assert len(result.rows()) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_channel_means_on_the_cpu_of_a_network_on_a_gpu() -> None:
    torch.manual_seed(9)
    batches = images(np.random.default_rng(9), 3, 200, side=6)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(16, 3)).double()
    known = ledger(net, batches, ChannelMeans(24, always=True))
    result = ledger(net.cuda(), batches, ChannelMeans(24, always=True, on_cpu=True))
    np.testing.assert_allclose(result.omega, known.omega, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(result.held_out, known.held_out, rtol=1e-8, atol=1e-9)
