"""Two real processes that see a share of a batch each normalise as one that sees it all: outputs, gradients, running moments."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sims.training.shared_statistics import SynchronizedBatchNorm, synchronized
from tests.fresh import FreshProcesses
from tests.sims.shared_norm import CASES, DTYPES, passed
from tests.ufm.monitor.test_processes import run_two

CARD = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"))
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


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


def test_x_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(b, C\)"):
        SynchronizedBatchNorm(3)(torch.zeros(3))
