"""`python -m benchmarks.gpu` (`make gpu`): every test marked gpu and the timings of a CUDA device, written to docs/gpu.md.

Without a device the page says what was not run, test by test; a page that has measurements is then left as it is. Ten minutes
at most: what the time was too short for is listed as not run.
"""

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_cases import CASES, Case, Device, Sizes
from benchmarks.rows import seconds
from benchmarks.timing import Paired
from ufm.files.store import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gpu.md"
LIMIT, TESTS_LIMIT, PAIRS = 570.0, 300.0, 9
MEASURED_ON = "Measured on"  # how the paragraph of a page with measurements begins
NOT_RUN, NO_TIME = "not run", "not run: the time was over"
HEAD = """# On a GPU

`make gpu` (`python -m benchmarks.gpu`) runs every test marked `gpu` and the timings below on the first CUDA device, in less than
ten minutes, and writes this page. Without a device the page lists what was not run; a page with measurements is left unchanged.
"""
METHOD = """Both sides of a ratio run in interleaved pairs on the same device; the clock is read when all submitted work is done.
Times are medians, ratios medians over the pairs with their quartiles. The bound is computed for an H100 (3.0 TB/s, 60 TFLOP/s
in float64 on tensor cores): the bytes that must be moved or the products that must be computed, without the eigendecomposition
of P x P.
"""


@dataclass(frozen=True)
class Measured:
    """A line of the table of timings: the pair, or why there is none."""

    case: Case
    times: Paired | None = None
    reason: str = NOT_RUN


@dataclass(frozen=True)
class Card:
    """A device, its name, and the versions that it was used with."""

    device: Device
    description: str


def card_here() -> Card | None:
    """The first CUDA device, None where torch finds none."""
    if not torch.cuda.is_available():
        return None

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    properties = torch.cuda.get_device_properties(0)
    driver = f"{properties.total_memory / 2**30:.0f} GiB, compute capability {properties.major}.{properties.minor}"
    where = torch.device("cuda", 0)
    return Card(Device(where, clock), f"{properties.name} ({driver}), CUDA {torch.version.cuda}")


def marked_tests() -> list[str]:
    """The node ids of the tests marked gpu, from the files that have one."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = [line for line in done.stdout.splitlines() if "::" in line]
    if done.returncode or not names:
        raise RuntimeError(f"pytest could not collect the tests marked gpu:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return names


def run_tests(names: list[str], limit: float) -> dict[str, str]:
    """`passed`, `failed: ...`, `skipped: ...` of every test that ended within the limit (seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        with subprocess.Popen([sys.executable, "-m", "pytest", *options, *names], cwd=ROOT) as running:
            try:
                running.wait(limit)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGINT)  # pytest then writes its report of what has ended
                with suppress(subprocess.TimeoutExpired):
                    running.wait(30)
                running.kill()
        return outcomes_of(report.read_text()) if report.exists() else {}


def outcomes_of(report: str) -> dict[str, str]:
    """What became of each test of a JUnit report, by node id."""
    outcomes = {}
    for test in ET.fromstring(report).iter("testcase"):
        ends = [child for child in test if child.tag in ("failure", "error", "skipped")]
        words = {"failure": "failed", "error": "failed", "skipped": "skipped"}
        reason = ends[0].get("message", "").partition("\n")[0] if ends else ""
        name = f"{test.get('file')}::{test.get('name')}"
        outcomes[name] = f"{words[ends[0].tag]}: {reason}" if ends else "passed"
    return outcomes


def measured(sizes: Sizes, device: Device, pairs: int, now: Callable[[], float], until: float) -> Iterator[Measured]:
    """Every case in turn, while `now()` is before `until`; one that fails is a line with its error."""
    for case in CASES:
        if now() >= until:
            yield Measured(case, reason=NO_TIME)
            continue
        try:
            yield Measured(case, case.timed(sizes, device, pairs))
        except Exception as error:  # the other lines are still worth having
            yield Measured(case, reason=f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}")


def page(sizes: Sizes, card: Card | None, tests: dict[str, str], timings: list[Measured]) -> str:
    """The page, from what became of every test and every timing."""
    return "\n".join([HEAD, _circumstances(card), *_table_of_timings(sizes, timings), METHOD, *_table_of_tests(tests)])


def _circumstances(card: Card | None) -> str:
    versions = (
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}, {datetime.date.today():%Y-%m-%d}"
    )
    if card is not None:
        return f"{MEASURED_ON} {card.description}; {versions}.\n"
    return f"**Not run**: torch finds no CUDA device here ({versions}). What a run would do, line by line:\n"


def _table_of_timings(sizes: Sizes, timings: list[Measured]) -> list[str]:
    head = "| quantity | ours | compared with | ratio (quartiles) | H100 bound | ours / bound |"
    lines = ["## Timings\n", head, f"|{'---|' * 6}"]
    for row in timings:
        times = row.times
        bound = None if row.case.bound is None else row.case.bound(sizes)
        least = "" if bound is None else f"{bound * 1e3:.2g} ms"
        quantity = row.case.quantity(sizes)
        if times is None:
            lines.append(f"| {quantity} | {_cell(row.reason)} | {row.case.beside} | | {least} | |".replace("|  |", "| |"))
            continue
        ratio = f"{times.ratio:.2f} x ({times.low:.2f} to {times.high:.2f})"
        beside = f"{row.case.beside}: {seconds(times.other)}"
        over = "" if bound is None else f"{times.ours / bound:.2g} x"
        lines.append(f"| {quantity} | {seconds(times.ours)} | {beside} | {ratio} | {least} | {over} |")
    return [*lines, ""]


def _table_of_tests(tests: dict[str, str]) -> list[str]:
    passed = sum(outcome == "passed" for outcome in tests.values())
    lines = ["## Tests\n", f"{passed} of {len(tests)} passed.\n", "| test | outcome |", "|---|---|"]
    return [*lines, *(f"| `{_cell(name)}` | {_cell(outcome)} |" for name, outcome in tests.items()), ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def keeps_measurements(path: Path, card: Card | None) -> bool:
    """Whether the page at `path` has measurements that a run without a device must not replace."""
    return card is None and path.exists() and f"\n{MEASURED_ON}" in path.read_text(encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run, write the page, say where it is: 0 unless a test failed or a timing could not be taken on a device that is there."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    p.add_argument("--out", type=Path, default=PAGE, metavar="PAGE.md", help="where the page goes (default docs/gpu.md)")
    out, began, sizes, card = p.parse_args(argv).out, time.monotonic(), Sizes(), card_here()
    names = marked_tests()
    if card is None:
        tests, timings = dict.fromkeys(names, NOT_RUN), [Measured(case) for case in CASES]
    else:
        ended = run_tests(names, TESTS_LIMIT)
        tests = {name: ended.get(name, NO_TIME) for name in names}
        timings = []
        for row in measured(sizes, card.device, PAIRS, time.monotonic, began + LIMIT - 60):
            timings.append(row)
            print(f"{row.case.quantity(sizes)}: {row.reason if row.times is None else seconds(row.times.ours)}", flush=True)
    if keeps_measurements(out, card):
        print(f"no CUDA device here: {len(names)} tests and {len(CASES)} timings not run; the measurements in {out} stay")
        return 0
    write_text(out, page(sizes, card, tests, timings))
    print(f"{os.path.relpath(out)}: {sum(end == 'passed' for end in tests.values())} of {len(names)} tests passed, ", end="")
    print(f"{sum(row.times is not None for row in timings)} of {len(CASES)} timings taken")
    whole = all(end == "passed" for end in tests.values()) and all(row.times is not None for row in timings)
    return 0 if card is None or whole else 1


if __name__ == "__main__":
    sys.exit(main())
