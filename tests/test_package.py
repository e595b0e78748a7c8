"""The package as installed: commands by name, their versions, lowest bounds, and a wheel in an empty environment."""

import os
import subprocess
import sys
import tomllib
import venv
from importlib import import_module
from pathlib import Path

import pytest

import ufm
from tests.lowest import lowest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS: dict[str, str] = PROJECT["scripts"]


def module_of(script: str) -> str:
    """The module that `python -m` runs for a console script."""
    return SCRIPTS[script].partition(":")[0].removesuffix(".__main__")


def test_every_command_has_a_console_script_of_its_name() -> None:
    commands = {
        f"sims.{path.stem}" for path in (ROOT / "sims").glob("*.py") if '\nif __name__ == "__main__":' in path.read_text()
    }
    assert set(map(module_of, SCRIPTS)) == commands | {"ufm.flow"}
    for script in SCRIPTS:
        assert script == "ufm-" + module_of(script).partition(".")[2].replace("_", "-")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_says_its_version(script: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, function = SCRIPTS[script].partition(":")
    monkeypatch.setattr(sys, "argv", [script, "--version"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # a command may reconfigure it
    with pytest.raises(SystemExit) as left:
        getattr(import_module(module), function)()
    assert left.value.code == 0
    assert capsys.readouterr().out.split()[-2:] == [module_of(script), ufm.__version__]


def test_lowest_bounds_are_exact_versions() -> None:
    project = {"dependencies": ["b>=2.1", "a-c>=3"], "optional-dependencies": {"x": ["me[y]", "d>=1.0.2"]}}
    assert lowest(project) == ["a-c==3", "b==2.1", "d==1.0.2"]
    bounds = {line.partition("==")[0] for line in lowest(PROJECT)}
    assert {"numpy", "scipy", "torch", "geoopt", "pymanopt", "matplotlib", "hypothesis"} <= bounds


def test_every_requirement_is_pinned_for_the_tests() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {line.partition("==")[0].lower() for line in lowest(PROJECT)} <= pinned


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        words = list(map(str, command))
        done = subprocess.run(words, cwd=tmp_path, env=bare, capture_output=True, text=True, check=False, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    binaries = tmp_path / "empty" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    assert "constraint residual" in run(binaries / "ufm-flow", "--C", "4", "--N", "20", "--P", "6")
    assert run(binaries / "python", "-c", "import ufm; print(ufm.cite())").startswith("@software")
    home = run(binaries / "python", "-c", "import ufm, manifolds.geoopt, manifolds.pymanopt; print(ufm.__file__)")
    assert str(tmp_path) in home
    assert (Path(home.strip()).parent / "py.typed").exists()
    for script in SCRIPTS:
        assert ufm.__version__ in run(binaries / script, "--version"), script
    run(binaries / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[monitor]")
    watched = "watch(nn.Sequential(nn.Linear(4, 3)), '0').measure([(torch.randn(30, 4), torch.arange(30) % 3)])['examples']"
    absent = "[n for n in ('sklearn', 'accelerate', 'datasets', 'foolbox', 'tensorboard', 'transformers') if find_spec(n)]"
    imports = "import torch; from torch import nn; from ufm.monitor import watch; from importlib.util import find_spec"
    assert run(binaries / "python", "-c", f"{imports}; print({watched}, {absent})").split() == ["30.0", "[]"]


def test_every_locked_version_has_hashes_and_is_that_of_the_constraints() -> None:
    pinned = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    entries = [e for e in (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines() if not e.startswith("#")]
    locked: dict[str, set[str]] = {}
    for entry in entries:
        name, _, version = entry.split()[0].partition("==")
        assert "--hash=sha256:" in entry, name
        locked.setdefault(name.lower(), set()).add(version)
    assert {"numpy", "scipy", "torch", "pytest"} <= locked.keys()
    assert not {name: versions for name, versions in locked.items() if name in pinned and pinned[name] not in versions}
