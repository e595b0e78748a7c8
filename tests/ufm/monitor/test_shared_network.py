"""Two real processes that each see a share of the data measure what one that sees everything does, and the same bits."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fresh import FreshProcesses
from tests.ufm.monitor.shared_network import CUTS, measured
from tests.ufm.monitor.test_processes import run_two


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, fresh: FreshProcesses) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("shared")
    run_two(fresh, "tests.ufm.monitor.shared_network", folder)
    return [json.loads((folder / f"out-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", [*CUTS, "pruned", "after"])
def test_two_processes_measure_what_one_does(name: str, reports: list[dict]) -> None:
    (expected, more), ((scalars, rest), (other, other_rest)) = measured(slice(None)), (report[name] for report in reports)
    assert scalars == other
    assert rest.pop("kept") == more.pop("kept")  # all features, in order, in process 0 alone
    assert other_rest.pop("kept") == {}
    assert rest == other_rest
    assert expected["nc1"] < 1e-9  # tr Sigma_W / tr Sigma_B = 1e-10: a sum of squares would have no digit of it
    assert 0 < expected["nc4"] < 1
    assert 0 < expected["train_error"] < 1
    assert scalars.keys() == expected.keys()
    for key, value in expected.items():
        assert np.isfinite(value), key
        assert scalars[key] == pytest.approx(value, rel=1e-12, abs=1e-15), key
    for key, values in more.items():
        np.testing.assert_allclose(rest[key], values, rtol=1e-12, err_msg=key)


def test_what_one_process_cannot_measure_ends_both(reports: list[dict]) -> None:
    first, second = (report["spoiled"] for report in reports)
    assert "NaN" in second
    assert first == f"process 1 failed: {second}"
