"""Random files and command lines: an answer that is right, or one line that says why there is none."""

import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.attack.commands import Outcome, check_answer, run
from tests.attack.files import command_lines, file_bytes, placed
from ufm.files.store import load_arrays

SHORT, LONG = 40, int(os.environ.get("ATTACK_LINES", "5000"))
PARTS = 20
ROOT = Path(__file__).parents[2]
CALM = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture)


def refuse_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def attack(line: tuple[str, list[str]], content: bytes) -> Outcome:
    """Run a command in a folder of its own, and check the answer, the file that is read, and those that are written."""
    command, arguments = line
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        folder = Path(name)
        (folder / "in.npz").write_bytes(content)
        os.chdir(folder)
        try:
            outcome = run(command, placed(arguments, folder))
        finally:
            os.chdir(here)
        check_answer(outcome)
        assert (folder / "in.npz").read_bytes() == content
        written = [path for path in folder.iterdir() if path.suffix == ".npz" and path.name != "in.npz"]
        assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
        for path in written:
            load_arrays(path)
        if outcome.code == 0 and "--json" in arguments and command == "sims.measure":
            for text in outcome.out.splitlines():
                check_measures(json.loads(text, parse_constant=refuse_constant), content, outcome)
    return outcome


def check_measures(measured: dict, content: bytes, outcome: Outcome) -> None:
    """omega is that of the features by their deviations in higher precision, to what the command says of its rounding."""
    with np.load(io.BytesIO(content)) as arrays:
        H, labels = arrays["features"].astype(np.longdouble), arrays["labels"].astype(int)
    if measured["dropped"] or None in measured["omega"]:
        return
    means = np.stack([H[labels == c].mean(0) for c in range(labels.max() + 1)])
    D = (H - means[labels]).astype(float)
    scale = abs(D).max()
    counts = np.bincount(labels)
    M = ((means - H.mean(0)) / scale).astype(float)
    D /= scale
    R = np.asarray(np.linalg.qr(D / np.sqrt(len(D)), mode="r"))
    expected = np.linalg.svd(np.linalg.solve(R.T, M.T), compute_uv=False)[: len(measured["omega"])]
    spread = np.linalg.cond(R)
    shift = float(abs(H).max() / scale)
    eps = np.finfo(float).eps
    bound = 1e3 * eps * (1 + shift) * spread + measured["rounding"] + 1e-9
    assert len(counts) >= 2
    np.testing.assert_allclose(measured["omega"], expected, rtol=bound, atol=bound * expected[0], err_msg=outcome.err)


@settings(max_examples=SHORT, suppress_health_check=CALM)
@given(line=command_lines(), content=file_bytes())
def test_a_command_answers_or_says_why_not(line: tuple[str, list[str]], content: bytes) -> None:
    attack(line, content)


@settings(max_examples=SHORT)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-60, 60), shift=st.sampled_from((0.0, 1.0, 1e6)))
def test_a_number_that_is_told_is_right(seed: int, power: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), [3, 9, 5, 7])
    buffer = io.BytesIO()
    np.savez(buffer, features=10.0**power * (rng.standard_normal((24, 5)) + shift), labels=labels)
    outcome = attack(("sims.measure", ["FILE", "--json", "--lambda", "0.1"]), buffer.getvalue())
    assert outcome.code == 0, outcome
    assert None not in json.loads(outcome.out)["omega"]


@pytest.mark.attack
@pytest.mark.parametrize("part", range(PARTS))  # for several processes, and for a count of what is done
@settings(max_examples=-(-LONG // PARTS), suppress_health_check=CALM, derandomize=False, database=None)
@given(line=command_lines(), content=file_bytes())
def test_thousands_of_command_lines(part: int, line: tuple[str, list[str]], content: bytes) -> None:
    attack(line, content)


@pytest.mark.attack
@settings(max_examples=-(-LONG // 250), suppress_health_check=CALM, derandomize=False, database=None, deadline=None)
@given(line=command_lines(), content=file_bytes())
def test_a_process_of_its_own_answers_as_the_function_does(line: tuple[str, list[str]], content: bytes) -> None:
    """A sample of the command lines through `python -m`, with pipes, an exit code and standard error as a shell has them."""
    command, arguments = line
    if any("\0" in argument for argument in arguments):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.npz").write_bytes(content)
        call = [sys.executable, "-m", command, *placed(arguments, folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        check_answer(Outcome(done.returncode, done.stdout, done.stderr))
        assert (folder / "in.npz").read_bytes() == content
