"""The study's convolutional networks and Gaussian classes, its workers, and what its summary says of rows that were reduced."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from sims import ledger_study
from sims.ledgers import training
from sims.ledgers.convs import ConvCell, ConvNet
from sims.ledgers.gaussians import GaussianCell, gaussian_summary, gaussian_text, population_omega, run_gaussian
from sims.ledgers.nets import Cell
from sims.ledgers.summary import activations, share_of_last, summary, summary_text
from sims.ledgers.training import run_cell
from sims.training.data import Data, DataChoice, load
from ufm.ledger import ChannelMeans, ledger
from ufm.ledger.rectified import input_omega, largest_omega, relu_omega

SMALL = ConvCell(depth=3, width=6, epochs=2)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load(DataChoice("digits", per_class=30, test_per_class=30))


def kept_files(folder: Path) -> dict[str, Any]:
    """What the networks in a folder say, without what a run alone knows."""
    told = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*seed*.json"))}
    return {name: {key: value for key, value in kept.items() if key != "provenance"} for name, kept in told.items()}


@pytest.mark.parametrize("residual", [False, True])
def test_linear_operations_of_the_convolutional_networks_keep_the_theorem_in_channel_means(residual: bool) -> None:
    """Also a convolution of channel means that came through ReLUs; with zeros around the map it would not hold."""
    torch.manual_seed(0)
    net = ConvNet(replace(SMALL, depth=5, residual=residual), (3, 16, 16), 3).double()
    y = torch.arange(300) % 3
    x = torch.randn(300, 3, 16, 16, dtype=torch.float64) + torch.randn(3, 3, 16, 16, dtype=torch.float64)[y]
    for _ in range(3):
        net(x)  # running statistics
    measured = ledger(net, [(x, y)], ChannelMeans(always=True))
    linear = np.array([bool(affine) for affine in measured.affine])
    assert (~linear).sum() == 5
    assert measured.gain[linear].max() < 1e-9
    assert measured.gain[~linear].max() > 0.1
    for conv in (module for module in net.modules() if isinstance(module, torch.nn.Conv2d)):
        conv.padding_mode = "zeros"
        conv.__dict__.pop("_reversed_padding_repeated_twice", None)
    assert ledger(net, [(x, y)], ChannelMeans(always=True)).gain[linear].max() > 1e-4


def test_convolutional_networks_halve_maps_of_even_sides_and_end_in_means() -> None:
    net = ConvNet(ConvCell(), (1, 32, 32), 10)
    x = torch.zeros(2, 1, 32, 32)
    assert net.body(x).shape == (2, 32, 4, 4)
    assert net.tail(net.body(x)).shape == (2, 32)
    assert 2e4 < sum(p.numel() for p in net.parameters()) < 1e5
    assert ConvNet(ConvCell(), (1, 28, 28), 10).body(torch.zeros(2, 1, 28, 28)).shape[-1] == 7
    with pytest.raises(ValueError, match="norm = 'layer': it is one of batch, none"):
        ConvCell(norm="layer")


def test_the_identity_gains_nothing_in_either_view(digits: Data) -> None:
    cell = replace(SMALL, activation="identity", rate=0.01)
    entries = list(run_cell(cell, digits, forces=False))
    assert {e["view"] for e in entries if e["epoch"] == 2} == {"channel means", "last stage"}
    for e in entries:
        for row in e["rows"][1:]:
            gain = row["omega_gain"]  # null where there are fewer directions than contrasts: omega is 0 before and after
            assert gain is None or gain < 1e-4, (e["view"], row["operation"])


def test_a_convolutional_network_trains_and_raises_omega(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BATCH_SIZE", 30)
    entries = list(run_cell(replace(SMALL, width=10, epochs=12), digits))
    first, last = (e for e in entries if e["split"] == "train" and e["view"] == "channel means" and e["epoch"] in (0, 12))
    assert last["error"] < 0.6 < 0.8 < first["error"]  # 0.9 by chance
    assert last["rows"][-2]["omega"] > first["rows"][-2]["omega"]
    assert last["forces"][-1]["parameter"] == "all"
    told = summary([{"ledgers": entries}])
    assert [(row["view"], row["split"]) for row in told] == [
        (view, split) for view in ("channel means", "last stage") for split in ("train", "test")
    ]
    assert all(row["reduced"] == 0 for row in told)
    means = told[0]
    assert means["activations"] == ["tail.block2.act", "tail.block3.act"] or len(means["activations"]) == 1
    assert [stage["epoch"] for stage in means["omega_course"]] == [0, 3, 6, 12]


def stored_row(operation: str, omega: float, before: float, reduced: bool = False, rank: int = 64) -> dict[str, Any]:
    """A row of a stored ledger."""
    numbers = {
        f"{name}{kind}": value
        for name in ("omega", "held_out")
        for kind, value in (("", omega), ("_gain", np.log(omega / before)))
    }
    return {"operation": operation, "reduced": reduced, "rank": rank, **numbers}


def stored_ledger(
    rows: list[tuple[str, float, bool]], epoch: int = 4, error: float = 0.0, view: str = "states"
) -> dict[str, Any]:
    """A stored ledger of (operation, omega, reduced)."""
    before = [rows[0][1], *(omega for _, omega, _ in rows)]
    told = [stored_row(name, omega, b, reduced) for (name, omega, reduced), b in zip(rows, before, strict=False)]
    facts = {
        "source": "mse",
        "view": view,
        "split": "train",
        "epoch": epoch,
        "error": error,
        "classes": list(range(10)),
        "forces": None,
    }
    return {**facts, "rows": told}


def test_rows_that_a_sketch_reduced_give_no_factors_and_no_share() -> None:
    rows = [
        ("input", 1.0, True),
        ("linears.0", 0.9, True),
        ("acts.0", 1.5, True),
        ("linears.1", 3.0, False),
        ("acts.1", 6.0, False),
    ]
    rows += [("acts.2", 9.0, False), ("classifier", 9.0, False)]
    (told,) = summary([{"ledgers": [stored_ledger(rows)]}])
    assert told["activations"] == ["acts.1", "acts.2"]  # acts.0 is between lower bounds
    assert [round(factor[0], 6) for factor in told["omega_factors"]] == [2.0, 1.5]
    assert told["even_share"] == 0.5
    assert told["omega_share_of_last"][0] == pytest.approx(np.log(1.5) / np.log(3))
    assert told["omega_rest"] is None  # a gain of linear layers that is none would be in it
    assert told["reduced"] == 3
    older = stored_ledger(rows)
    del older["view"]
    assert summary([{"ledgers": [older]}]) == [told]
    assert [factor["operation"] for factor in told["omega_linear"]] == ["classifier"]
    (told,) = summary([{"ledgers": [stored_ledger(rows, view="channel means")]}])
    assert told["activations"] == ["acts.0", "acts.1", "acts.2"]
    assert [factor["operation"] for factor in told["omega_linear"]] == ["linears.0", "linears.1", "classifier"]


def test_rows_with_an_unresolved_direction_are_used_and_counted() -> None:
    rows = [("input", 1.0, False), ("acts.0", 2.0, False), ("linears.1", 1.9, False), ("acts.1", 4.0, False)]
    networks = [{"ledgers": [stored_ledger(rows)]} for _ in range(2)]
    (whole,) = summary(networks)
    assert whole["unresolved"] == 0
    networks[1]["ledgers"][0]["rows"][2]["unresolved"] = 1
    (told,) = summary(networks)
    assert told == whole | {"unresolved": 1}
    assert "1 rows unresolved" in summary_text([told])
    assert "unresolved" not in summary_text([whole])


def test_activations_without_enough_directions_before_them_are_left_out() -> None:
    e = stored_ledger([("input", 1.0, False), ("acts.0", 2.0, False), ("acts.1", 4.0, False)])
    e["rows"][0]["rank"] = 8  # of 9 contrasts
    assert activations(e) == [2]
    e["rows"][2]["omega_gain"] = None
    assert np.isnan(share_of_last(e, "omega"))


def test_growth_in_the_terminal_phase_is_within_networks() -> None:
    def network(first: float, last: float, error: float) -> dict[str, Any]:
        def at(epoch: int, share: float, e: float) -> dict[str, Any]:
            rows = [
                ("input", 1.0, False),
                ("acts.0", np.exp(1 - share), False),
                ("acts.1", np.e, False),
                ("classifier", np.e, False),
            ]
            return stored_ledger(rows, epoch, e)

        return {"ledgers": [at(0, 0.9, 0.9), at(2, first, error), at(4, last, 0.0)]}

    (told,) = summary([network(0.1, 0.3, 0.001), network(0.6, 0.9, 0.0)])
    assert told["omega_terminal"]["networks"] == 2
    assert told["omega_terminal"]["growth"][0] == pytest.approx(0.25)
    assert [stage["error"][0] for stage in told["omega_course"]] == pytest.approx([0.9, 0.0005, 0.0])
    (told,) = summary([network(0.1, 0.3, 0.0011), network(0.6, 0.9, 0.0)])  # the first gets there at its last epoch only
    assert told["omega_terminal"] == {"networks": 1, "growth": [pytest.approx(0.3), None, None]}


def test_networks_are_the_same_from_any_worker_and_a_failure_is_not_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [replace(SMALL, epochs=1), Cell(width=12, depth=2, epochs=2), Cell(width=12, depth=2, epochs=2, seed=1)]
    bad = Cell(width=12, depth=2, epochs=2, norm="none", rate=1e30)
    monkeypatch.setattr(ledger_study, "study_cells", lambda *_: [bad, *cells])
    data = ["--per-class", "20", "--test-per-class", "20"]
    for out, options in (("one", ["--engine", "serial"]), ("two", ["--jobs", "2", "--quiet"])):
        assert ledger_study.main([*data, "--out", str(tmp_path / out), *options]) == 1
        said = capsys.readouterr().err.splitlines()
        assert "1 of 4 networks failed; mse norm=none width=12" in said[-1] or "1 of 4 networks failed; mse depth=2" in said[-1]
        assert "training diverged in epoch 1" in said[-1]
        if out == "one":
            assert sum(line.startswith("[") for line in said) == 4
    assert kept_files(tmp_path / "one") == kept_files(tmp_path / "two")
    assert len(kept_files(tmp_path / "one")) == 3
    assert len(json.loads((tmp_path / "one" / "summary.json").read_text())) == 2 * 2 + 2
    monkeypatch.setattr(ledger_study, "study_cells", lambda *_: cells)  # what failed is tried again, here nothing is left
    assert ledger_study.main([*data, "--out", str(tmp_path / "one")]) == 0
    assert "[" not in capsys.readouterr().err


def test_the_default_number_of_seeds_is_said_for_every_size() -> None:
    text = " ".join(ledger_study.parser().format_help().split())
    assert "(default: 3; 5 for full, conv and gaussians)" in text
    assert {size for size, seeds in ledger_study.SEEDS.items() if seeds != 3} == {"full", "conv", "gaussians"}
    assert set(ledger_study.SEEDS.values()) == {3, 5}


@pytest.mark.parametrize("option", ["seeds", "jobs", "threads"])
def test_counts_of_the_study_are_positive(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger_study.main([f"--{option}", "0"]) == 2
    assert capsys.readouterr().err == f"sims.ledger_study: error: --{option} 0: at least 1 is needed\n"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ledger_study.main(["--device", "cuda"]) == 2
    assert "torch finds no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("m", [0.5, 2.0])
def test_omega_of_the_population_is_that_of_the_closed_form(m: float) -> None:
    w, b = np.array([1.0, -0.7, 2.0]), np.array([0.3, 0.5, -1.0])
    assert population_omega(m, lambda x: np.maximum(np.outer(x, w) + b, 0)) == pytest.approx(relu_omega(m, w, b), rel=1e-5)
    assert population_omega(m, lambda x: x[:, None]) == pytest.approx(input_omega(m), rel=1e-9)
    assert population_omega(m, lambda x: np.tanh(m * x)[:, None]) == pytest.approx(largest_omega(m), rel=1e-9)


def test_omega_of_the_population_of_another_function() -> None:
    """A bounded one, by adaptive quadrature."""
    m = 1.3

    def moment(power: int, centre: float) -> float:
        return quad(lambda x: np.sin(x) ** power * norm.pdf(x - centre), -20, 20)[0]

    spread = np.mean([moment(2, c) - moment(1, c) ** 2 for c in (-m, m)])
    expected = (moment(1, m) - moment(1, -m)) / np.sqrt(2 * spread)
    assert population_omega(m, lambda x: np.sin(x)[:, None]) == pytest.approx(expected, rel=1e-8)


def test_a_network_on_two_gaussian_classes_learns_and_the_identity_has_the_input() -> None:
    cells = [GaussianCell(m=1.0, depth=2, epochs=300, seed=k) for k in range(2)]
    cells.append(GaussianCell(m=1.0, depth=1, epochs=20, activation="identity"))
    trained, identity = gaussian_summary([{"ledgers": list(run_gaussian(cell))} for cell in cells])
    assert trained["networks"] == 2
    for row in (trained, identity):
        assert row["thresholds"] == pytest.approx(1, abs=2e-3)
        assert row["trained_hidden"][0] <= 1 + 1e-6
        assert row["trained_output"][0] <= row["trained_hidden"][0] + 1e-9
    assert identity["trained_hidden"][0] == pytest.approx(identity["input"], rel=1e-6)
    line = gaussian_text([trained]).splitlines()[1]
    numbers = [f"{trained[key][0]:.4f} [" for key in ("untrained_hidden", "untrained_output", "trained_hidden", "trained_output")]
    assert all(number in line for number in numbers)
    assert trained["trained_output"][0] > trained["untrained_output"][0]
    assert trained["trained_output"][0] > identity["trained_output"][0]
    assert trained["trained_hidden_held_out"][0] == pytest.approx(trained["trained_hidden"][0], rel=0.05)
    with pytest.raises(ValueError, match=r"m = 0\.0"):
        GaussianCell(m=0.0)
