"""The instruments of the benchmarks measure what they say; `python -m benchmarks` runs the measurements."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.__main__ import main
from benchmarks.flow import exact_omega
from benchmarks.timing import Paired, extra_bytes, paired, peak_megabytes
from manifolds.class_centering import ClassLayout
from tests.fresh import FreshProcesses
from ufm.features.snr import snr_spectrum


def test_peak_memory_is_that_of_the_measured_process_alone() -> None:
    held_here = np.ones(40 * 2**20)
    small, large = peak_megabytes("-c", "pass"), peak_megabytes("-c", "x = bytearray(100 * 2**20)")
    assert small < 100 < held_here.nbytes / 2**20
    assert large - small == pytest.approx(100, abs=5)


def test_extra_memory_counts_what_is_freed_again() -> None:
    assert extra_bytes(lambda: (np.ones(10**6), None)[1]) == pytest.approx(8 * 10**6, rel=0.01)


def test_a_pair_reports_the_ratio_of_ours_to_the_other() -> None:
    ticks = iter(range(10**6))
    timing = paired(
        lambda: [next(ticks) for _ in range(9)], lambda: [next(ticks) for _ in range(3)], 5, clock=lambda: next(ticks)
    )
    assert (timing.ours, timing.other, timing.ratio) == (10, 4, 2.5)


def test_fifty_digits_agree_with_the_spectrum() -> None:
    layout = ClassLayout.equal(3, 8)
    H = np.random.default_rng(0).standard_normal((4, layout.n)) + 5
    np.testing.assert_allclose(exact_omega(H, layout), snr_spectrum(H, layout).omega, rtol=1e-12)


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert "nothing is none of command" in capsys.readouterr().err


def test_two_processes_share_the_work_or_each_do_it_all_beside_one_that_is_alone() -> None:
    logs: list[list[str]] = []
    for rank in range(2):
        group: Any = SimpleNamespace(rank=rank, size=2)
        log = [""]

        def work(processes: Any, log: list[str] = log, group: Any = group) -> None:
            log[-1] += "shared" if processes is group else "whole"

        scaling.two_processes(work, group, lambda log=log: log.append(""), 4)
        logs.append(log[:-1])
    steps = list(zip(*logs, strict=True))  # what both did until they met
    assert steps[:2] == [("shared", "shared"), ("whole", "")]
    assert {step: steps.count(step) for step in steps} == {("shared", "shared"): 5, ("whole", ""): 9, ("whole", "whole"): 4}


def test_the_efficiency_is_that_of_the_times() -> None:
    scaled = scaling.Scaled(Paired(5.0, 8.0, 0.625, 0.5, 0.8), Paired(10.0, 8.0, 1.25, 1.0, 2.0))
    row = scaled.row("work")
    assert (row.quantity, row.ours, row.other, row.holds) == ("work", "5 s", "1 process: 8 s", None)
    assert row.measured == "efficiency 0.80 (0.62 to 1.00); two that share nothing 0.80 (0.50 to 1.00)"


@pytest.mark.parametrize(("name", "size"), [pytest.param("measuring", 40, marks=pytest.mark.slow), ("flow", 2000)])
def test_each_case_is_timed_in_two_real_processes(
    name: str, size: int, fresh: FreshProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", fresh.python)
    monkeypatch.setenv("PYTHON_EXEC", fresh.python)
    times = scaling.launched(name, size, 2)
    assert min(times.shared.ours, times.shared.other, times.apart.ours, times.apart.other) > 0
    assert f"{size:,}" in scaling.CASES[name].quantity(size)


def test_a_sweep_is_timed_with_one_worker_and_with_two() -> None:
    row = scaling.swept(2, 1, 2)
    assert row.quantity == "sweep --engine processes, 2 runs of 1 epochs of the MLP on digits"
    assert row.measured.startswith("efficiency ")
