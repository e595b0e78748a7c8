"""Every command run in this process, and what counts as an answer: a documented exit code and one line, never a traceback."""

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

COMMANDS = {
    "ufm.flow": "ufm.flow.command",
    "sims.train": "sims.train",
    "sims.measure": "sims.measure",
    "sims.figures": "sims.figures",
    "sims.compare": "sims.compare",
    "sims.models": "sims.models",
    "sims.ladder": "sims.ladder",
    "sims.ledger": "sims.ledger",
    "sims.ledger_study": "sims.ledger_study",
    "sims.study": "sims.study",
    "sims.digits_features": "sims.digits_features",
}
CODES = {0, 1, 2}  # done; a computation failed; refused


@dataclass(frozen=True)
class Outcome:
    """Exit code and both outputs."""

    code: int
    out: str
    err: str


def run(command: str, arguments: Sequence[str]) -> Outcome:
    """A command in this process. Whatever it raises but an exit goes through: that is a traceback."""
    main = importlib.import_module(COMMANDS[command]).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = end.code
    return Outcome(int(code or 0), out.getvalue(), err.getvalue())


def check_answer(outcome: Outcome) -> None:
    """Fail unless the command did what was asked, or said in one line why not."""
    assert outcome.code in CODES, outcome
    assert "Traceback" not in outcome.err, outcome
    if outcome.code:
        reasons = [line for line in outcome.err.splitlines() if ": error: " in line]
        assert len(reasons) == 1, outcome
