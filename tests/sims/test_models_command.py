"""`python -m sims.models`: the JSON shape, exit codes with one line, a gallery that is atomic and resumes, its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sims import models
from sims.gallery import gallery as model_gallery
from sims.gallery.figures import model_figure
from sims.gallery.sweeps import SWEEPS, minority_collapse
from ufm.models import MODEL_NAMES, model_class
from ufm.models.base import simulate
from ufm.models.ergen_pilanci import ErgenPilanci
from ufm.models.fang import Fang

ROOT = Path(__file__).parents[2]
SMALL = ["--C", "3", "--N", "4", "--P", "5"]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    try:
        code = models.main(list(argv))
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_model_prints_one_json_object(name, capsys):
    code, out, _ = run(capsys, "run", name, *SMALL, "--json", "--seed", "1")
    report = json.loads(out)
    assert code == 0
    assert report["predicted"].keys() == report["measured"].keys() == report["deviation"].keys()
    assert ("minimum" in report["predicted"]) == (name not in ("central-path", "joint-decay", "block-kernel"))
    assert all(isinstance(value, float) for value in report["deviation"].values())
    assert report["deviation"].get("minimum", 0.0) < 1e-9
    assert report["parameters"]["C"] == 3


def test_options_reach_the_model(capsys):
    _, out, _ = run(capsys, "run", "zhu", *SMALL, "--lambda-w", "0.02", "--lambda-h", "0.01", "--lambda-b", "0.5", "--json")
    assert json.loads(out)["parameters"] == {
        "C": 3,
        "N": 4,
        "P": 5,
        "optimizer": "",
        "lambda_w": 0.02,
        "lambda_h": 0.01,
        "lambda_b": 0.5,
    }


def test_every_parameter_has_an_option():
    assert set().union(*(models.owned(name) for name in MODEL_NAMES)) == set(models.OPTIONS)


def test_the_table_shows_numbers_and_the_collapse(capsys):
    code, out, _ = run(capsys, "run", "lu-steinerberger", "--C", "3", "--P", "4")
    assert code == 0
    assert "minimum" in out
    assert "collapse over iteration" in out
    assert "▁" in out


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_cite_prints_bibtex_of_the_papers_that_the_facts_name(capsys, name):
    code, out, _ = run(capsys, "cite", name)
    assert code == 0
    assert out.count("@") == out.count("author = ") == out.count("year = ") >= 1
    assert out.count("{") == out.count("}")
    paper = model_class(name).facts.paper
    if "arXiv" in paper:
        assert paper.split("arXiv ")[1].split()[0] in out
    surname = paper.split(" ")[0].strip(",")
    assert surname in out


def test_cite_refuses_an_unknown_name(capsys):
    code, _, err = run(capsys, "cite", "nobody")
    assert code == 2
    assert "choose from central-path" in err


def test_list_names_everything(capsys):
    _, out, _ = run(capsys, "list")
    assert all(f"\n{name}\n" in f"\n{out}" for name in MODEL_NAMES)
    code, lines, _ = run(capsys, "list", "--json")
    assert code == 0
    entries = [json.loads(line) for line in lines.splitlines()]
    assert [entry["name"] for entry in entries] == list(MODEL_NAMES)
    assert all(
        word in out for entry in entries for word in (entry["paper"], entry["domain"], *entry["options"], *entry["solvers"])
    )
    assert next(entry for entry in entries if entry["name"] == "fang")["solvers"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "zhu", "--imbalance", "3", "--majority", "1"], "zhu has no --imbalance: its theorem has equal classes"),
        (["run", "mixon", "--optimizer", "lbfgs"], "mixon has no --optimizer"),
        (["run", "lu-steinerberger", "--C", "8", "--P", "3"], "P = 3 < C - 1 = 7"),
        (["run", "zhu", "--lambda-w", "-1"], "lambda_w = -1.0: must be positive"),
        (["run", "deep-linear", "--layers", "1000"], "the prediction of deep-linear leaves the range of float64"),
        (["run", "nobody"], "no model is called 'nobody'"),
        (["run", "zhu", "--depth", "3"], "unrecognized arguments: --depth 3"),
        (["run", "zhu", "--C", "three"], "invalid int value"),
        (["run", "ergen-pilanci", "--sizes", "6,4,x"], "invalid sizes value: '6,4,x'"),
        (["run", "ergen-pilanci", "--sizes", "6,4"], "2 sizes for C = 3"),
        (["run", "fang", "--sizes", "6,4,2"], "fang has no --sizes"),
        (["run", "zhu", "--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["run", "zhu", "--device", "meta"], "device 'meta' cannot be used: its tensors have no values"),
        (["run", "zhu", "--seed", "9" * 30, "--out", "here"], "must be between 0 and"),
        (["run", "zhu", "--seed", "-1", "--out", "here"], "--seed -1: must be between 0 and"),
        (["all", "--seed", "9" * 30, "--out", "here"], "must be between 0 and"),
        (["all"], "required: --out"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_solve_that_fails_is_one_line_and_exit_code_1(capsys, monkeypatch):
    def failing(*_):
        raise RuntimeError("L-BFGS-B stopped\nat a gradient of 2")

    monkeypatch.setattr("ufm.models.base.simulate", failing)
    assert run(capsys, "run", "zhu") == (1, "", "sims.models: error: L-BFGS-B stopped at a gradient of 2\n")


def test_a_loss_that_underflows_is_one_line_and_exit_code_1(capsys):
    code, out, err = run(capsys, "run", "lu-steinerberger", "--temperature", "3000")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "underflowed" in err


def test_sizes_reach_the_model_and_a_saved_report_with_sizes_counts(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sims.gallery.sweeps.SWEEPS", dict.fromkeys(MODEL_NAMES, ()))
    code, out, _ = run(capsys, "run", "ergen-pilanci", "--sizes", "6,4,2", "--json", "--out", str(tmp_path))
    report = json.loads(out)
    assert code == 0
    assert (report["parameters"]["sizes"], report["parameters"]["N"]) == ([6, 4, 2], 2)
    assert report["deviation"]["minimum"] < 1e-12
    assert model_gallery.saved_report(ErgenPilanci(sizes=(6, 4, 2)), 0, tmp_path) == report
    assert model_gallery.saved_report(ErgenPilanci(sizes=(6, 2, 4)), 0, tmp_path) is None


def test_sweeps_run_on_the_device_of_the_report(capsys, tmp_path, monkeypatch):
    seen = []

    def sweep(model, seed, device):
        seen.append((seed, device))
        return minority_collapse(Fang(C=4, N=1, P=5, energy_h=1.0), seed, device)

    monkeypatch.setattr("sims.gallery.sweeps.SWEEPS", {"zhu": (sweep,)})
    code, _, _ = run(capsys, "run", "zhu", *SMALL, "--seed", "3", "--device", "cpu:0", "--out", str(tmp_path))
    assert (code, seen) == (0, [(3, "cpu:0")])


def test_an_error_of_the_system_is_one_line_and_exit_code_2(two_models, capsys, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_gallery, "write_atomically", full)
    code, _, err = run(capsys, "run", "e-wojtowytsch", "--out", str(tmp_path))
    assert code == 2
    assert err.count("\n") == 1
    assert "No space left" in err


def test_a_refused_prediction_leaves_no_folder(capsys, tmp_path, monkeypatch):
    def refused(self):
        raise ValueError("no threshold there")

    monkeypatch.setattr(Fang, "predicted", refused)
    code, _, err = run(capsys, "run", "fang", "--out", str(tmp_path / "new"))
    assert (code, err) == (2, "sims.models: error: no threshold there\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_ends_the_command_silently():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "sims.models", "list"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_output_below_a_file_is_refused_before_anything_is_computed(capsys, tmp_path):
    (tmp_path / "file").write_text("here")
    code, _, err = run(capsys, "all", "--out", str(tmp_path / "file" / "below"))
    assert code == 2
    assert "cannot write" in err


@pytest.fixture
def two_models(monkeypatch):
    """A gallery of two models whose figures take no solves."""
    monkeypatch.setattr(model_gallery, "MODEL_NAMES", ("lu-steinerberger", "e-wojtowytsch"))
    monkeypatch.setattr("sims.gallery.sweeps.SWEEPS", dict.fromkeys(MODEL_NAMES, ()))


def test_all_writes_everything_and_resumes(two_models, capsys, tmp_path, monkeypatch):
    code, out, err = run(capsys, "all", "--out", str(tmp_path))
    assert code == 0
    assert err.count("solving") == 2
    names = {
        "lu-steinerberger.json",
        "e-wojtowytsch.json",
        "models-lu-steinerberger.png",
        "models-e-wojtowytsch.png",
        "models.md",
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    whole = json.loads((tmp_path / "e-wojtowytsch.json").read_text())
    model = model_gallery.gallery_model("e-wojtowytsch")
    for broken in ([1, 2], None, whole | {"deviation": {}}, whole | {"measured": 3}):
        (tmp_path / "e-wojtowytsch.json").write_text(json.dumps(broken))
        assert model_gallery.saved_report(model, 0, tmp_path) is None
    (tmp_path / "e-wojtowytsch.json").write_text('{"half a fi')  # as if written without care and killed
    solved = []
    monkeypatch.setattr(model_gallery, "simulate", lambda model, *rest: solved.append(model) or simulate(model, *rest))
    code, again, err = run(capsys, "all", "--out", str(tmp_path))
    assert [model.facts.name for model in solved] == ["e-wojtowytsch"]
    assert again == out == (tmp_path / "models.md").read_text()
    assert "already there" in err
    run(capsys, "all", "--out", str(tmp_path), "--seed", "7")  # another seed is another gallery
    assert len(solved) == 3


def test_a_failure_while_drawing_leaves_no_report_behind(two_models, capsys, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no figure today")

    monkeypatch.setattr("sims.gallery.figures.model_figure", broken)
    code, _, err = run(capsys, "run", "lu-steinerberger", "--out", str(tmp_path))
    assert code == 2
    assert "no figure today" in err
    assert list(tmp_path.iterdir()) == []


def test_run_writes_its_figure(two_models, capsys, tmp_path):
    code, _, _ = run(capsys, "run", "zhu", *SMALL, "--out", str(tmp_path))
    assert code == 0
    assert (tmp_path / "models-zhu.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "zhu.json").read_text())["model"] == "zhu"


def test_the_figure_has_a_panel_a_sweep_with_labelled_axes():
    model = Fang(C=4, N=1, P=5, energy_h=1.0)
    sweep = minority_collapse(model, seed=0, device="cpu")
    figure = model_figure(simulate(model), (sweep,))
    left, right = figure.axes
    assert left.get_yscale() == "log"
    assert all(axis.get_xlabel() and axis.get_ylabel() and axis.get_legend() for axis in (left, right))
    interpolated = np.interp(sweep.point_x, sweep.line_x, sweep.lines["theory"])
    assert np.abs(sweep.points["solve"] - interpolated).max() < 0.02  # interpolation between the points of the line
    assert sweep.points["solve"][sweep.point_x > sweep.marks["$R_0 = 3.380$"]] == pytest.approx(1.0, abs=1e-9)


def test_the_gallery_has_every_model_and_a_sweep_each():
    assert set(SWEEPS) == set(MODEL_NAMES)
    assert all(model_gallery.gallery_model(name).facts is model_class(name).facts for name in MODEL_NAMES)


def test_a_plain_import_of_the_command_is_light():
    code = (
        "import sys, sims.models; print([m for m in ('torch', 'scipy', 'geoopt', 'pymanopt', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_whole_gallery_in_under_ten_minutes_and_its_figures_below_100_kb(tmp_path):
    command = [sys.executable, "-m", "sims.models", "all", "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=600, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "2"})
    figures = list(tmp_path.glob("*.png"))
    assert len(figures) == len(MODEL_NAMES)
    assert max(path.stat().st_size for path in figures) < 100_000
    for name in MODEL_NAMES:
        report = json.loads((tmp_path / f"{name}.json").read_text())
        assert report["deviation"].get("minimum", 0.0) < 1e-10
