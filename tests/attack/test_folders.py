"""Damaged folders of runs, shards and arrays side by side: an answer, or one line; what is read stays as it is."""

import io
import os
import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from sims.comparison.entries import entry_of_features
from tests.attack.commands import COMMANDS, Outcome, check_answer, run
from tests.attack.folders import LINES, Files, contents, folder_lines, whole
from tests.fresh import FreshProcesses
from ufm.files.store import load_arrays

ROOT = Path(__file__).parents[2]
SHORT, LONG, PARTS = 4, int(os.environ.get("ATTACK_LINES", "5000")) // 4, 20
CALM = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example)


@pytest.fixture(scope="module")
def _whole_folders() -> None:
    """Made before Hypothesis draws: training seeds `random`, which it forbids to strategies."""
    for kind in LINES:
        whole(kind)


def attack(line: list[str], files: Files) -> Outcome:
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
    return outcome


@pytest.mark.usefixtures("_whole_folders")
@settings(max_examples=SHORT, suppress_health_check=CALM, deadline=None)
@given(case=folder_lines())
def test_a_damaged_folder_is_answered_or_refused(case: tuple[list[str], Files]) -> None:
    attack(*case)


def with_array(content: bytes, name: str, value: np.ndarray) -> bytes:
    """The same .npz with one array in the place of another."""
    buffer = io.BytesIO()
    with np.load(io.BytesIO(content)) as archive:
        arrays: dict[str, Any] = dict(archive) | {name: value}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


OF_COMPARISON = ["--out", "OUT", "--from-epoch", "0"]
WRONG_KINDS = {
    "statistics": ("log", "statistics-0002.npz", "class_means", ["sims.compare", "IN", *OF_COMPARISON]),
    "trajectory": ("log", "trajectory.npz", "omega", ["sims.compare", "IN/trajectory.npz", *OF_COMPARISON]),
    "sizes": ("flow", "run.npz", "counts", ["sims.compare", "IN/run.npz", *OF_COMPARISON]),
    "loss": ("flow", "run.npz", "loss_nc1", ["sims.compare", "IN/run.npz", *OF_COMPARISON]),
    "epoch": ("shards", "shard-0.npz", "epoch", ["sims.ledger", "IN/shard-0.npz", "IN/shard-1.npz", "--quiet"]),
}


@pytest.mark.parametrize("kind", ["U3", "c16", "M8[s]"])
@pytest.mark.parametrize("what", sorted(WRONG_KINDS))
def test_an_array_of_another_kind_is_refused_by_name(what: str, kind: str) -> None:
    of, file, name, line = WRONG_KINDS[what]
    files = dict(whole(of))
    with np.load(io.BytesIO(files[file])) as archive:
        value = archive[name] if name in archive else np.array([3, 4])
    files[file] = with_array(files[file], name, value.astype("i8").astype(kind) if kind == "M8[s]" else value.astype(kind))
    outcome = attack(line, files)
    assert outcome.code == 2, outcome
    assert re.search(rf"{name} (is|of shape) ", outcome.err), outcome


def arrays_of(content: bytes) -> dict[str, Any]:
    """The arrays of an .npz."""
    with np.load(io.BytesIO(content)) as archive:
        return dict(archive)


def written(arrays: dict[str, Any]) -> bytes:
    """An .npz of arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "name", "unequal", "line"),
    [
        ("run", "test_error", False, ["sims.figures", "IN", "--out", "OUT", "--format", "svg"]),
        ("run", "loss", False, ["sims.compare", "IN/trajectory.npz", *OF_COMPARISON]),
        ("log", "loss_perp", False, ["sims.compare", "IN/trajectory.npz", *OF_COMPARISON]),
        ("log", "loss_nc1", True, ["sims.compare", "IN/trajectory.npz", *OF_COMPARISON]),
        ("log", "loss_nc23", True, ["sims.compare", "IN", *OF_COMPARISON]),
    ],
)
def test_an_array_that_is_missing_is_told_by_name(kind: str, name: str, unequal: bool, line: list[str]) -> None:
    files = dict(whole(kind))
    arrays = arrays_of(files["trajectory.npz"])
    del arrays[name]
    if unequal:
        arrays["counts"] = arrays["counts"] + np.arange(len(arrays["counts"]))
    outcome = attack(line, {**files, "trajectory.npz": written(arrays)})
    assert (outcome.code, f"no array {name!r}" in outcome.err) == (2, True), outcome


READ = {
    ("run", "trajectory.npz"): ("IN", "IN/trajectory.npz"),
    ("run", "statistics-0001.npz"): ("IN",),
    ("run", "features-0002.npz"): ("IN/features-0002.npz",),
    ("log", "trajectory.npz"): ("IN",),
    ("log", "statistics-0000.npz"): ("IN",),
    ("flow", "run.npz"): ("IN/run.npz",),
    ("shards", "shard-0.npz"): ("IN/shard-0.npz", "IN/shard-*.npz"),
}


@pytest.mark.attack
@pytest.mark.usefixtures("_whole_folders")
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize(("kind", "name"), sorted(READ))
def test_a_folder_without_any_one_of_its_arrays_is_answered(kind: str, name: str, part: int) -> None:
    files = whole(kind)
    lines = [line for line in LINES[kind] if set(READ[kind, name]) & set(line) and line[0] not in ("sims.train", "sims.ledger")]
    if name.startswith("statistics"):
        lines = [line for line in lines if line[0] == "sims.compare"]
    assert lines
    arrays = arrays_of(files[name])
    for left_out in sorted(arrays)[part::4]:
        rest = {key: value for key, value in arrays.items() if key != left_out}
        for line in lines:
            attack(line, {**files, name: written(rest)})


@pytest.mark.parametrize("counts", [np.array(-1), np.array([6, 6]), np.array([6, 6, -6]), np.array([6.0, 6.0, 6.0])])
def test_class_sizes_of_a_run_that_are_none_are_refused(counts: np.ndarray) -> None:
    content = with_array(whole("flow")["run.npz"], "counts", counts)
    outcome = attack(["sims.compare", "IN/run.npz", "--out", "OUT"], {"run.npz": content})
    assert outcome.code == 2, outcome
    assert "counts of shape" in outcome.err, outcome


@pytest.mark.parametrize("kind", ["U3", "c16"])
def test_a_classifier_of_another_kind_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "features-0002.npz"
    path.write_bytes(with_array(whole("run")[path.name], "W", np.ones((10, 8)).astype(kind)))
    with pytest.raises(ValueError, match="W is "):
        entry_of_features(path)


@pytest.mark.parametrize("classifier", [True, False])
@pytest.mark.parametrize("command", ["ufm.flow", "sims.measure"])
def test_features_that_shrink_while_they_are_read_are_one_line(
    tmp_path: Path, command: str, classifier: bool, fresh: FreshProcesses
) -> None:
    for name, content in whole("arrays").items():
        if classifier or name not in ("W.npy", "b.npy"):
            (tmp_path / name).write_bytes(content)
    rng = np.random.default_rng(0)  # larger than what is read ahead
    np.save(tmp_path / "features.npy", rng.standard_normal((60_000, 5)))
    np.save(tmp_path / "labels.npy", np.arange(60_000) % 3)
    path = str(tmp_path / ("features.npy" if command == "sims.measure" else "feature[s].npy"))
    line = [path] if command == "sims.measure" else ["--features", path, "--quiet"]
    shrink = f"import os; os.truncate({str(tmp_path / 'features.npy')!r}, 8192)"
    where = {"sims.measure": "sims.measure", "ufm.flow": "ufm.files.shards"}[command]
    first = {"sims.measure": "load_feature_file", "ufm.flow": "Shards.blocks"}[command]
    program = (
        f"import sys, {where} as module; from {COMMANDS[command]} import main\n"
        f"whole = module.{first}\n"
        f"def shrunk(*arguments):\n    read = whole(*arguments)\n    {shrink}\n    return read\n"
        f"module.{first} = shrunk; sys.exit(main({line!r}))"
    )
    done = subprocess.run([fresh.python, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    check_answer(Outcome(done.returncode, done.stdout, done.stderr))


@pytest.mark.attack
@pytest.mark.usefixtures("_whole_folders")
@pytest.mark.parametrize("part", range(PARTS))
@settings(max_examples=-(-LONG // PARTS), suppress_health_check=CALM, derandomize=False, database=None, deadline=None)
@given(case=folder_lines())
def test_a_thousand_damaged_folders(part: int, case: tuple[list[str], Files]) -> None:
    attack(*case)
