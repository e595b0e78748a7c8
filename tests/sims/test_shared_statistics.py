"""Two real processes that see a share of a batch each normalise as one that sees it all: outputs, gradients, running moments."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from sims.training.shared_statistics import SynchronizedBatchNorm, synchronized
from tests.fresh import FreshProcesses
from tests.sims.shared_norm import CASES, DTYPES, passed
from tests.ufm.monitor.test_processes import run_two

CARD = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def parametrized(norm: nn.Module) -> nn.Module:
    """The norm with a parametrized weight, which its class computes."""
    register_parametrization(norm, "weight", nn.Tanh())
    return norm


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=CARD)])
def reports(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, fresh: FreshProcesses) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("norm")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DEVICE", request.param)  # both processes on one card
        run_two(fresh, "tests.sims.shared_norm", folder)
    return [torch.load(folder / f"out-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_normalise_as_one(name: str, dtype: str, reports: list[dict]) -> None:
    whole = passed(name, dtype, slice(None))
    one, two = (report[f"{name} {dtype}"] for report in reports)
    parts = {part: torch.cat([one[part], two[part]]) for part in ("y", "dx")}
    parts |= {part: (one[part] + two[part]) for part in whole if part.startswith("d_")}
    for part in (part for part in whole if part not in parts):
        parts[part] = one[part]
        assert torch.equal(one[part], two[part]), part  # running moments have the same bits
    assert parts.keys() == whole.keys()
    for part, value in whole.items():
        scale = max(1.0, float(value.abs().max()))
        assert float((parts[part] - value).abs().max()) <= TOLERANCE[dtype] * scale, part


def test_one_value_a_channel_in_all_is_refused_in_both(reports: list[dict]) -> None:
    assert [report["single"] for report in reports] == ["1 values a channel in all processes: training needs more than 1"] * 2


def test_the_model_keeps_its_parameters_and_one_process_the_bits_of_torch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, momentum=None)))
    before, x = dict(model.state_dict(keep_vars=True)), torch.randn(5, 3, 4, 4)
    expected = [model(x), model.eval()(x)]
    for buffer in model.buffers():
        buffer.zero_()
    changed = synchronized(model.train())
    assert [type(m) for m in changed.modules() if "Norm" in type(m).__name__] == [SynchronizedBatchNorm] * 2
    assert {name: id(value) for name, value in changed.state_dict(keep_vars=True).items()} == {
        name: id(value) for name, value in before.items()
    }
    assert torch.equal(changed(x), expected[0])


def test_hooks_of_all_kinds_stay_and_can_be_removed() -> None:
    called: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: called.append(name)

    model = nn.Sequential(nn.BatchNorm1d(3))
    handles = [
        model[0].register_forward_pre_hook(note("before")),
        model[0].register_forward_hook(note("after")),
        model[0].register_full_backward_pre_hook(note("backward before")),
        model[0].register_full_backward_hook(note("backward")),
        model[0].register_state_dict_pre_hook(note("save")),
        model[0].register_state_dict_post_hook(note("saved")),
        model[0].register_load_state_dict_pre_hook(note("load")),
        model[0].register_load_state_dict_post_hook(note("loaded")),
    ]
    changed = synchronized(model)
    assert isinstance(model[0], SynchronizedBatchNorm)

    def use() -> None:
        changed(torch.randn(4, 3, requires_grad=True)).sum().backward()
        changed.load_state_dict(changed.state_dict())

    use()
    assert called == ["before", "after", "backward before", "backward", "save", "saved", "load", "loaded"]
    for handle in handles:
        handle.remove()
    use()
    assert len(called) == 8


class Scaled(nn.BatchNorm1d):
    """One of a user's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Twice as large."""
        return 2 * super().forward(input)


def patched(norm: nn.Module) -> nn.Module:
    """With a forward of its own, which would go on to be called."""
    norm.forward = norm.forward
    return norm


@pytest.mark.parametrize(
    "norm",
    [
        Scaled(3),
        nn.LazyBatchNorm1d(),
        parametrized(nn.BatchNorm1d(3)),
        patched(nn.BatchNorm1d(3)),
        nn.SyncBatchNorm(3, process_group="two of four"),
    ],
)
def test_a_normalisation_of_another_kind_is_refused_and_nothing_changed(norm: nn.Module) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(norm))
    said = rf"1\.0 is a {type(norm).__name__}( with a (forward|process_group))?: torch's own BatchNorm1d, 2d and 3d alone"
    with pytest.raises(ValueError, match=said):
        synchronized(model)
    assert type(model[0]) is nn.BatchNorm1d


def test_x_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(b, C\)"):
        SynchronizedBatchNorm(3)(torch.zeros(3))
