"""One dialect of all commands: version, help with defaults, one-line errors, pipes, full disks, odd terminals, interrupts."""

import argparse
import ast
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ufm
from sims import command
from tests.fresh import FreshProcesses
from ufm.options import SHARED

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "sims.train",
    "sims.measure",
    "sims.figures",
    "sims.compare",
    "sims.study",
    "sims.models",
    "sims.digits_features",
    "sims.ladder",
    "sims.ledger",
    "sims.ledger_study",
    "sims.comparison.controls",
    "sims.examples.text_recognition",
    "ufm.flow",
)
FULL = Path("/dev/full")
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as a user's output is
OWN = {  # options of several commands whose meaning is the command's own, and why
    "--out": "what is written, and whether it is a file or a folder",
    "--dataset": "a cell of the protocol, or the data of a study",
    "--loss": "of the cell, or of the runs that are drawn",
    "--optimizer": "of a network, or of a model",
    "--weight-decay": "of a network's parameters, or of a model's W and H",
    "--feature-decay": "of a network, or of a flow",
    "--engine": "of a search, or of the networks of a study",
    "--jobs": "runs of a search, or networks of a study",
    "--share": "of the runs of a study, or of the cases of the controls",
    "--seeds": "runs or networks, with a default of the size",
    "--width": "a factor of the channels, or the features of one layer",
    "--flow": "of a model, or of the command",
    "--C": "of a model, or of random features",
    "--N": "of a model, or of random features",
    "--P": "of a model, or of random features",
    "--sizes": "of a model, or of random features",
}


def module_of(name: str) -> ModuleType:
    return importlib.import_module("ufm.flow.command" if name == "ufm.flow" else name)


def parser_of(name: str) -> argparse.ArgumentParser:
    return module_of(name).parser()


def with_subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    parsers = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
    return parsers


def help_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action)


def options_of(name: str) -> Iterator[tuple[str, argparse.ArgumentParser, argparse.Action]]:
    for parser in with_subparsers(parser_of(name)):
        for action in parser._actions:
            if action.option_strings and action.help != argparse.SUPPRESS:
                yield max(action.option_strings, key=len), parser, action


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_version(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        parser_of(name).parse_args(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"{name} {ufm.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_and_says_its_default(name: str) -> None:
    for parser in with_subparsers(parser_of(name)):
        assert all(action.help for action in parser._actions), name
    for option, parser, action in options_of(name):
        flag = action.nargs == 0 and action.default in (False, None, argparse.SUPPRESS)
        if action.required or flag or isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        text = help_of(parser, action)
        shown = re.search(r"default:? ([^)]+)", text) or re.search(r"(\S+) \(default", text)
        assert shown, f"{name}: {option} does not say its default"
        if isinstance(action.default, int | float) and not isinstance(action.default, bool):
            assert float(shown[1]) == action.default, f"{name}: {option}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_quiet_or_speaks_json(name: str) -> None:
    assert {"--json", "--quiet", "--version"} <= {option for option, _, _ in options_of(name)}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"sims.measure", "sims.figures"}))  # nothing in those is random
def test_every_command_that_draws_takes_a_seed(name: str) -> None:
    assert "--seed" in {option for option, _, _ in options_of(name)}


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("sims.ledger run", ["--epochs", "1", "3"], ["--measured", "1", "3"]),
        ("sims.digits_features --out x.npz", ["--learning-rate", "0.1"], ["--lr", "0.1"]),
    ],
)
def test_an_option_that_was_renamed_goes_on_to_work_and_is_not_in_the_help(name: str, before: list[str], now: list[str]) -> None:
    module, *arguments = name.split()
    parser = parser_of(module)
    assert parser.parse_args([*arguments, *before]) == parser.parse_args([*arguments, *now]) != parser.parse_args(arguments)
    assert before[0] not in parser.format_help()
    assert now[0] in parser.format_help()


@pytest.mark.parametrize(
    ("option", "others"),
    [("ufm.flow --ridge", ["--lambda"]), ("sims.measure --lambda", ["--ridge"]), ("sims.models --lambda-w", ["--lambda"])],
)
def test_a_weight_decay_names_the_option_that_is_the_same_elsewhere(option: str, others: list[str]) -> None:
    name, spelling = option.split()
    (text,) = {help_of(parser, action) for this, parser, action in options_of(name) if this == spelling}
    assert [other for other in others if other not in text] == []


def meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str, object]:
    """Help text without the default, type (that of a configuration takes a word beside it), and the kind of the option."""
    kind = getattr(action.type, "__name__", "str").split(" or ")[0]
    return re.sub(r"[ (]*\(default.*", "", help_of(parser, action)), kind, action.nargs


def test_an_option_means_the_same_wherever_it_is() -> None:
    meanings: dict[str, dict[str, set]] = {}
    for name in COMMANDS:
        for option, parser, action in options_of(name):
            meanings.setdefault(option, {}).setdefault(name, set()).add(meaning(parser, action))
    several = {option: set.union(*by_name.values()) for option, by_name in meanings.items() if len(by_name) > 1}
    assert {option: texts for option, texts in several.items() if len(texts) > 1 and option not in OWN} == {}
    assert OWN.keys() <= several.keys()
    assert {f"--{name}" for name in SHARED} <= several.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_devices_that_a_help_text_names_are_accepted(name: str) -> None:
    for option, parser, action in options_of(name):
        if option == "--device":
            devices = re.findall(r"\b(?:auto|cpu|cuda(?::\d)?)\b", help_of(parser, action))
            assert {"auto", "cpu", "cuda", "cuda:1"} <= set(devices)
            assert action.choices is None or set(devices) <= set(action.choices)


@pytest.mark.parametrize(("device", "reason"), [("nowhere", ""), ("cuda:99", ""), ("meta", "its tensors have no values")])
@pytest.mark.parametrize(
    "name", ["ufm.flow --C 3 --N 9 --P 4", "sims.models run lu-steinerberger", "sims.train --per-class 9", "sims.ledger_study"]
)
def test_a_device_that_is_not_there_is_one_line_in_every_command(
    name: str, device: str, reason: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module, *arguments = name.split()
    assert module_of(module).main([*arguments, "--device", device]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), error.startswith(f"{module}: error: device {device!r} cannot be used: {reason}")) == (1, True), (
        error
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ufm.flow --C 3 --N 9 --P 4", "sims.models run lu-steinerberger --C 3 --P 4"])
def test_a_device_has_a_number_in_every_command(name: str, capsys: pytest.CaptureFixture) -> None:
    module, *arguments = name.split()
    assert module_of(module).main([*arguments, "--device", "cpu:0", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["ufm.flow --C 3 --N 9 --P 4 --full", "sims.models run lu-steinerberger --C 3 --P 4"])
def test_the_device_auto_is_one_that_is_there(name: str, capsys: pytest.CaptureFixture) -> None:
    module, *arguments = name.split()
    assert module_of(module).main([*arguments, "--device", "auto", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["sims.measure", "sims.models"])
def test_a_deleted_working_directory_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        ["sh", "-c", f"cd gone; rmdir ../gone; exec {shlex.quote(sys.executable)} -m {name} --version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    line = f"{name}: error: the working directory cannot be used: No such file or directory; change to another\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


LIBRARY = [
    path
    for package in ("manifolds", "ufm", "sims")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.parent not in (ROOT / "sims", ROOT / "sims" / "examples")  # commands
    if path.name not in ("options.py", "controls.py", "command.py")
]


def text_in(node: ast.AST) -> str:
    """A string of a program, x for every value that is put into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_in, node.values))
    if isinstance(node, ast.FormattedValue):
        return "x"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_message_of_the_library_names_an_option() -> None:
    messages = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in LIBRARY
        for text in map(text_in, ast.walk(ast.parse(path.read_text())))
        if "`" not in text and re.search(r"(^|[ ('])--[a-z]", text)
    ]
    assert messages == []


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_one_line_and_exit_code_two(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        module_of(name).main(["--no-such-option"])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith(f"{name}: error: ")
    assert error.count("\n") == 1


AT_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == {library!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10**6): pass
if sys.argv[0] == "-m":
    sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.parametrize("library", ["argparse", "numpy"])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_among_the_imports_is_one_line(name: str, library: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT.format(library=library))
    done = subprocess.run(
        [sys.executable, "-m", name, *ARGUMENTS[name]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"{name}: interrupted")
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["sitecustomize.py"]


ARGUMENTS: dict[str, list[str]] = {
    "sims.train": ["--out", "run"],
    "sims.measure": ["absent.npz", "--out", "out.npz"],
    "sims.figures": ["absent", "--out", "figures"],
    "sims.compare": ["absent", "--out", "report"],
    "sims.study": ["--out", "study"],
    "sims.models": ["run", "mixon", "--out", "models"],
    "sims.digits_features": ["--out", "features.npz"],
    "sims.ladder": ["--out", "ladder"],
    "sims.ledger": ["absent", "--out", "ledger"],
    "sims.ledger_study": ["--out", "study"],
    "sims.comparison.controls": ["--out", "cases.jsonl"],
    "sims.examples.text_recognition": ["net.onnx", "--out", "figures"],
    "ufm.flow": ["--out", "run.npz"],
}


def test_the_interrupt_of_a_program_that_imports_sims_is_its_own(tmp_path: Path) -> None:
    code = (
        "import signal; own = signal.getsignal(signal.SIGINT); import sims.command; assert signal.getsignal(signal.SIGINT) is own"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    package = tmp_path / "program"
    package.mkdir()
    before = "import signal; own = signal.getsignal(signal.SIGINT)"  # ignored already in a job of the background
    (package / "__init__.py").write_text(f"{before}; import sims.command")
    (package / "__main__.py").write_text("import signal, program; assert signal.getsignal(signal.SIGINT) is program.own")
    subprocess.run(
        [sys.executable, "-m", "program", "sims.measure"],
        cwd=tmp_path,
        check=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )


@pytest.mark.parametrize("name", ["sims.models", "sims.ledger", "ufm.flow"])  # subcommands, light imports, no sims.command
def test_a_reader_that_leaves_a_command_is_no_error(name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", name, "--help"], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, env=BUFFERED, check=False
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def outcome(error: BaseException | None, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    def work(_: argparse.Namespace) -> None:
        if error is not None:
            raise error

    code = command.run_command(command.Parser("python -m sims.nothing", extra="models"), work, [], "the last run is kept")
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("measure", ["absent.npz", "--report", "page.html"]),
        ("compare", ["absent", "--out", "comparison"]),
        ("ledger", ["absent", "--out", "ledgers"]),
        ("study", ["--data-dir", "absent", "--out", "study"]),
        ("ladder", ["--out", "ladder"]),
    ],
)
def test_a_page_is_refused_before_its_numbers_are_computed(
    name: str, arguments: list[str], capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert importlib.import_module(f"sims.{name}").main(arguments) == 2
    assert "pip install 'neural-collapse-flow[train]'\n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (ValueError("cannot read a\nb.npz: cut"), 2, "sims.nothing: error: cannot read a\\nb.npz: cut\n"),
        (RuntimeError("CUDA error\nCompile with TORCH_USE_CUDA_DSA"), 1, "sims.nothing: error: CUDA error\n"),
        (FileNotFoundError(2, "No such file", "x"), 2, "sims.nothing: error: [Errno 2] No such file: 'x'\n"),
        (MemoryError(), 2, "sims.nothing: error: MemoryError\n"),
        (RuntimeError("CUDA out of memory. Tried"), 2, "sims.nothing: error: CUDA out of memory. Tried\n"),
        (RuntimeError("can't allocate memory: you tried"), 2, "sims.nothing: error: can't allocate memory: you tried\n"),
        (OverflowError("too large"), 2, "sims.nothing: error: too large\n"),
        (command.Failure("no minimum\nat all"), 1, "sims.nothing: error: no minimum\\nat all\n"),
        (
            command.Failure("1 of 2 networks failed: out of memory"),
            1,
            "sims.nothing: error: 1 of 2 networks failed: out of memory\n",
        ),
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


@pytest.mark.parametrize(("arguments", "said"), [([], "nothing was written"), (["--out", "x"], "files stay")])
def test_an_interrupt_tells_what_is_kept(arguments: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    def work(_: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    parser = command.Parser("python -m sims.nothing")
    parser.add_argument("--out", help="a file")
    assert command.run_command(parser, work, arguments, "files stay", only_with_out=True) == 130
    assert capsys.readouterr().err == f"\nsims.nothing: interrupted; {said}\n"


def test_a_defect_of_the_program_is_not_hidden(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(TypeError):
        outcome(TypeError("a bug"), capsys)


PRINTING = """
import sys
from sims import command
from ufm.output import show
def work(args):
    show({text!r} * {times})
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
    assert (ended.returncode, ended.stderr) == (
        2,
        b"sims.nothing: error: cannot write standard output: No space left on device\n",
    )


def test_a_closed_output_is_no_error() -> None:
    ended = printing("line", preexec_fn=lambda: os.close(1))
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_terminal_that_is_not_utf8_shows_question_marks() -> None:
    ended = printing("▁ĉ\udcff", stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"??\\udcff\n", b"")


def test_a_real_interrupt_ends_a_command_with_130_and_one_line(tmp_path: Path, fresh: FreshProcesses) -> None:
    small = ["--per-class", "30", "--test-per-class", "6", "--width", "0.05", "--robustness", "0", "--epochs", "2000"]
    code = (  # a job of the background starts with the signal ignored
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); print(os.getpid(), flush=True); "
        "from sims.train import main; sys.exit(main(sys.argv[1:]))"
    )
    call = [fresh.python, "-c", code, "--quiet", *small, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(number, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().splitlines() == ["sims.train: interrupted; repeat the command to go on from the last measured epoch"]


def test_what_reads_stored_runs_alone_does_without_torch() -> None:
    code = "import sys, sims.compare, sims.figures, sims.ladder, sims.ledger, sims.study; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
