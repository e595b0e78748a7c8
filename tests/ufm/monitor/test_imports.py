"""The monitor needs its own extra alone; measuring once needs none; importing the library costs nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fresh import FreshProcesses

ROOT = Path(__file__).parents[3]
TRAINING = ("accelerate", "datasets", "sklearn", "foolbox", "tensorboard")
NETWORK = """
import torch
from torch import nn
torch.manual_seed(0)
y = torch.arange(30) % 3
x, model = torch.randn(3, 4)[y] + 0.1 * torch.randn(30, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
"""

CALLBACKS = (
    ("lightning", ("lightning", "pytorch_lightning"), "NeuralCollapseCallback needs Lightning: pip install lightning"),
    ("transformers", ("transformers",), "NeuralCollapseCallback needs transformers: pip install 'transformers[torch]'"),
    ("transformers", ("torchmetrics",), "watch needs torchmetrics: pip install 'neural-collapse-flow[monitor]'"),
)
ABSENT = """
import sys
from importlib.machinery import PathFinder
class Absent(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {0!r} else super().find_spec(name, path, target)
sys.meta_path[:] = [Absent if finder is PathFinder else finder for finder in sys.meta_path]
for name in [name for name in sys.modules if name.split(".")[0] in {{*{0!r}, "ufm", "manifolds"}}]:
    del sys.modules[name]  # what the fork server has imported
"""


def run(python: str, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", code], cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("blocked", "code", "expected"),
    [
        (TRAINING, NETWORK + "from ufm.monitor import watch; print(watch(model, '2').measure([(x, y)])['examples'])", "30.0"),
        (
            (*TRAINING, "torchmetrics"),
            NETWORK + "from ufm.monitor import measure_network; print(measure_network(model, [(x, y)], '2', 0.0).counts)",
            "[10 10 10]",
        ),
        (
            ("torchmetrics",),
            "try:\n    from ufm.monitor import watch\nexcept ImportError as error:\n    print(error)",
            "watch needs torchmetrics: pip install 'neural-collapse-flow[monitor]'",
        ),
        *(
            (packages, f"try:\n    import ufm.monitor.{name}_callback\nexcept ImportError as error:\n    print(error)", advice)
            for name, packages, advice in CALLBACKS
        ),
    ],
    ids=["without training extras", "without torchmetrics", "advice", "Lightning", "transformers", "metrics"],
)
def test_what_is_needed(blocked: tuple[str, ...], code: str, expected: str, fresh: FreshProcesses) -> None:
    assert run(fresh.python, ABSENT.format(blocked) + code) == expected


def test_the_monitor_is_imported_at_no_cost() -> None:
    code = "import sys, ufm, ufm.monitor; print([name for name in ('torch', 'torchmetrics', 'numpy') if name in sys.modules])"
    assert run(sys.executable, code) == "[]"
