"""One thread in every test of an experiment, and a finished run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from sims import train as command
from tests.sims.runs import tiny


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are built, not rendered (most of a report's time); a file of one holds the name of its format."""

    def saved(_: Figure, file: Any, format: str = "png", **options: Any) -> None:
        if isinstance(file, PdfPages):
            file.infodict()  # begins the file, which then ends without a page
        else:
            file.write(f"%{format.upper()}".encode())

    monkeypatch.setattr(Figure, "savefig", saved)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    torch.set_num_threads(1)
    command.train(tiny(save_features=(2, 4)), path)
    return path
