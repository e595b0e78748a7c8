"""Files and names that others have put where a command writes or reads: nothing of theirs is lost, and none stops a result."""

import contextlib
import gzip
import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sims.comparison import control_rates, controls
from sims.comparison.lines import append_line, read_lines
from sims.gallery.gallery import figure_path, gallery_model, parameters, saved_report
from sims.training.folder import RunFolder
from sims.training.protocol import TrainConfig
from sims.training.readers import read_idx
from tests.attack.commands import check_answer, run
from tests.attack.folders import labelled
from ufm.files import archive, store
from ufm.files.json_objects import read_json
from ufm.files.store import load_arrays, save_arrays
from ufm.monitor.measurement import measure_features

ROOT = Path(__file__).parents[2]
TINY = {"dataset": "digits", "epochs": 1, "decays": [], "measured": [1], "lr": 0.1, "per_class": 12, "test_per_class": 2}
TINY |= {"width": 0.01, "robustness": 0}


@pytest.mark.parametrize("process", ["99999999999999999999", "9" * 60, "0", "x"])
def test_a_planted_temporary_name_stops_no_result(process: str, tmp_path: Path) -> None:
    planted = tmp_path / f".{store._host()}-{process}-0123456789ab.tmp"
    planted.write_bytes(b"theirs")
    store.write_text(tmp_path / "x", "ours")
    assert (planted.read_bytes(), (tmp_path / "x").read_text()) == (b"theirs", "ours")


def test_a_folder_under_the_name_of_a_dead_process_stops_no_result(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".{store._host()}-{gone.pid}-0123456789ab.tmp").mkdir()
    store.write_text(tmp_path / "x", "ours")
    assert (tmp_path / "x").read_text() == "ours"


def test_a_run_removes_what_dead_processes_left_of_it_and_nothing_else(tmp_path: Path) -> None:
    ours, host = "0123456789ab.tmp", store._host()
    left = {".notes.tmp": True, f".{host}-{os.getppid()}-{ours}": True, f".gone-1-{ours}": False}
    for name in left:
        (tmp_path / name).write_text("whoever's")
    RunFolder(tmp_path, TrainConfig(lr=0.1)).begin()
    assert {name: (tmp_path / name).exists() for name in left} == left


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("option", ["--out", "--report"])
def test_a_pipe_or_device_is_not_replaced_by_a_result(option: str, tmp_path: Path) -> None:
    save_arrays(tmp_path / "in.npz", labelled(0))
    os.mkfifo(tmp_path / "pipe")
    outcome = run("sims.measure", [str(tmp_path / "in.npz"), option, str(tmp_path / "pipe")])
    check_answer(outcome)
    assert (outcome.code, "no regular file" in outcome.err) == (2, True)
    with pytest.raises(ValueError, match="no regular file"):
        store.write_text(tmp_path / "pipe", "ours")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_configuration_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    for line in (["sims.measure", str(tmp_path)], ["sims.train", "--config", str(tmp_path / "config.json")]):
        outcome = run(line[0], line[1:])
        check_answer(outcome)
        assert (outcome.code, "no regular file" in outcome.err) == (2, True)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"1\.1 TB"):
        read_json(tmp_path / "huge.json")


@pytest.mark.parametrize("name", ["config.json", "provenance.json", "search.json"])
def test_a_configuration_that_lies_in_the_folder_of_its_run_stays_as_it_is(name: str, tmp_path: Path) -> None:
    given = tmp_path / name
    given.write_text(json.dumps(TINY))
    outcome = run("sims.train", ["--config", str(given), "--out", str(tmp_path), "--quiet"])
    check_answer(outcome)
    assert given.read_text() == json.dumps(TINY)
    assert outcome.code == (0 if name == "config.json" else 2)


@pytest.mark.parametrize("cell", ["9" * 200_000, "1\0", '"'])
def test_a_table_that_is_none_is_one_line(cell: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"epoch,nc1\n1,{cell}\n")
    outcome = run("sims.figures", [str(tmp_path / "log.csv"), "--out", str(tmp_path / "figures")])
    check_answer(outcome)
    assert outcome.code == 2


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,nc1\n1,0.5\n2,0.25\n", encoding="utf-8-sig")
    outcome = run("sims.figures", [str(tmp_path / "log.csv"), "--out", str(tmp_path / "figures"), "--format", "svg"])
    assert outcome.code == 0, outcome.err


def test_no_name_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **{"\x1b[2J\u202eevil\x07": np.zeros(3)})  # type: ignore[arg-type]
    for line in ([str(tmp_path / "in.npz")], ["in.npz", "--nothing\x1b[2J\nat all"], ["\x1b]0;title\x07.npz"]):
        for command, option in (("sims.measure", []), ("ufm.flow", ["--features"])):
            outcome = run(command, [*option, *line])
            check_answer(outcome)
            assert (outcome.code, outcome.err.rstrip("\n").isprintable()) == (2, True), outcome.err


@pytest.mark.parametrize("command", ["sims.measure", "ufm.flow"])
def test_a_name_with_a_line_end_keeps_the_reason_beside_it(command: str, tmp_path: Path) -> None:
    (tmp_path / "a\nb.npz").write_text("no archive")
    outcome = run(command, [*(["--features"] if command == "ufm.flow" else []), str(tmp_path / "a\nb.npz")])
    check_answer(outcome)
    assert outcome.code == 2
    assert outcome.err.endswith("a\\nb.npz: it is no .npz archive\n")


@pytest.mark.parametrize("content", ["[]", "{}", "null", "[" * 100_000, '"x"'])
def test_a_rung_whose_mark_is_damaged_is_one_line(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "free-seed0"
    folder.mkdir(parents=True)
    (folder / "finished.json").write_text(content)
    outcome = run("sims.ladder", ["--out", str(tmp_path), "--seeds", "1", "--rungs", "free", "--quiet"])
    check_answer(outcome)
    assert outcome.code == 2


@pytest.mark.parametrize(
    "change",
    [
        {"predicted": {"loss": "x"}},
        {"deviation": {"minimum": None, "W": 0.0}},
        {"measured": {"other": 1.0}},
        {"deviation": {"minimum": 0.0}},
        {"model": "nothing"},
        {"predicted": []},
    ],
)
def test_a_damaged_report_of_the_gallery_counts_as_absent(change: dict[str, object], tmp_path: Path) -> None:
    model = gallery_model("zhu")
    values = {"minimum": 1.0, "W": 2.0}
    whole = {"model": "zhu", "parameters": parameters(model), "seed": 0} | dict.fromkeys(
        ("predicted", "measured", "deviation"), values
    )
    figure_path(tmp_path, "zhu").write_bytes(b"")
    (tmp_path / "zhu.json").write_text(json.dumps(whole))
    assert saved_report(model, 0, tmp_path) == whole
    (tmp_path / "zhu.json").write_text(json.dumps(whole | change))
    assert saved_report(model, 0, tmp_path) is None


def test_files_measured_so_far_say_that_they_are_not_all(tmp_path: Path) -> None:
    save_arrays(tmp_path / "in.npz", labelled(0))
    out, given = tmp_path / "out.npz", str(tmp_path / "in.npz")
    for files, complete in (([given, str(tmp_path / "absent.npz")], False), ([given], True)):
        outcome = run("sims.measure", [*files, "--out", str(out)])
        assert outcome.code == (0 if complete else 2)
        assert load_arrays(out)["complete"] == complete
    check_answer(run("sims.figures", [str(out), "--out", str(tmp_path / "figures"), "--format", "svg"]))


def test_the_repository_around_an_installed_copy_is_not_taken_for_the_source(tmp_path: Path) -> None:
    git = ["git", "-c", "user.email=a@b", "-c", "user.name=a"]
    for line in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *line], cwd=tmp_path, check=True)
    for name in ("ufm", "manifolds"):
        shutil.copytree(ROOT / name, tmp_path / "site" / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from ufm.files import store; print(store.__file__, store.provenance()['commit'])"
    call = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    told = subprocess.run(call, cwd=tmp_path / "site", env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(tmp_path / "site" / "ufm" / "files" / "store.py"), "None"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_every_flow_is_stored_before_an_output_that_takes_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    line = ["--C", "3", "--N", "6", "--P", "4", "--points", "20", "--steps", "30", "--flow", "all"]
    monkeypatch.setattr(sys, "argv", ["ufm.flow", *line, "--out", str(tmp_path / "run.npz")])
    with monkeypatch.context() as patch, contextlib.suppress(OSError), open("/dev/full", "w", buffering=1) as full:
        patch.setattr(sys, "stdout", full)
        assert importlib.import_module("ufm.flow.__main__").guarded() == 2
    assert sorted(os.listdir(tmp_path)) == [f"run.{name}.npz" for name in ("embedded", "renormalized", "unnormalized")]
    assert len([line for line in capsys.readouterr().err.splitlines() if ": error: " in line]) == 1


@pytest.mark.parametrize(("command", "reads"), [("sims.compare", "load_observed"), ("sims.ledger", "requested_ledgers")])
def test_a_folder_that_takes_no_file_is_told_before_anything_is_computed(
    command: str, reads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("theirs")
    monkeypatch.setattr(importlib.import_module(command), reads, lambda *_: pytest.fail("it was computed for nothing"))
    outcome = run(command, [str(tmp_path / "run"), "--out", str(tmp_path / "file" / "deep" / "out")])
    check_answer(outcome)
    assert (outcome.code, "cannot write into" in outcome.err, os.listdir(tmp_path)) == (2, True, ["file"])


def test_a_file_of_a_process_of_another_container_of_this_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(os, "getpid", lambda: gone.pid)
    theirs = tmp_path / store.temporary_name()
    theirs.write_text("theirs")
    monkeypatch.undo()
    monkeypatch.setattr(store, "_process_namespace", lambda: 1)
    store.write_text(tmp_path / "x", "ours")
    assert theirs.exists()
    monkeypatch.undo()
    store.write_text(tmp_path / "x", "ours")
    assert not theirs.exists()


@pytest.mark.parametrize("empty", ["", "--out=", "--seed="])
@pytest.mark.parametrize("command", ["ufm.flow", "sims.train", "sims.compare"])
def test_a_variable_of_the_shell_that_is_not_set_starts_nothing(command: str, empty: str, tmp_path: Path) -> None:
    outcome = run(command, ["--out", empty] if not empty else [empty])
    check_answer(outcome)
    assert (outcome.code, "empty" in outcome.err, os.listdir(tmp_path)) == (2, True, [])


def test_cases_before_one_that_was_cut_off_are_never_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cases.jsonl"
    append_line(file, {"case": 0})
    file.write_bytes(file.read_bytes() + b'{"case": 1')
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("a kill in it would lose the case before"))
    append_line(file, {"case": 2})
    assert read_lines(file) == [{"case": 0}, {"case": 2}]
    file.write_bytes(b'{"case": 1')
    append_line(file, {"case": 2})
    assert read_lines(file) == [{"case": 2}]


@pytest.mark.parametrize("page", [None, "no marks", "END BEGIN"])
def test_a_page_without_a_place_for_the_rates_is_told_before_any_case(
    page: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    if page is not None:
        begin, end = control_rates.MARKS[False]
        (tmp_path / "page.md").write_text(page.replace("BEGIN", begin).replace("END", end))
    monkeypatch.setattr(controls, "judged", lambda *_: pytest.fail("it was judged for nothing"))
    assert controls.main(["--out", str(tmp_path / "c.jsonl"), "--cases", "1", "--write", str(tmp_path / "page.md")]) == 2
    assert capsys.readouterr().err.count(": error: ") == 1


def test_a_file_that_is_no_network_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from sims.examples.onnx_head import onnx_head

    (tmp_path / "in.onnx").write_bytes(b"PK\x03\x04" * 20)
    with pytest.raises(ValueError, match=r"cannot read .*in\.onnx as ONNX"):
        onnx_head(tmp_path / "in.onnx")


def test_a_missing_log_is_told_with_its_name_once(tmp_path: Path) -> None:
    outcome = run("sims.figures", [str(tmp_path / "absent.npz"), "--out", str(tmp_path / "figures")])
    check_answer(outcome)
    assert (outcome.code, outcome.err.count("absent.npz"), "Errno" in outcome.err) == (2, 1, False), outcome.err


def tensors(path: Path, shapes: dict[str, tuple[str, list[int], int]]) -> str:
    """A .safetensors file of zeros that takes no room on the disk: dtype, shape and bytes by name."""
    header, end = {}, 0
    for name, (dtype, shape, size) in shapes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return str(path)


FEATURES, LABELS = ("F64", [30, 5], 1200), ("I64", [30], 240)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"features": ("F64", [10**6, 50], 4 * 10**8), "labels": LABELS}, "memory free"),
        ({"features": FEATURES, "labels": LABELS, "W": ("F64", [10**5, 500], 4 * 10**8)}, "far more than features"),
        ({"features": ("F8_E4M3", [30, 5], 150), "labels": LABELS}, "cannot read"),
        ({"features": FEATURES, "labels": ("F8_E5M2", [30], 30)}, "cannot read"),
    ],
)
def test_tensors_are_read_with_a_limit_and_refused_by_dtype(
    shapes: dict[str, tuple], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if message == "memory free":
        monkeypatch.setattr(archive, "free_memory", lambda: 10**8)
    outcome = run("sims.measure", [tensors(tmp_path / "in.safetensors", shapes)])
    check_answer(outcome)
    assert (outcome.code, message in outcome.err) == (2, True), outcome.err


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_of_a_data_file_no_more_is_read_than_it_announces(suffix: str, tmp_path: Path) -> None:
    head = b"\0\0\x08\x01" + (3).to_bytes(4, "big")
    path = tmp_path / f"labels{suffix}"
    if suffix:
        with gzip.open(path, "wb") as file:
            file.write(head)
            for _ in range(64):
                file.write(bytes(1 << 20))
    else:
        path.write_bytes(head)
        os.truncate(path, 1 << 40)
    tracemalloc.start()
    with pytest.raises(ValueError, match="announces 3 bytes"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22
    path.write_bytes(gzip.compress(b"\0\0\x08\x02" + b"\xff" * 8) if suffix else b"\0\0\x08\x02" + b"\xff" * 8)
    with pytest.raises(ValueError, match="memory free"):
        read_idx(path)


def test_a_compressed_checkpoint_is_not_taken_into_memory(tmp_path: Path) -> None:
    config = TrainConfig(lr=0.1)
    with zipfile.ZipFile(tmp_path / "checkpoint.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checkpoint/data.pkl", bytes(1 << 20))
    with pytest.raises(ValueError, match=r"data\.pkl is compressed"):
        RunFolder(tmp_path, config).load_checkpoint()


def test_a_classifier_stored_backwards_is_measured_as_any_other() -> None:
    arrays, W, b = labelled(0), np.random.default_rng(1).standard_normal((3, 5)), np.arange(3.0)
    measured = measure_features(arrays["features"], arrays["labels"], W[::-1, ::-1], b[::-1], 0.1).scalars
    assert measured == measure_features(arrays["features"], arrays["labels"], W[::-1, ::-1].copy(), b[::-1].copy(), 0.1).scalars


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
@pytest.mark.parametrize("name", ["log.csv", "log.npz"])
def test_a_device_without_an_end_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    code = "import sys; from tests.attack.commands import run; print(run('sims.figures', sys.argv[1:]).code)"
    options = [str(tmp_path / name), "--out", str(tmp_path / "figures")]
    call = [sys.executable, "-c", code, *options]
    ended = subprocess.run(
        call, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "2\n"
