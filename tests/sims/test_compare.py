"""The command that compares: real runs, simulated controls, features alone, groups, and every wrong input in one line."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from manifolds.class_centering import ClassLayout
from sims import compare as command
from sims import train as train_command
from sims.comparison import analysis
from sims.comparison.analysis import Choice, analyse, as_options
from sims.comparison.numbers import numbers
from sims.comparison.report import json_values
from sims.comparison.runs import load_observed
from sims.measure import main as measure_main
from sims.training.protocol import TrainConfig
from tests.strategies import features
from tests.ufm.compare.descents import descend, white_start
from tests.ufm.compare.synthetic import clock
from tests.ufm.compare.test_selection import growing
from ufm.compare.models import MODELS
from ufm.compare.verdict import LawRule
from ufm.features.least_squares import ls_classifier
from ufm.features.snr import renormalized_features
from ufm.features.statistics import statistics_of
from ufm.files.store import load_arrays, save_arrays
from ufm.flow.command import main as flow_main
from ufm.laws.singular_value_dynamics import LAWS, UNNORMALIZED
from ufm.monitor.logs import RunLog
from ufm.monitor.measurement import measure_features
from ufm.monitor.record import ZERO_ERROR
from ufm.tensor.renormalized_flow import FLOWS, central_path_field

C, N, P = 5, 12, 7
OUTCOMES = {"named", "undecided", "refuted", "not compared", "groups differ"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run_command(*arguments: Any) -> int:
    return command.main([str(argument) for argument in arguments])


def report(out: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    report = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    assert report["outcome"] in OUTCOMES
    assert (report["verdict"] in MODELS) == (report["outcome"] == "named")
    page = (out / "report.html").read_text()
    assert not re.search(r"""\b(src|href|action)\s*=\s*(?!['"]?(data:|#))""", page)
    assert not re.search(r"<script|<link|@import|url\(", page)
    assert f"<b>{report['verdict'] or report['outcome']}" in page
    assert page.index('class="verdict"') < page.index("Description")
    return report


def numbers_of(path: Path, choice: Choice) -> dict[str, Any]:
    """What report.json of one run would hold, without drawing anything."""
    report = json_values(numbers(analyse([load_observed(path)], choice, LawRule()), choice, LawRule()))
    json.dumps(report, allow_nan=False)
    return report


def full_flow(law: str, path: Path, seed: int, times: int = 10, classifier: float | None = None) -> None:
    """Features of the whole tensor under a flow, integrated from its field, rotated by one unknown Q; classifier: its error."""
    rng = np.random.default_rng(seed)
    layout = ClassLayout.equal(C, N)
    X, snr = renormalized_features(features(layout, P, rng), layout)
    if law == UNNORMALIZED.name:
        U = snr.left_vectors
        X = X + (U * ((1 + snr.omega**2 / C) ** -0.5 - 1)) @ (U.T @ X)
    end = LAWS[law].time(4 * snr.omega[:1], snr.omega[:1], C, N)[0]
    t = end * clock(rng, times) ** 2
    field = central_path_field(FLOWS[law], layout)
    solution = solve_ivp(lambda _, x: field(x.reshape(P, -1)).ravel(), (0, end), X.ravel(), "DOP853", t, rtol=1e-9, atol=1e-9)
    Q = np.linalg.qr(rng.standard_normal((P, P)))[0]
    path.mkdir()
    for k, state in enumerate(solution.y.T):
        H = (Q @ state.reshape(P, -1)).T
        arrays = {"features": H, "labels": layout.labels, "epoch": np.asarray(7 * k)}
        if classifier is not None:
            W, b = ls_classifier(statistics_of(H, layout.labels, C), 0.0)
            arrays |= {"W": W * (1 + classifier), "b": b, "lambda": np.asarray(0.0)}
        save_arrays(path / f"features-{7 * k:04d}.npz", arrays)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "digits-seed0"
    torch.set_num_threads(1)
    settings: dict[str, Any] = {
        "per_class": 30,
        "test_per_class": 6,
        "width": 0.05,
        "batch_size": 50,
        "robustness": 0,
        "lr": 0.05,
    }
    config = TrainConfig(**settings, epochs=4, decays=(3,), measured=(1, 2, 3, 4), save_features=(1,))
    train_command.train(config, path)
    return path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "embedded.npz"
    call = ["--C", "5", "--N", "12", "--P", "7", "--flow", "embedded", "--points", "30", "--steps", "50", "--out", str(path)]
    assert flow_main(call) == 0
    return path


def lengths(value: object) -> set[int]:
    """The lengths of all lists in a JSON value."""
    inside = list(value.values()) if isinstance(value, dict) else value
    own = {len(value)} if isinstance(value, list) else set()
    return own.union(*(lengths(entry) for entry in inside)) if isinstance(inside, list) else own


@pytest.mark.parametrize("law", ["renormalized", "unnormalized", pytest.param("embedded", marks=pytest.mark.slow)])
def test_features_under_the_full_flow_in_a_rotated_space_are_attributed_to_its_law(law: str, tmp_path: Path) -> None:
    full_flow(law, tmp_path / "mine", seed=3)
    report = numbers_of(tmp_path / "mine", Choice(from_epoch=0))
    assert report["verdict"] == law
    (group,) = report["groups"]
    (run,) = group["runs"]
    assert group["exponent"]["value"] == pytest.approx(report["exponents"][law], abs=1e-2)
    assert (run["C"], run["N"], run["P"]) == (C, N, P)
    assert run["epoch"] == [7.0 * k for k in range(10)]
    assert 6 not in lengths(run["drift"])  # of the 6 pairs of 4 values: they follow from omega
    assert len(run["omega"][0]) == 4
    assert max(run["singular_vectors"]["rotated_share"]) < 1e-8
    assert max(run["singular_vectors"]["degrees"]["subspace_u"]) < 1e-3


@pytest.mark.usefixtures("unrendered")
def test_features_alone_need_the_entry_and_a_classifier_finds_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    full_flow("renormalized", tmp_path / "bare", seed=4, times=5)
    assert run_command(tmp_path / "bare", "--out", tmp_path / "a") == 0
    content = report(tmp_path / "a")
    assert (content["verdict"], content["outcome"]) == (None, "not compared")
    assert "no classifier was measured or no lambda given" in content["reason"]
    assert set(content["groups"][0]["runs"][0]["proximity"]["loss_perp_over_loss_ls"]) == {None}
    assert capsys.readouterr().out.count("no classifier was measured") == 1
    assert (tmp_path / "a" / "report.html").read_text().count("no classifier was measured") == 3  # above, group, run
    assert run_command(tmp_path / "bare", "--out", tmp_path / "a", "--quiet") == 0
    assert "verdict: not compared (L_perp is not known, as no classifier was measured" in capsys.readouterr().out
    full_flow("renormalized", tmp_path / "whole", seed=4, times=5, classifier=0.01)
    assert run_command(tmp_path / "whole", "--out", tmp_path / "b") == 0
    content = report(tmp_path / "b")
    assert content["verdict"] == "renormalized"
    ratios = content["groups"][0]["runs"][0]["proximity"]["loss_perp_over_loss_ls"]
    assert 0 < min(ratios) <= max(ratios) < 0.1
    assert content["groups"][0]["runs"][0]["entry"] == 0


@pytest.mark.usefixtures("unrendered")
def test_a_trained_run_and_a_simulated_control_are_reported_apart(trained: Path, simulated: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    assert run_command(trained, simulated, "--from-epoch", 0, "--out", out) == 0
    content = report(out)
    first, second = content["groups"]
    assert [group["runs"][0]["kind"] for group in (first, second)] == ["trained", "simulated"]
    assert (first["runs"][0]["C"], second["runs"][0]["C"]) == (10, 5)
    assert second["verdict"] == "embedded"
    run = first["runs"][0]
    stored = load_arrays(trained / "trajectory.npz")
    np.testing.assert_allclose(
        run["proximity"]["loss_perp_over_loss_ls"], stored["loss_perp"] / (stored["loss"] - stored["loss_perp"]), rtol=1e-9
    )
    assert run["epoch"] == [1, 2, 3, 4]
    assert {"measured", "network", "discrete scheme", *LAWS} >= set(run["spectra"]) >= {"measured", "network", *LAWS}
    np.testing.assert_allclose(run["spectra"]["network"]["loss"], stored["loss"], rtol=1e-12)
    np.testing.assert_allclose(np.sort(run["omega"], axis=1)[:, ::-1], stored["omega"], rtol=1e-12)
    assert all(0 <= value <= 1 for value in run["spectra"]["renormalized"]["nc4"])
    if first["verdict"] != second["verdict"]:
        assert (content["verdict"], content["outcome"]) == (None, "groups differ")
        assert content["reason"].startswith("the groups of runs differ")


@pytest.mark.usefixtures("unrendered")
def test_seeds_are_one_group_and_other_sizes_another(tmp_path: Path) -> None:
    for name, C, seed in (("a-seed0", 5, 0), ("a-seed1", 5, 1), ("b", 6, 0)):
        call = ["--C", str(C), "--N", "12", "--P", "7", "--seed", str(seed), "--points", "20", "--steps", "50", "--growth", "8"]
        assert flow_main([*call, "--out", str(tmp_path / f"{name}.npz")]) == 0
    runs = [tmp_path / f"{name}.npz" for name in ("a-seed0", "b", "a-seed1")]
    assert run_command(*runs, "--out", tmp_path / "out", "--quiet") == 0
    content = report(tmp_path / "out")
    assert [[run["name"] for run in group["runs"]] for group in content["groups"]] == [["a-seed0", "a-seed1"], ["b"]]
    assert [group["name"] for group in content["groups"]] == ["a (2 runs)", "b"]
    assert content["verdict"] == "renormalized"


def test_the_same_command_gives_the_same_report(simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    texts = []
    for name in ("first", "second"):
        capsys.readouterr()
        assert run_command(simulated, "--out", tmp_path / name) == 0
        content = report(tmp_path / name)
        content.pop("provenance")
        texts.append((content, capsys.readouterr().out.replace(name, ""), (tmp_path / name / "report.html").read_bytes()))
    assert texts[0] == texts[1]
    assert "embedded: embedded" in texts[0][1]


@pytest.mark.usefixtures("unrendered")
def test_a_report_may_be_written_anew(simulated: Path, tmp_path: Path) -> None:
    pages = []
    for choice in ((), ("--to-epoch", 1e9)):
        assert run_command(simulated, "--out", tmp_path / "out", "--quiet", *choice) == 0
        pages.append((tmp_path / "out" / "report.html").read_text())
    assert "1000000000" in pages[1].replace("1e+09", "1000000000")
    assert pages[0] != pages[1]


def test_what_sims_measure_stored_is_a_run(tmp_path: Path) -> None:
    full_flow("renormalized", tmp_path / "mine", seed=5, times=4)
    files = [str(file) for file in sorted((tmp_path / "mine").glob("*.npz"))]
    assert measure_main([*files, "--out", str(tmp_path / "measured.npz")]) == 0
    report = numbers_of(tmp_path / "measured.npz", Choice(from_epoch=0))
    assert report["groups"][0]["runs"][0]["kind"] == "features"
    assert (report["verdict"], report["outcome"]) == (None, "undecided")  # it holds neither class means nor Sigma_W
    assert report["groups"][0]["compatible"] == ["renormalized"]
    assert report["compatible"] == ["renormalized"]
    assert run_command(tmp_path / "measured.npz", "--from-epoch", 0, "--out", tmp_path / "out", "--quiet") == 0
    assert "<b>undecided (renormalized left)</b>" in (tmp_path / "out" / "report.html").read_text().split("<table")[0]


@pytest.mark.usefixtures("unrendered")
def test_groups_are_declared_and_never_read_off_a_folder_s_name(tmp_path: Path) -> None:
    for folder, law in (("one", "renormalized"), ("two", "embedded")):
        (tmp_path / folder).mkdir()
        full_flow(law, tmp_path / folder / "log", seed=3, times=6)
    logs = [tmp_path / folder / "log" for folder in ("one", "two")]
    assert run_command(*logs, "--from-epoch", 0, "--out", tmp_path / "apart", "--quiet") == 0
    assert [group["verdict"] for group in report(tmp_path / "apart")["groups"]] == ["renormalized", "embedded"]
    assert run_command("--group", "both", *logs, "--from-epoch", 0, "--out", tmp_path / "together", "--quiet") == 0
    (group,) = report(tmp_path / "together")["groups"]
    assert group["name"] == "both (2 runs)"
    assert (group["verdict"], group["outcome"]) == (None, "refuted")


def files_of(path: Path, trained: Path, files: dict[str, bytes | None]) -> Path:
    """A folder with these files, None for what the trained run has."""
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes((trained / name).read_bytes() if content is None else content)
    return path


def same_epoch_twice(path: Path, folder: Path) -> Path:
    full_flow("renormalized", folder / "once", seed=0, times=3)
    data = load_arrays(folder / "once" / "features-0000.npz")
    path.mkdir()
    for k in range(3):
        save_arrays(path / f"features-{k:04d}.npz", data)
    return path


def other_sizes(path: Path) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    for k, P in enumerate((4, 5, 4)):
        arrays = {"features": rng.standard_normal((30, P)), "labels": np.repeat(np.arange(3), 10), "epoch": np.asarray(k)}
        save_arrays(path / f"features-{k:04d}.npz", arrays)
    return path


def broken(kind: str, trained: Path, folder: Path) -> Path:
    """Something that is no run, by its kind."""
    path = folder / kind
    half = (trained / "trajectory.npz").read_bytes()[:2000]
    if kind in ("text", "other arrays"):
        save_arrays(path, {"a": np.zeros(3)})
        if kind == "text":
            path.write_text("no archive")
    elif kind == "epochs twice":
        same_epoch_twice(path, folder)
    elif kind == "sizes change":
        other_sizes(path)
    elif kind != "missing":
        files: dict[str, dict[str, bytes | None]] = {
            "empty folder": {},
            "truncated": {"config.json": None, "trajectory.npz": half},
            "no trajectory": {"config.json": None},
            "another config": {"config.json": b'{"model": "gpt"}', "trajectory.npz": None},
        }
        files_of(path, trained, files[kind])
    return path


KINDS = ("missing", "text", "other arrays", "empty folder", "truncated", "no trajectory", "another config", "epochs twice")


@pytest.mark.parametrize("kind", [*KINDS, "sizes change"])
def test_what_is_no_run_ends_in_one_line(kind: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = broken(kind, trained, tmp_path)
    assert run_command(path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("sims.compare: error: ")
    assert error.count("\n") == 1
    assert path.name in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--fraction", "0"),
        ("--fraction", "nan"),
        ("--lambda", "-1"),
        ("--level", "1"),
        ("--tolerance", "-1"),
        ("--tolerance", "nan"),
        ("--seed", "-1"),
        ("--choices", "0"),
        ("--from-epoch", "nan"),
        ("--to-epoch", "nan"),
        ("--from-epoch", "inf"),
    ],
    ids="=".join,
)
def test_bad_options_end_in_one_line(
    options: tuple[str, str], simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_command(simulated, "--out", tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("sims.compare: error: ")
    assert error.count("\n") == 1
    assert options[0].removeprefix("--") in error


def test_the_same_run_twice_is_no_second_seed(simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    again = simulated.parent / ".." / simulated.parent.name / simulated.name
    assert run_command(simulated, again, "--out", tmp_path / "out") == 2
    assert "named twice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_folder(simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("kept")
    assert run_command(simulated, "--out", tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err
    assert run_command(simulated, "--out", tmp_path / "file" / "below") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.usefixtures("unrendered")
def test_too_few_epochs_and_epochs_that_never_come_have_their_reasons(trained: Path, tmp_path: Path) -> None:
    assert run_command(trained, "--from-epoch", 3, "--out", tmp_path / "a", "--quiet") == 0
    assert report(tmp_path / "a")["reason"] == "2 usable epochs from epoch 3 on: at least 3 are needed"
    assert numbers_of(trained, Choice(to_epoch=0))["reason"] == "no epoch is measured up to 0"
    content = numbers_of(trained, Choice(fraction=1e-12))
    assert (content["verdict"], content["outcome"]) == (None, "not compared")
    assert "not on the central path" in content["reason"]


def test_without_a_name_the_outcome_says_why(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    (tmp_path / "log").mkdir()
    for epoch in (1, 2, 3):
        arrays = {"features": rng.standard_normal((60, 4)) + labels[:, None], "labels": labels, "W": rng.standard_normal((3, 4))}
        np.savez(tmp_path / "log" / f"features-{epoch}.npz", **arrays)
    run = load_observed(tmp_path / "log", 0.5)
    assert any("no array `epoch`" in note for note in run.notes)
    assert any("lambda = 0.5" in note for note in run.notes)
    assert any("without bias" in note for note in run.notes)
    (group,) = analyse([run], Choice(), LawRule())
    assert (group.verdict.name, group.verdict.outcome) == ("", "not compared")
    (group,) = analyse([run], Choice(from_epoch=0.0), LawRule())  # C = 3: one pair
    assert (group.verdict.name, group.verdict.outcome) == ("", "undecided")
    bare = replace(run, trajectory=replace(run.trajectory, observed={}))
    with pytest.raises(ValueError, match="stores no training error"):
        Choice(from_epoch="zero-error").compare(bare)


def test_a_classifier_at_least_squares_is_a_classifier(tmp_path: Path) -> None:
    """Its run is on the central path from the start, and has a training error."""
    rng, sizes = np.random.default_rng(0), [20] * 4
    y = np.repeat(np.arange(4), sizes)
    log = RunLog(tmp_path / "log", 0.0, loss="mse")
    for epoch, H in enumerate(descend(white_start(rng, sizes, 6, 1.0), y, 10.0, 300, 60)):
        W, b = ls_classifier(statistics_of(H.T, y, 4), 0.0)
        log(epoch, {}, measure_features(H.T, y, W, b, 0.0))
    run = load_observed(tmp_path / "log")
    assert Choice().compare(run).window.entry == 0
    error = run.trajectory.observed["train_error"]
    assert error[0] > ZERO_ERROR >= error[-1]
    first = Choice(from_epoch="zero-error").compare(run).window.entry
    assert first is not None
    assert first == run.trajectory.t[error <= ZERO_ERROR][0]


def test_the_report_tells_the_training_error_and_has_its_figures_as_pdf(trained: Path, tmp_path: Path) -> None:
    assert run_command(trained, "--from-epoch", 2, "--out", tmp_path / "out", "--quiet") == 0  # too few epochs for the models
    (group,) = report(tmp_path / "out")["groups"]
    (run,) = group["runs"]
    assert run["train_error"]["entry"] > 0.001
    assert any("before zero training error" in note for note in run["notes"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{run['train_error']['entry']:.2%}, {run['train_error']['end']:.2%}" in page
    assert "<details>" not in page  # what is closed would be missing on paper
    pdf = (tmp_path / "out" / "figures.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", pdf)) == page.count("<img ")


@pytest.mark.usefixtures("unrendered")
def test_the_name_of_a_run_is_text_in_the_report(simulated: Path, tmp_path: Path) -> None:
    mean = tmp_path / "<img src=x onerror=alert(1)>.npz"
    mean.write_bytes(simulated.read_bytes())
    assert run_command(mean, "--out", tmp_path / "out", "--quiet") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


@pytest.mark.parametrize(
    "flow", ["embedded", *(pytest.param(flow, marks=pytest.mark.slow) for flow in ("renormalized", "unnormalized"))]
)
def test_unequal_classes_of_a_simulation_are_compared_like_any_others(flow: str, tmp_path: Path) -> None:
    options = ["--sizes", "30,55,41,24", "--P", "9", "--flow", flow, "--points", "20", "--growth", "6", "--quiet"]
    assert flow_main([*options, "--out", str(tmp_path / "run.npz")]) == 0
    assert numbers_of(tmp_path / "run.npz", Choice(from_epoch=0))["verdict"] == flow


@pytest.mark.usefixtures("unrendered")
def test_unequal_classes_of_a_log_are_compared_like_any_others(tmp_path: Path) -> None:
    sizes = [60, 45, 70, 35, 50]
    y = np.repeat(np.arange(5), sizes)
    rows = growing(white_start(np.random.default_rng(2), sizes, 12, 1.0), y, 4.0, 15)
    (tmp_path / "log").mkdir()
    for epoch, H in enumerate(rows):
        np.savez(tmp_path / "log" / f"features-{epoch:04d}.npz", features=H.T, labels=y, epoch=epoch)
    out = tmp_path / "out"
    assert run_command(tmp_path / "log", "--from-epoch", "0", "--out", out, "--quiet") == 0
    assert report(out)["verdict"] == "unnormalized"


def test_the_folder_that_one_stands_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_flow("renormalized", tmp_path / "mine", seed=4, times=5)
    monkeypatch.chdir(tmp_path / "mine")
    assert load_observed(Path()).name == "mine"


def test_reasons_of_the_library_name_the_options_of_the_command() -> None:
    assert as_options("from a chosen from_epoch on, to_epoch or from_epochs") == (
        "from a chosen --from-epoch on, --to-epoch or from_epochs"
    )


def test_runs_are_judged_on_one_thread_and_the_caller_s_threads_stay(simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    seen, judge = list[set[int]](), analysis.judge

    def judge_watched(*args: Any) -> Any:
        seen.append(threads())
        return judge(*args)

    monkeypatch.setattr(analysis, "judge", judge_watched)
    with threadpool_limits(2, "blas"):
        before = threads()
        analyse([load_observed(simulated)], Choice(), LawRule())
        assert threads() == before
    assert seen == [{1}]
