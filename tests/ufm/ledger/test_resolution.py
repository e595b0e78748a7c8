"""What rounding hides is neither a finite nor an infinite SNR: no linear operation of stored numbers makes one of the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ufm.arrays import as_numpy
from ufm.features.statistics import statistics_of
from ufm.ledger import ChannelMeans, ledger
from ufm.ledger.discrimination import Discrimination, discrimination
from ufm.ledger.rounding import raised_by_rounding, rounding_of_readouts, unresolved_by_later_rows
from ufm.ledger.tracing import GraphTrace

CLASSES = 4


def orthogonal(P: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(P, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def layer(singular_values: Tensor, dtype: torch.dtype, bias: float = 0.0, seed: int = 1) -> nn.Linear:
    """A linear layer with those singular values in random coordinates, all offsets the same."""
    P = len(singular_values)
    linear = nn.Linear(P, P).to(dtype)
    linear.weight.data = (orthogonal(P, seed) * singular_values @ orthogonal(P, seed + 1).T).to(dtype)
    nn.init.constant_(linear.bias, bias)
    return linear


def examples(
    P: int, n: int, dtype: torch.dtype, distance: float = 1.5, mean: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    centres = distance * torch.randn(CLASSES, P, generator=generator, dtype=torch.float64)
    return (torch.randn(n, P, generator=generator, dtype=torch.float64) + centres[y] + mean).to(dtype), y


def form(features: Tensor, y: Tensor, below: float = 0.0) -> Discrimination:
    return discrimination(statistics_of(features.double(), y, CLASSES), torch.finfo(features.dtype).eps, below)


def form_unless_hidden(features: Tensor, y: Tensor, below: float) -> Discrimination | None:
    """None where every direction is refused."""
    try:
        return form(features, y, below)
    except ValueError as error:
        if "Sigma_W" not in str(error):
            raise
        return None


def run(linear: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return linear(x)


def largest_with_rounding(omega: np.ndarray, after: Discrimination, error: Tensor, y: Tensor) -> np.ndarray:
    """What the theorem allows for A Z + `error` (n, P), error and all: omega (1 + rho) + rho_M.

    For a functional of the directions measured, of deviation 1 after, |w^T M' x| <= omega sigma + |w^T E_M x| and
    sigma <= 1 + rho, rho the deviation of the whitened error within classes, rho_M the norm of its class means.
    """
    of_error = statistics_of(error, y, CLASSES)
    T = as_numpy(after.whitener)
    rho = np.linalg.norm(T.T @ as_numpy(of_error.sigma_w) @ T, 2) ** 0.5
    assert rho < 0.5, "a direction that rounding makes was measured"
    return omega * (1 + rho) + np.linalg.norm(T.T @ as_numpy(of_error.centred_means), 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [0.0, 1e3])
@pytest.mark.parametrize("alone", [False, True], ids=["in a network", "alone"])
def test_a_linear_layer_that_nearly_loses_a_direction_makes_no_infinity(dtype: torch.dtype, mean: float, alone: bool) -> None:
    """One singular value of the weight sweeps through the limit of rounding. The state after it says so even by itself."""
    x, y = examples(16, 400, dtype)
    before = form(x, y)
    hidden = 0
    for s in 10.0 ** np.arange(-1, -17, -0.25):
        values = torch.ones(16, dtype=torch.float64)
        values[-1] = s
        after = form(run(layer(values, dtype, mean), x), y, 0.0 if alone else before.largest)
        assert np.isfinite(after.omega).all(), f"s = {s:.1e}"
        # a variance just over the limit is P times its rounding
        assert (after.omega <= before.omega * (1 + 1 / 32)).all(), f"s = {s:.1e}"
        assert after.rank + after.unresolved <= 16
        hidden += after.unresolved
    assert hidden > 0, "the sweep never met the limit"


@st.composite
def linear_operations(draw: st.DrawFn) -> tuple[Tensor, Tensor, nn.Linear]:
    """float32 examples of any conditioning and mean, and a layer of any conditioning and offset."""
    P, seed = draw(st.integers(2, 12)), draw(st.integers(0, 10**6))
    distance = 10.0 ** draw(st.floats(-1, 3))
    x, y = examples(P, 40 * CLASSES, torch.float64, distance, seed=seed)
    uneven = 10.0 ** -torch.linspace(0, draw(st.floats(0, 3)), P, dtype=torch.float64)
    x = (x * uneven) @ orthogonal(P, seed + 2) + draw(st.sampled_from([0.0, 1.0, 30.0]))
    lost = 10.0 ** -torch.linspace(0, draw(st.floats(0, 12)), P, dtype=torch.float64)
    return x.float(), y, layer(lost, torch.float32, draw(st.sampled_from([0.0, 1.0, 1e3])), seed + 3)


@given(linear_operations())
def test_no_linear_operation_of_float32_raises_omega_beyond_its_rounding(operation: tuple[Tensor, Tensor, nn.Linear]) -> None:
    x, y, linear = operation
    before = form(x, y)
    if before.dropped:  # then omega before is that of fewer directions than the operation has
        return
    out = run(linear, x)
    exact = x.double() @ linear.weight.double().T + linear.bias.double()
    after = form_unless_hidden(out, y, before.largest)
    if after is None:
        return
    assert np.isfinite(after.omega).all()
    assert (after.omega <= largest_with_rounding(before.omega, after, out - exact.detach(), y) * (1 + 1e-6)).all()


@given(linear_operations(), st.integers(1, CLASSES - 1))
def test_no_linear_operation_of_float32_makes_more_infinities(
    operation: tuple[Tensor, Tensor, nn.Linear], collapsed: int
) -> None:
    """Features beside those of `operation` that tell some classes apart without any variability."""
    x, y, linear = operation
    P = x.shape[1]
    before = form(torch.cat([x, torch.eye(CLASSES)[y][:, :collapsed]], 1), y)
    if before.dropped != collapsed:
        return
    assert np.isinf(before.omega).sum() == collapsed
    mixed = nn.Linear(P + collapsed, P)
    mixed.weight.data = torch.cat([linear.weight.data, linear.weight.data[:, :1].expand(P, collapsed)], 1)
    mixed.bias = linear.bias
    after = form_unless_hidden(run(mixed, torch.cat([x, torch.eye(CLASSES)[y][:, :collapsed]], 1)), y, before.largest)
    if after is None:
        return
    assert np.isinf(after.omega).sum() <= collapsed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collapsed_directions_stay_infinite_in_whatever_coordinates(dtype: torch.dtype) -> None:
    """Features that tell class 0 from the others without variability, alone, turned and scaled by a layer, under far means."""
    x, y = examples(6, 200, dtype)
    one_hot = torch.eye(CLASSES, dtype=dtype)[y][:, :1]
    for mean in (0.0, 10.0):
        Z = torch.cat([x, one_hot], 1) + mean
        before = form(Z, y)
        assert np.isinf(before.omega).tolist() == [True, False, False]
        assert before.unresolved == 0
        for low in (1.0, 1e-2):
            turned = run(layer(torch.linspace(1, low, 7, dtype=torch.float64), dtype, mean), Z)
            after = form(turned, y, before.largest)
            assert np.isinf(after.omega).tolist() == [True, False, False]
            np.testing.assert_allclose(after.omega[1:], before.omega[1:], rtol=1e-3)


def test_constant_features_do_not_hide_a_collapsed_one() -> None:
    """A feature that tells class 0 from the others by 20 times its limit, beside 400 that are the same for all examples."""
    x, y = examples(2, 400, torch.float32, distance=0.0)
    gap = 20 * (403**0.5 * 2.0**-23)
    told = form(torch.cat([x, torch.ones(len(y), 400), 1 + gap * (y == 0).float()[:, None]], 1), y)
    assert np.isinf(told.omega).tolist() == [True, False, False]
    assert told.unresolved == 0


def test_an_activation_can_make_an_infinity() -> None:
    """The rule must not forbid what a nonlinearity does: two units that saturate for every example, in float32."""
    x, y = examples(4, 400, torch.float32, distance=0.0)
    x = x.clamp(-2, 2)
    x[:, :2] += 5 * (2 * torch.stack([y // 2, y % 2], 1).float() - 1)
    same = nn.Linear(4, 4)
    same.weight.data, same.bias.data = torch.eye(4), torch.zeros(4)
    result = ledger(nn.Sequential(same, nn.Hardtanh(), nn.Linear(4, 4)), [(x, y)])
    assert np.isfinite(result.omega[:2]).all()
    assert np.isinf(result.omega[2:]).tolist() == [[True, True, False], [True, True, False]]
    assert result.unresolved.tolist() == [0, 0, 0, 0]


def hidden_by_an_offset() -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Class means 100 units of the last place apart and deviations of a tenth: omega is finite, what is stored has none."""
    x, y = examples(2, 400, torch.float32)
    x[:, 1] = torch.arange(CLASSES)[y] * 100 + 0.1 * x[:, 0].roll(3).clamp(-2, 2)
    linear = nn.Linear(2, 2)
    linear.weight.data = torch.diag(torch.tensor([1.0, 2.0**-23]))
    linear.bias.data = torch.tensor([0.0, 1.5])
    return nn.Sequential(linear, nn.ReLU(), nn.Linear(2, 2)), [(x, y)]


def test_what_an_operation_rounded_away_stays_unknown_until_something_is_known() -> None:
    """The stored feature is the same for all examples of a class, and its signal may still be one of a finite omega below."""
    net, batches = hidden_by_an_offset()
    stored = run(net[:1], batches[0][0])[:, 1]
    assert all(len(stored[batches[0][1] == c].unique()) == 1 for c in range(CLASSES))
    result = ledger(net, batches)
    assert result.unresolved.tolist() == [0, 1, 1, 1]
    assert np.isfinite(result.omega).all()
    assert result.omega[0, 0] > 500 > 5 > result.omega[1, 0]
    assert "lower bound" in result.table()
    assert [row["unresolved"] for row in result.rows()] == [0, 1, 1, 1]


def test_rows_after_one_that_is_not_resolved_are_not_held_against_the_theorem() -> None:
    """A layer that makes the hidden direction large again gains: omega before it was a lower bound."""
    values = torch.ones(8, dtype=torch.float64)
    values[-1] = 1.3e-6
    x, y = examples(8, 400, torch.float32)
    small, large = layer(values, torch.float32), nn.Linear(8, 8)
    large.weight.data = torch.linalg.inv(small.weight.data.double()).float()
    result = ledger(nn.Sequential(small, large), [(x, y)])
    assert result.unresolved.tolist() == [0, 1, 0]
    assert result.omega[2, -1] > result.omega[1, -1]
    told = replace(result, affine=(True, True))  # the probe may find such a layer too ill-conditioned to tell
    assert np.isnan(told.violations()[1])
    assert told.violations()[0] < 1e-3
    assert replace(told, unresolved=np.zeros(3, dtype=int)).violations()[1] > 1e-3


def scaled_into_an_offset(P: int, scale: float) -> tuple[nn.Linear, nn.Linear]:
    """A layer that makes feature 1 small and adds 1.5 to it, and one that takes the 1.5 out again and makes it large: exact."""
    small, large = nn.Linear(P, P), nn.Linear(P, P)
    for linear, factor, offset in ((small, scale, 1.5), (large, 1 / scale, -1.5 / scale)):
        linear.weight.data, linear.bias.data = torch.eye(P), torch.zeros(P)
        linear.weight.data[1, 1], linear.bias.data[1] = factor, offset
    return small, large


@pytest.mark.parametrize("P", [2, 4, 16, 64])
@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("then", [nn.Identity, nn.ReLU])
def test_an_offset_that_is_taken_out_again_makes_no_infinity(P: int, steps: int, then: type[nn.Module]) -> None:
    """Class means a few units of the last place of the offset apart: what scatter there was is rounded away for good."""
    x, y = examples(P, 400, torch.float32)
    x[:, 1] = torch.arange(CLASSES)[y] * float(steps) + 0.001 * x[:, 0].roll(3).clamp(-2, 2)
    torch.manual_seed(P)
    small, large = scaled_into_an_offset(P, 2.0**-23)
    result = ledger(nn.Sequential(small, large, then(), nn.Linear(P, P)), [(x, y)])
    assert len(run(small, x)[:, 1].unique()) == CLASSES, "scatter survived"
    assert np.isfinite(result.omega).all()
    assert (result.unresolved[2:4] == 1).all()  # after the first layer not even the signal is above the limit, for some P


def test_an_activation_makes_an_infinity_beside_an_unresolved_direction() -> None:
    """Feature 2 tells class 0 apart and saturates for every example: collapse. What feature 1 told was rounded away: unknown."""
    x, y = examples(4, 400, torch.float32, distance=0.0)
    x = x.clamp(-2, 2)
    x[:, 1] = (y == 1) * 60.0 + 0.001 * x[:, 1]
    x[:, 2] += 5 * (2 * (y == 0).float() - 1)
    small, large = scaled_into_an_offset(4, 2.0**-23)
    result = ledger(nn.Sequential(small, nn.Hardtanh(-1, 2), large), [(x, y)])
    assert np.isinf(result.omega).sum(1).tolist() == [0, 0, 1, 1]
    assert result.unresolved.tolist() == [0, 1, 1, 1]
    assert np.isfinite(result.omega[2:, 1:]).all()


@pytest.mark.parametrize("channels", [False, True])
def test_a_direction_that_comes_back_marks_the_rows_that_it_was_lost_in(channels: bool) -> None:
    """Its signal and its scatter are below the limit: only what a later layer makes of them says that they were there."""
    x, y = examples(16, 400, torch.float32, distance=0.7)
    small, large = scaled_into_an_offset(16, 2.0**-22)
    if channels:
        x = x[:, :, None, None].expand(-1, -1, 2, 2)
        result = ledger(nn.Sequential(conv_of(small), conv_of(large)), [(x, y)], ChannelMeans(always=True))
    else:
        result = ledger(nn.Sequential(small, large), [(x, y)])
    assert result.affine == (True, True)
    assert result.ranks.tolist() == [16, 15, 16]
    assert (result.omega[1] < 0.99 * result.omega[2]).any()
    np.testing.assert_allclose(result.omega[2], result.omega[0], rtol=0.05)
    assert result.unresolved[[0, 2]].tolist() == [0, 0]
    assert result.unresolved[1] == 1


def conv_of(linear: nn.Linear) -> nn.Conv2d:
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
    conv.weight.data, conv.bias = linear.weight.data[:, :, None, None], linear.bias
    return conv


@pytest.mark.parametrize(("P", "mean"), [(16, 0.0), (16, 1e3), (8, 1e2), (64, 1e3)])
def test_a_chain_of_linear_layers_gains_nowhere_but_after_a_marked_row(P: int, mean: float) -> None:
    torch.manual_seed(P)
    x, y = examples(P, 400, torch.float32, mean=mean)
    result = ledger(nn.Sequential(*[nn.Linear(P, P) for _ in range(12)]), [(x, y)])
    assert np.isfinite(result.omega).all()
    assert np.nanmax(result.violations()) < 2.0**-11.5
    assert np.isfinite(result.violations()).any()


@given(linear_operations())
def test_rounding_raises_no_omega_by_more_than_it_is_said_to(operation: tuple[Tensor, Tensor, nn.Linear]) -> None:
    """With the exact error, without what storing is said to add: the inequality of `ufm.ledger.rounding` is a theorem."""
    x, y, linear = operation
    before, out = form(x, y), run(linear, x)
    after = form_unless_hidden(out, y, before.largest)
    if before.dropped or after is None:
        return
    error = as_numpy(out - (x.double() @ linear.weight.double().T + linear.bias.double()).detach())
    stats = statistics_of(out.double(), y, CLASSES)
    rho = rounding_of_readouts(after, stats, error.T @ error / len(y), precision=0.0)
    room = (1 + rho) * before.omega + CLASSES**0.5 * rho
    assert (after.omega <= room * (1 + 1e-6)).all()
    assert (rho <= rounding_of_readouts(after, stats, error.T @ error / len(y), precision=2.0**-23)).all()


def test_a_gain_is_put_down_to_rounding_only_where_rounding_can_make_it() -> None:
    before, counts = np.array([9.0, 2.0, 1.0, 0.0]), np.array([30, 30])
    after, rho = np.array([9.08, 2.3, 1.005, 0.01]), np.array([0.01, 0.1, 0.01, 0.01])
    assert raised_by_rounding(before, after, rho, counts, 0.01).tolist() == [False, True, False, True]
    assert raised_by_rounding(before, after, rho, counts, 0.001).tolist() == [True, True, True, True]
    assert raised_by_rounding(before, after, rho / 10, counts, 0.001).tolist() == [False] * 4
    assert not raised_by_rounding(before, np.array([np.inf] * 4), rho, counts, 0.001).any()


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_the_measured_rounding_is_that_of_the_operation(mean: float) -> None:
    """Of a layer that cancels a mean, in float32: what the layer in float64 makes of the same numbers is the truth."""
    x = examples(6, 400, torch.float32, mean=mean)[0]
    linear = layer(torch.linspace(1, 0.1, 6, dtype=torch.float64), torch.float32)
    linear.bias.data = -run(linear, x.mean(0))
    measured = list[Tensor]()
    with torch.no_grad():
        GraphTrace(nn.Sequential(linear)).walk(x, lambda _, __, error: measured.extend((error or {}).values()), probe=True)
    exact = (run(linear, x) - (x.double() @ linear.weight.double().T + linear.bias.double())).detach()
    ratio = measured[0].double().std(0) / exact.std(0)
    assert len(measured) == 1
    assert float(ratio.min()) > 0.9
    assert float(ratio.max()) < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gain_that_the_rounding_of_an_ill_conditioned_layer_makes_is_marked(dtype: torch.dtype) -> None:
    """Layers with singular values down to what rounding barely leaves, and their inverses, which cancel an offset."""
    seen, tolerance = 0, torch.finfo(dtype).eps ** 0.5
    lowest, offset = (4, 30.0) if dtype == torch.float32 else (7, 1e6)
    for seed in range(20):
        x, y = examples(4, 160, dtype, seed=seed)
        linear = layer(10.0 ** -torch.linspace(0, lowest, 4, dtype=torch.float64), dtype, offset, seed)
        inverse = nn.Linear(4, 4).to(dtype)
        inverse.weight.data = torch.linalg.inv(linear.weight.data.double()).to(dtype)
        inverse.bias.data = -(inverse.weight.data @ linear.bias.data)
        result = ledger(nn.Sequential(linear, inverse), [(x, y)])
        gains = (np.where(np.isfinite(result.gain), result.gain, 0) > np.log1p(tolerance)).any(1)
        assert ((result.unresolved[1:] > 0) | (result.unresolved[:-1] > 0))[gains].all(), seed
        assert not np.nanmax(result.violations(), initial=-1) > np.log1p(tolerance), seed
        assert (result.unresolved >= result.raised.sum(1)).all()
        seen += int(result.raised[1:][result.dropped[:-1] == 0].sum())
    assert seen > 0, "rounding made no gain between complete rows"


def test_a_gain_of_an_activation_is_not_put_down_to_rounding() -> None:
    x, y = examples(8, 400, torch.float32)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    result = ledger(net, [(x, y)])
    assert (result.gain[1] > 1e-3).any()
    assert not result.raised.any()
    assert (result.unresolved == 0).all()


def test_what_a_later_row_tells_about_earlier_ones() -> None:
    omega = np.array([[9, 2.0], [8, 1.0], [8, 1.0], [8.5, 1.9], [7, 2.5]])
    affine, known, none = (True, True, True, True), (True,) * 5, np.zeros(5, dtype=int)
    dropped, tolerance = np.array([0, 1, 2, 3, 0]), np.full(5, 0.01)

    def marks(**changed: object) -> list[int]:
        given = {
            "omega": omega,
            "affine": affine,
            "dropped": dropped,
            "unresolved": none,
            "tolerance": tolerance,
            "complete": known,
        }
        return unresolved_by_later_rows(**(given | changed)).tolist()  # type: ignore[arg-type]

    # 2.5 comes after 1.9, 1.0, 1.0 and 2.0; 8.5 after 8 and 8. Row 0 has no direction that could have been hidden, row 1 only one
    assert marks() == [0, 1, 2, 1, 0]
    assert marks(affine=(True, True, True, False)) == [0, 1, 2, 0, 0]
    assert marks(affine=(True, None, True, True)) == [0, 0, 2, 1, 0]
    assert marks(dropped=np.array([0, 1, 1, 3, 0])) == [0, 1, 1, 1, 0]
    assert marks(unresolved=np.array([0, 3, 0, 0, 0])) == [0, 3, 2, 1, 0]
    assert marks(tolerance=np.full(5, 0.1)) == [0, 1, 1, 1, 0]
    assert marks(complete=(True, True, True, False, True)) == [0, 0, 0, 0, 0]
    assert marks(omega=np.array([[9, 2.0], [8, 1.0], [8, 1.0], [np.inf, 1.0], [np.inf, 1.0]])) == [0, 0, 0, 0, 0]


def test_a_state_without_variability_is_refused_by_name() -> None:
    """All units dead, which is no collapse, and every class at its own saturated value, which is."""
    x, y = examples(4, 40, torch.float32)
    dead, steps = nn.Linear(4, 8), nn.Linear(4, 3)
    nn.init.constant_(dead.bias, -1e3)
    with pytest.raises(ValueError, match=r"^1: all examples have the same features"):
        ledger(nn.Sequential(dead, nn.ReLU()), [(x, y)])
    x[:, 0] = torch.arange(CLASSES)[y] + 0.1 * x[:, 0].clamp(-1, 1)
    steps.weight.data, steps.bias.data = torch.eye(4)[:1].repeat(3, 1) * 10, -10 * torch.tensor([0.5, 1.5, 2.5])
    with pytest.raises(ValueError, match=r"^1: Sigma_W = 0: .* collapse is complete"):
        ledger(nn.Sequential(steps, nn.Hardtanh()), [(x, y)])
    with pytest.raises(ValueError, match=r"^input: Sigma_W is not resolved in this precision"):
        ledger(nn.Linear(4, 4), [(x + 1e7, y)])


def test_what_a_lost_direction_held_bounds_what_comes_after() -> None:
    """Without any visible signal it is not `unresolved`, and what it may have had is told on."""
    x, y = examples(4, 400, torch.float32, distance=0.0)
    x[:, 1] = 2.0**-25
    told = form(x, y, below=1e3)
    assert told.unresolved == 0
    assert told.dropped == 1
    assert told.largest == 1e3
    x[:, 1] = 0
    assert form(x, y, below=1e3).largest < 1


@pytest.mark.parametrize("mean", [2e6, 1e8])
def test_features_whose_every_direction_rounding_hides_are_refused_with_the_way_out(mean: float) -> None:
    x, y = examples(6, 200, torch.float64)
    with pytest.raises(ValueError, match=r"not resolved in this precision|Sigma_W = 0"):
        form((x + mean).float(), y)
