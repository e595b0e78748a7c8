"""The command of the controls: shares of the cases, side by side, are the cases of one command."""

from pathlib import Path
from typing import Any

import pytest

from sims.comparison import controls
from sims.comparison.lines import read_lines


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
    assert controls.main([*options, "--out", str(alone), "--share", "0/3"]) == 2
    assert "1 <= K <= N" in capsys.readouterr().err
