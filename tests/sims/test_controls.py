"""The controls: shares of the cases, side by side, are the cases of one command; the features that runs are seen with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sims.comparison import controls
from sims.comparison.control_features import TrueRun, entries_seen, features_seen, true_statistics
from sims.comparison.lines import read_lines
from ufm.compare.coordinates import gram_of_spectrum, log_gram
from ufm.compare.implied import SeenStatistics, contradiction


def stub(case: controls.Case, seed: int) -> dict[str, Any]:
    """A case as if it was judged."""
    facts = {"case_seed": seed, "outcome": "named", "name": case.model, "true_refuted": False, "oracle": True}
    return {**vars(case), **facts}


def test_shares_are_the_cases_of_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(controls, "judged", stub)
    options = ["--cases", "11", "--seed", "15"]
    shares = [tmp_path / f"share-{k}.jsonl" for k in (1, 2, 3)]
    for k, path in enumerate(shares, 1):
        assert controls.main([*options, "--out", str(path), "--share", f"{k}/3"]) == 0
        capsys.readouterr()
    assert [sorted(line["draw"][1] for line in read_lines(path)) for path in shares] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]
    together, alone = tmp_path / "together.jsonl", tmp_path / "alone.jsonl"
    together.write_text("".join(path.read_text() for path in shares))
    monkeypatch.setattr(controls, "judged", lambda *_: pytest.fail("every case is there"))
    assert controls.main([*options, "--out", str(together)]) == 0
    table = capsys.readouterr().out
    monkeypatch.setattr(controls, "judged", stub)
    assert controls.main([*options, "--out", str(alone)]) == 0
    assert capsys.readouterr().out == table
    assert controls.main([*options, "--out", str(alone), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert controls.main([*options, "--out", str(alone), "--json"]) == 0
    every, *_ = json.loads(capsys.readouterr().out)["rates"]
    clear_cases = sum(line["growth"] >= 3 and line["T"] >= 12 and line["noise"] <= 0.01 for line in read_lines(alone))
    assert 6 <= clear_cases < 11
    clear = dict.fromkeys(("clear_cases", "true_named", "oracle_tells", "named_where_it_tells"), clear_cases)
    assert every == {"of": "all", "cases": 11, "wrong_model_named": 0, "true_refuted": 0, **clear}
    assert controls.main([*options, "--out", str(alone), "--share", "0/3"]) == 2
    assert "1 <= K <= N" in capsys.readouterr().err


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("model", controls.TRUE_IF_STORED)
def test_features_seen_have_the_snr_of_the_record_and_what_their_model_conserves(model: str, unequal: bool) -> None:
    """The class means are followed by a solver of their own: without errors their SNR is that of the path of the record."""
    case = controls.Case(model, C=4, T=12, growth=5.0, noise=0.02, rho=0.7, anisotropy=0.7, unequal=unequal, stored=True)
    ((run, true),) = controls._made(case, 0)
    entries = entries_seen(case, true, np.random.default_rng(0))
    statistics = true_statistics(model, true)
    if model in ("joint", "layer"):
        assert entries is None
        assert features_seen(case, true, np.random.default_rng(0)) is None
        return
    assert entries is not None
    assert statistics is not None
    for seen, recorded in zip(entries, gram_of_spectrum(run.omega, run.V, true.entry.priors), strict=True):
        np.testing.assert_allclose(seen.gram(), recorded, atol=1e-10 * abs(recorded).max())
    ((_, exact),) = controls._made(replace(case, noise=0.0), 0)
    statistics, parameter = true_statistics(model, exact), controls.TRUE_PARAMETERS.get(model)
    assert statistics is not None
    if model in ("unnormalized", "kernel"):
        for (S, sigma), Y in zip(statistics, exact.Y, strict=True):
            level = log_gram(S.T @ np.linalg.solve(sigma, S), exact.frame)
            np.testing.assert_allclose(level, Y, atol=2e-4)  # Y is interpolated between points 0.01 apart
    seen = features_seen(replace(case, noise=0.0), exact, np.random.default_rng(0))
    assert contradiction(model, parameter, [seen], 0.01) == ""
    others = {"renormalized": None, "embedded": None, "unnormalized": None, "kernel": 4.0}
    told = {name for name, r in others.items() if contradiction(name, r, [seen], 0.1)}
    same = {model} if parameter or model == "unnormalized" else {"renormalized", "embedded"}
    assert told == set(others) - same


def test_a_case_is_judged_with_its_features_and_its_runs_do_not_depend_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    case = controls.Case("renormalized", C=4, T=12, growth=5.0, anisotropy=0.7)
    assert controls.judged(case, 0)["name"] == "renormalized"
    ((_, other),) = controls._made(replace(case, model="unnormalized"), 0)
    against = features_seen(replace(case, model="unnormalized"), other, np.random.default_rng(0))
    generators = list[np.random.Generator]()

    def stubbed(case: controls.Case, true: TrueRun, rng: np.random.Generator) -> SeenStatistics | None:
        generators.append(rng)
        return against

    monkeypatch.setattr(controls, "features_seen", stubbed)
    verdict = controls.judged(case, 0)
    assert (verdict["outcome"], verdict["compatible"]) == ("undecided", ["renormalized"])
    own = np.random.default_rng(controls._seed_words(case, 0)).standard_normal(4)
    assert not np.isin(generators[0].standard_normal(4), own).any()
