"""A plain training loop with a log, killed at an epoch where that is asked for: run by test_logs."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from ufm.monitor import watch
from ufm.monitor.logs import CsvLog, RunLog


def train(folder: Path, die_after: int | None = None, epochs: int = 6) -> None:
    """Six epochs of full-batch descent, a checkpoint every second one, everything logged every epoch."""
    torch.manual_seed(0)
    y = torch.arange(40) % 4
    x = torch.randn(4, 5)[y] + 0.3 * torch.randn(40, 5)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    folder.mkdir(exist_ok=True)
    start, checkpoint = 1, folder / "checkpoint.pt"
    if checkpoint.exists():
        start, weights, state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
    run = RunLog(folder / "run", lam=1e-3, optimizer="SGD", weight_decay=5e-4)
    logs, watched = [run, CsvLog(folder / "run.csv")], watch(model, "2", lam=1e-3)
    for epoch in range(start, epochs + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        values = watched.measure([(x, y)])
        for log in logs:
            log(epoch, {**values, "learning_rate": 0.5}, watched.measurement)
        if epoch == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if epoch % 2 == 0:
            torch.save((epoch + 1, model.state_dict(), optimizer.state_dict()), checkpoint)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
