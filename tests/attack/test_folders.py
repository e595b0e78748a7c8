"""Damaged folders of runs, shards and arrays side by side: an answer, or one line; what is read stays as it is."""

import os
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.attack.commands import check_answer, run
from tests.attack.folders import Files, contents, folder_lines
from ufm.files.store import load_arrays

SHORT, LONG, PARTS = 12, int(os.environ.get("ATTACK_LINES", "5000")) // 4, 20
CALM = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example)


def attack(line: list[str], files: Files) -> None:
    """Run a command on a damaged folder, and check the answer, what was read, and what was written."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        given, out = Path(name) / "given", Path(name) / "out"
        given.mkdir()
        out.mkdir()
        for file, content in files.items():
            (given / file).write_bytes(content)
        places = {"IN": str(given), "OUT": str(out)}
        arguments = [places.get(a, a.replace("IN/", f"{given}/").replace("OUT/", f"{out}/")) for a in line[1:]]
        outcome = run(line[0], arguments)
        check_answer(outcome)
        if line[0] != "sims.train":
            assert contents(given) == files
        assert not [path for path in Path(name).rglob("*.tmp")]
        for path in out.rglob("*.npz"):
            load_arrays(path)


@settings(max_examples=SHORT, suppress_health_check=CALM, deadline=None)
@given(case=folder_lines())
def test_a_damaged_folder_is_answered_or_refused(case: tuple[list[str], Files]) -> None:
    attack(*case)


@pytest.mark.attack
@pytest.mark.parametrize("part", range(PARTS))
@settings(max_examples=-(-LONG // PARTS), suppress_health_check=CALM, derandomize=False, database=None, deadline=None)
@given(case=folder_lines())
def test_a_thousand_damaged_folders(part: int, case: tuple[list[str], Files]) -> None:
    attack(*case)
