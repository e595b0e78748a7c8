"""The page of the GPU: what it says with a device (here the CPU under a made-up clock) and without, and that nothing is lost."""

import itertools
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_cases import CASES, Device, Sizes
from benchmarks.training import Case as TrainingCase

SMALL = Sizes(C=3, N=20, P=6, training=TrainingCase("mlp", 0.02, 24, 1, 8))


def clock() -> Device:
    """A device whose clock advances by one second a reading."""
    ticks = itertools.count()
    return Device(torch.device("cpu"), lambda: float(next(ticks)))


@pytest.fixture(scope="module")
def rows() -> list[gpu.Measured]:
    return list(gpu.measured(SMALL, clock(), 3, now=lambda: 0.0, until=1.0))


def test_with_a_device_every_case_is_timed_and_the_page_has_its_ratios(rows: list[gpu.Measured]) -> None:
    assert [row.case for row in rows] == list(CASES)
    assert {row.case.beside: row.reason for row in rows if row.times is None} == {}
    card = gpu.Card(clock(), "a made-up card")
    tests = {"tests/a.py::test_a[x|y]": "passed", "tests/a.py::test_b": "failed: 1 != 2"}
    text = gpu.page(SMALL, card, tests, rows)
    assert "\nMeasured on a made-up card; torch " in text
    assert "1 of 2 passed" in text
    assert "| `tests/a.py::test_a[x\\|y]` | passed |" in text
    step = "| generic step of the discrete scheme, 60 columns, P = 6, float64 | 1 s | (X X^T) X: 1 s | 1.00 x (1.00 to 1.00) |"
    assert step in text
    assert "| not run |" not in text
    assert "**Not run**" not in text


def test_the_bounds_are_those_of_the_arithmetic() -> None:
    bounds = [None if case.bound is None else case.bound(Sizes()) for case in CASES]
    # 8 P^2 n = 105 Gflop at 60 Tflop/s; 2 P n 8 bytes = 410 MB at 3 TB/s; 4 P^2 n
    assert bounds[:3] == pytest.approx([1.748e-3, 136.5e-6, 0.874e-3], rel=1e-3)
    assert bounds[3:] == [None, None, None]


def test_a_clock_that_runs_out_and_an_error_are_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel\nand more")

    cases = (gpu.Case(lambda s: "broken", "x", None, broken), gpu.Case(lambda s: "late", "x", None, broken))  # type: ignore[arg-type]
    monkeypatch.setattr(gpu, "CASES", cases)
    times = iter([0.0, 2.0])
    ended = list(gpu.measured(SMALL, clock(), 3, now=lambda: next(times), until=1.0))
    assert [row.reason for row in ended] == ["failed: RuntimeError: no such kernel", gpu.NO_TIME]


@pytest.fixture(scope="module")
def names() -> list[str]:
    return gpu.marked_tests()


@pytest.mark.slow  # a run of pytest finds the tests that are marked
def test_without_a_device_every_test_and_timing_is_named_as_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    monkeypatch.setattr(gpu, "card_here", lambda: None)
    monkeypatch.setattr(gpu, "marked_tests", lambda: names)
    out = tmp_path / "gpu.md"
    assert gpu.main(["--out", str(out)]) == 0
    text = out.read_text()
    assert "**Not run**: torch finds no CUDA device here" in text
    assert "| `tests/ufm/test_gpu.py::test_statistics_on_the_device` | not run |" in text
    assert "::test_cuda_equals_cpu[NormalizedFeatures]` | not run |" in text
    assert text.count("| not run |") == text.count("| `tests/") + len(CASES)
    assert "0 of 6 timings taken" in capsys.readouterr().out
    out.write_text(text.replace("**Not run**", "Measured on an H100: 1 ms"))
    before = out.read_text()
    assert gpu.main(["--out", str(out)]) == 0
    assert out.read_text() == before
    assert "the measurements in" in capsys.readouterr().out


def test_outcomes_are_read_from_the_report() -> None:
    report = """<testsuites><testsuite>
      <testcase file="tests/a.py" classname="tests.a" name="test_a[1]"/>
      <testcase file="tests/a.py" classname="tests.a" name="test_b"><failure message="E 1&#10;more">trace</failure></testcase>
      <testcase file="tests/a.py" classname="tests.a" name="test_c"><skipped message="no card"/></testcase>
    </testsuite></testsuites>"""
    expected = {"tests/a.py::test_a[1]": "passed", "tests/a.py::test_b": "failed: E 1", "tests/a.py::test_c": "skipped: no card"}
    assert gpu.outcomes_of(report) == expected


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_run_of_the_tests_says_what_became_of_each(names: list[str]) -> None:
    some = [name for name in names if "test_cuda_" in name or "test_statistics" in name]
    assert len(some) >= 3
    assert {name: end.startswith("skipped: no CUDA device") for name, end in gpu.run_tests(some, 120).items()} == dict.fromkeys(
        some, True
    )


@pytest.mark.slow
def test_the_page_of_the_project_names_the_tests_and_timings_of_today(names: list[str]) -> None:
    text = gpu.PAGE.read_text(encoding="utf-8")
    for name in names:
        assert f"| `{name}` |" in text, f"make gpu writes the page anew: {name} is missing"
    for case in CASES:
        assert f"| {case.quantity(Sizes())} |" in text
