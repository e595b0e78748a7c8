"""What the annotations promise to a user's type checker: wrong arguments are refused where they are written, right ones pass."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from manifolds.linalg import array_like
from ufm.laws.domain import narrow

ROOT = Path(__file__).parents[1]

PROGRAM = """
from typing import assert_type

import numpy as np
import torch

import manifolds
import ufm

layout = manifolds.ClassLayout((5, 7, 6))
metric = manifolds.EmbeddedMetric(layout)
X, features, labels = np.zeros((2, 18)), np.zeros((18, 2)), np.zeros(18, dtype=np.int64)
x, rows, classes = torch.zeros(2, 18), torch.zeros(18, 2), torch.zeros(18, dtype=torch.int64)

assert_type(manifolds.renormalize(X, layout), type_of(X))
assert_type(manifolds.renormalize(x, layout), torch.Tensor)
assert_type(metric.gradient(x, x), torch.Tensor)
assert_type(layout.means(x), torch.Tensor)
assert_type(ufm.snr(x, layout).omega, torch.Tensor)
assert_type(ufm.statistics_of(rows, classes, 3).means, torch.Tensor)
manifolds.gradient_step(X, X, 0.1, metric)
manifolds.polar_retraction(x, x, layout)
metric.gradient(X, X)
ufm.snr(X, layout)
ufm.statistics_of(features, labels, 3)
ufm.class_blocks(features, labels)
ufm.ls_classifier(ufm.statistics_of(rows, classes, 3), 0.1)

manifolds.renormalize([[1.0, 2.0]], layout)  # wrong: a list for X
manifolds.renormalize(None, layout)  # wrong: None for X
manifolds.renormalize(1.0, layout)  # wrong: a number for X
manifolds.renormalize(X, "layout")  # wrong: a string for a layout
manifolds.renormalize(X, (5, 7, 6))  # wrong: the sizes for a layout
manifolds.gradient_step(X, [[1.0]], 0.1, metric)  # wrong: a list for G
manifolds.gradient_step(X, X, "0.1", metric)  # wrong: a string for a step
manifolds.polar_retraction(X, None, layout)  # wrong: None for U
metric.gradient(x, "G")  # wrong: a string for G
layout.means([1.0, 2.0])  # wrong: a list for X
ufm.snr([[1.0, 2.0]], layout)  # wrong: a list for H
ufm.snr(X, "layout")  # wrong: a string for a layout
ufm.statistics_of(features, None, 3)  # wrong: None for labels
ufm.statistics_of(features, [0, 1, 2], 3)  # wrong: a list for labels
ufm.class_blocks([[1.0, 2.0]], labels)  # wrong: a list for features
ufm.class_blocks(features, None)  # wrong: None for labels
ufm.ls_classifier(X, 0.1)  # wrong: an array for statistics
""".replace("type_of(X)", "np.ndarray[tuple[int, int], np.dtype[np.float64]]")


def test_a_type_checker_refuses_what_is_no_array_and_no_layout(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "pyrefly.toml").write_text(f'project-includes = ["program.py"]\nsearch-path = ["{ROOT}"]\n')
    command = [sys.executable, "-m", "pyrefly", "check", "--python-interpreter-path", sys.executable, "--output-format", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    refused = {error["line"]: error["description"] for error in json.loads(done.stdout)["errors"]}
    wrong = {number for number, line in enumerate(PROGRAM.split("\n"), 1) if "# wrong" in line}
    assert wrong - refused.keys() == set()
    assert {line: said for line, said in refused.items() if line not in wrong} == {}


def test_a_conversion_keeps_the_record_for_derivatives() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for converted in (array_like(3 * x, x.double()), narrow(3 * x.double(), x)):
        (slope,) = torch.autograd.grad(converted.sum(), x)
        assert slope.tolist() == [3.0, 3.0]
    assert narrow(np.array(2.0), np.zeros(1, np.float32)).dtype == np.float32
