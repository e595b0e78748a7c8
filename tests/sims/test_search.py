"""The learning-rate search: its rule, its table, what diverges, what fails, and that it goes on where it was stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sims import train as command
from sims.training import search as module
from sims.training.folder import load_run
from sims.training.search import Tried, best, search
from tests.sims.runs import assert_same_bits, tiny
from ufm.files.write_lock import write_lock


def test_the_best_is_the_smallest_test_error_of_several_the_smallest_rate() -> None:
    tried = [Tried(0.3, 0.1, 0.0), Tried(0.1, 0.1, 0.2), Tried(0.01, 0.2, 0.0), Tried(0.5, None, None, "training diverged")]
    assert best(tried) == 0.1
    with pytest.raises(ValueError, match="diverged at all 1 rates"):
        best(tried[-1:])


SMALL = [
    "--epochs",
    "3",
    "--per-class",
    "30",
    "--test-per-class",
    "6",
    "--width",
    "0.05",
    "--batch-size",
    "50",
    "--robustness",
    "0",
]


def test_the_command_searches_keeps_its_table_and_trains_with_the_best(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    grid = ["--lr-grid", "1e-4", "0.05", "1e30"]
    call = [*SMALL, *grid, "--search", "--threads", "1", "--cpu"]
    assert command.main([*call, "--out", str(tmp_path / "run"), "--json"]) == 0
    captured = capsys.readouterr()
    assert "lr-1e+30: training diverged" in captured.err
    table = json.loads((tmp_path / "run" / "search.json").read_text())
    tried = {row["lr"]: row for row in table["tried"]}
    assert list(tried) == [1e-4, 0.05, 1e30]
    assert tried[1e30]["test_error"] is None
    for rate in (1e-4, 0.05):
        config, record = load_run(tmp_path / "run" / "search" / f"lr-{rate:g}")
        assert (config.lr, config.epochs, tuple(record.epochs)) == (rate, 3, (1, 2, 3))
        assert tried[rate]["test_error"] == record.arrays["test_error"][-1]
    assert table["chosen"] == min((1e-4, 0.05), key=lambda rate: tried[rate]["test_error"])
    assert load_run(tmp_path / "run")[0].lr == table["chosen"] == 0.05
    session = json.loads((tmp_path / "run" / "provenance.json").read_text())[0]
    assert session["learning_rate_source"] == "search.json"
    # repeated, nothing is trained, and the answer is the same
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and "1e+30" not in str(path)}
    assert command.main([*call, "--out", str(tmp_path / "run"), "--json", "--quiet"]) == 0
    assert capsys.readouterr().out == captured.out
    assert {path: path.read_bytes() for path in before} == before


def test_a_search_on_processes_is_the_serial_one(tmp_path: Path) -> None:
    config = replace(tiny(2, robustness=0), lr_grid=(0.01, 0.05))
    configs = {
        engine: search(config, tmp_path / engine, True, 1, engine, 2, lambda _: None) for engine in ("serial", "processes")
    }
    assert configs["serial"] == configs["processes"]
    assert (tmp_path / "serial" / "search.json").read_bytes() == (tmp_path / "processes" / "search.json").read_bytes()
    for rate in ("0.01", "0.05"):
        assert_same_bits(*(tmp_path / engine / "search" / f"lr-{rate}" for engine in configs))


def test_a_run_that_fails_otherwise_ends_the_search_without_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise ValueError("cannot write checkpoint.pt: No space left on device")

    monkeypatch.setattr(module, "train_run", full)
    with pytest.raises(ValueError, match=r"2 of 2 runs of the search failed \(0.01: cannot write .*\); repeat it"):
        search(replace(tiny(2), lr_grid=(0.01, 0.05)), tmp_path, True, 1, "serial", 1, lambda _: None)
    assert not (tmp_path / "search.json").exists()


def test_a_second_search_of_the_same_runs_is_refused_before_any_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "sweep", lambda *_: pytest.fail("it trains"))
    with write_lock(tmp_path):
        assert command.main(["--search", *SMALL, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"sims.train: error: another command is writing {tmp_path}: wait until")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0.1"], "--search looks for the learning rate that --lr 0.1 gives"),
        (["--engine", "ray"], "engine = 'ray'"),
        (["--jobs", "0"], "jobs = 0"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command.main(["--search", *options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_a_run_of_its_own_is_refused_before_any_rate_is_trained(tmp_path: Path) -> None:
    command.train(tiny(1), tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(ValueError, match="has a run that no search was made for: search in another folder"):
        search(replace(tiny(1), lr_grid=(0.01, 0.02)), tmp_path / "run", True, 1, "serial", 1, print)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_processes_of_a_launcher_do_not_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start it in one process"):
        search(tiny(2), tmp_path, True, 1, "serial", 1, lambda _: None)


def test_a_cell_without_a_rate_can_be_searched(tmp_path: Path) -> None:
    args = command.parser().parse_args(["--dataset", "svhn", "--net", "vgg13", "--loss", "ce", "--search"])
    assert command.config_of(args).lr is None
