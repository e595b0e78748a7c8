"""One thread in every test of an experiment, and a finished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from sims import train as command
from sims.comparison.analysis import Group
from tests.sims.runs import tiny


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a comparison are built and not rendered, which is most of a report's time: for tests that read its numbers."""
    from sims.comparison import figures, report

    def built(groups: Sequence[Group], fraction: float, file: BinaryIO) -> None:
        file.write(b"%PDF")

    monkeypatch.setattr(figures, "write_pdf", built)
    monkeypatch.setattr(report, "base64_of", lambda figure, form, metadata: "")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    torch.set_num_threads(1)
    command.train(tiny(save_features=(2, 4)), path)
    return path
