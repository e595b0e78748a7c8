"""The instruments of the benchmarks measure what they say; `python -m benchmarks` runs the measurements."""

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.flow import exact_omega
from benchmarks.timing import extra_bytes, paired, peak_megabytes
from manifolds.layout import ClassLayout
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
