"""One of several gloo processes that run --full on shards, and stop where they are told: run by test_full_checkpoints."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from ufm.distributed import Processes, processes
from ufm.files.store import save_arrays
from ufm.flow import checkpoints, stages
from ufm.flow.config import FlowConfig
from ufm.flow.run import run_flow
from ufm.flow.sharded_start import prepare_shards
from ufm.flow.source import rows_of

OFFERS = 4  # of which one is taken: several steps are lost with the process
RUNS: dict[str, dict[str, Any]] = {
    "renormalized": {"growth": 5.0},
    "embedded": {"growth": 5.0, "flow": "embedded", "reduce": True},
    "raw": {"flow": "unnormalized", "start": "raw", "t_end": 5.0},
}
STOPS = {"in flow": ("flow", 12), "in scheme": ("scheme", 6), "end": ("", 0)}


@contextmanager
def stopping(stage: str, count: int) -> Iterator[None]:
    """Every fourth state is kept; a stage is interrupted before it records the moment of this number."""
    record, offers = stages.Stage.record, 0

    def record_or_stop(self: stages.Stage, M: Any) -> None:
        if (self.name, self.count) == (stage, count):
            raise KeyboardInterrupt
        record(self, M)

    def is_time(self: checkpoints.Checkpoint) -> bool:
        nonlocal offers
        offers += 1
        return offers % OFFERS == 0

    with patch.object(stages.Stage, "record", record_or_stop), patch.object(checkpoints.SharedCheckpoint, "_is_time", is_time):
        yield


def run(folder: Path, name: str, state: str, stop: str, group: Processes) -> str:
    """One run from `state` to a moment; its arrays, and the columns that this process holds, go to STATE-SIZE-RANK.npz."""
    pattern, states = str(folder / "shards" / f"{name}-*.npz"), dict[str, np.ndarray]()
    config = FlowConfig(features=pattern, full=True, points=12, steps=8, **RUNS[name])
    start = prepare_shards(config, rows_of(pattern), group)
    held = start.held
    assert held is not None

    def remembering(kind: type[stages.Stage]) -> Any:
        residual = kind.residual

        def remembered(stage: stages.Stage) -> float:
            states[stage.name] = held.as_rows(np.asarray(stage.state).T)
            return residual(stage)

        return patch.object(kind, "residual", remembered)

    try:
        with stopping(*STOPS[stop]), remembering(stages.Stage), remembering(stages.FlowStage):
            result = run_flow(config, start, checkpoint=folder / f"{name}.{state}")
    except KeyboardInterrupt:
        return "stopped"
    except ValueError as error:
        return str(error)
    columns = {f"X_{stage}": rows for stage, rows in states.items()}
    save_arrays(folder / f"{name}.{state}-{group.size}-{group.rank}.npz", {**result.arrays, **columns})
    return "complete"


def main(folder: str, *orders: str) -> None:
    """Runs one after another, each NAME STATE STOP; what became of them."""
    group = processes()
    for order in orders:
        said = run(Path(folder), *order.split(",")[:3], group)  # type: ignore[call-arg]
        assert said == order.split(",")[3], said


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
