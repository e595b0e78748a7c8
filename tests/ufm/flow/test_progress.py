"""The line that tells how far a run is."""

import pytest

from ufm.flow import progress


def test_the_time_left_counts_what_was_done_since_the_run_went_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = progress.StageLine(quiet=False)
    line("scheme", 0.5)  # taken up half way
    now[0] += 10
    line("scheme", 0.6)
    line.close()
    told = capsys.readouterr().err
    assert "60.0%, about 40 s left" in told
    assert "about 7 s" not in told


def test_a_new_stage_begins_at_its_own_share(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = progress.StageLine(quiet=False)
    for stage, share, seconds in (("flow", 0.5, 2), ("scheme", 0.0, 2), ("scheme", 0.01, 2), ("scheme", 0.25, 0)):
        line(stage, share)
        now[0] += seconds
    assert "scheme  25.0%, about 12 s left" in capsys.readouterr().err
    assert not line.quiet


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = progress.StageLine(quiet=True)
    line("flow", 0.1)
    now[0] += 5
    line("flow", 0.9)
    line.close()
    assert capsys.readouterr().err == ""
