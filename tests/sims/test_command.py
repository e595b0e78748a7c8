"""One dialect of all commands: version, help with defaults, one-line errors, pipes, full disks, odd terminals, interrupts."""

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ufm
from sims import command

ROOT = Path(__file__).parents[2]
COMMANDS = ("train", "measure", "figures", "compare", "study", "models", "digits_features")
FULL = Path("/dev/full")


def parser_of(name: str) -> argparse.ArgumentParser:
    return importlib.import_module(f"sims.{name}").parser()


def subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_version(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        parser_of(name).parse_args(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"sims.{name} {ufm.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_that_ends_in_its_default(name: str) -> None:
    for parser in subparsers(parser_of(name)):
        text = " ".join(parser.format_help().split())
        for action in parser._actions:
            assert action.help, f"{name}: {action.dest} has no help"
            told = action.default not in (None, False, argparse.SUPPRESS)
            if told and action.option_strings:
                described = text.rpartition(action.option_strings[-1])[2]
                shown = re.escape(str(action.default))
                assert re.match(rf".*?default:? {shown}", described), f"{name}: {action.dest}"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_one_line_and_exit_code_two(name: str, capsys: pytest.CaptureFixture) -> None:
    module = importlib.import_module(f"sims.{name}")
    with pytest.raises(SystemExit) as left:
        module.main(["--no-such-option"])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith(f"sims.{name}: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", command.SHARED)
def test_a_shared_option_means_the_same_wherever_it_is(option: str) -> None:
    settings = {
        (action.default, action.type, action.nargs)
        for name in COMMANDS
        for parser in subparsers(parser_of(name))
        for action in parser._actions
        if f"--{option}" in action.option_strings
        and not (name == "train" and option in ("seed", "device"))  # the cell's seed, and the launcher's device
        and not (name == "compare" and option == "seed")  # a seed of the bootstrap with a default of its own
    }
    assert len(settings) == 1


def outcome(error: BaseException | None, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    def work(_: argparse.Namespace) -> None:
        if error is not None:
            raise error

    code = command.run_command(command.Parser("python -m sims.nothing", extra="models"), work, [], "the last run is kept")
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (ValueError("C = 1\nmore of it"), 2, "sims.nothing: error: C = 1\n"),
        (FileNotFoundError(2, "No such file", "x"), 2, "sims.nothing: error: [Errno 2] No such file: 'x'\n"),
        (MemoryError(), 2, "sims.nothing: error: MemoryError\n"),
        (OverflowError("too large"), 2, "sims.nothing: error: too large\n"),
        (command.Failure("no minimum\nat all"), 1, "sims.nothing: error: no minimum\n"),
        (KeyboardInterrupt(), 130, "\nsims.nothing: interrupted; the last run is kept\n"),
        (BrokenPipeError(), 141, ""),
        (
            ModuleNotFoundError("No module named 'cvxpy'", name="cvxpy"),
            2,
            "sims.nothing: error: No module named 'cvxpy': pip install 'neural-collapse-flow[models]'\n",
        ),
        (ImportError("broken"), 2, "sims.nothing: error: broken\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_went_wrong_is_one_line(error: BaseException | None, code: int, line: str, capsys: pytest.CaptureFixture) -> None:
    assert outcome(error, capsys) == (code, line)


def test_a_defect_of_the_program_is_not_hidden(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(TypeError):
        outcome(TypeError("a bug"), capsys)


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as a user's output is
PRINTING = """
import sys
from sims import command
def work(args):
    print({text!r} * {times})
sys.exit(command.run_command(command.Parser("python -m sims.nothing"), work, []))
"""


def printing(text: str, times: int = 1, **how: object) -> subprocess.CompletedProcess:
    code = PRINTING.format(text=text, times=times)
    settings = {"stderr": subprocess.PIPE, "cwd": ROOT, "check": False, "env": BUFFERED} | how
    return subprocess.run([sys.executable, "-c", code], **settings)  # type: ignore[call-overload]


@pytest.mark.parametrize("times", [1, 100_000])  # within the buffer of the output, and beyond it
def test_a_reader_that_leaves_is_no_error(times: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = printing("line ", times, stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("times", [1, 100_000])
def test_a_full_output_is_one_line(times: int) -> None:
    with FULL.open("w") as full:
        ended = printing("line ", times, stdout=full)
    assert (ended.returncode, ended.stderr) == (2, b"sims.nothing: error: [Errno 28] No space left on device\n")


def test_a_closed_output_is_no_error() -> None:
    ended = printing("line", preexec_fn=lambda: os.close(1))
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_terminal_that_is_not_utf8_shows_question_marks() -> None:
    ended = printing("▁ĉ\udcff", stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"???\n", b"")


def test_help_into_a_pipe_that_nobody_reads_is_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    call = [sys.executable, "-m", "sims.train", "--help"]
    ended = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, env=BUFFERED, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_real_interrupt_ends_a_command_with_130_and_one_line(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "sims.train", "--quiet", "--robustness", "0", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        call,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job starts with it ignored
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().splitlines() == ["sims.train: interrupted; repeat the command to go on from the last measured epoch"]
