"""One of several gloo processes that write and read checkpoints of rows: run by test_checkpoint_processes."""

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from ufm.distributed import TorchProcesses
from ufm.files import checkpoint_writer
from ufm.files.checkpoint import load_rows
from ufm.files.checkpoint_writer import save_rows

N, P = 217, 7
DTYPES = ("float32", "float64")
CUTS = {"float32": 60, "float64": 0}  # rows of process 0 of two


def rows(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Features with a NaN, an infinity, a negative zero and a denormal, and labels."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((N, P)).astype(dtype)
    features[3, :4] = np.nan, np.inf, -0.0, np.finfo(dtype).smallest_subnormal
    return features, rng.integers(0, 5, N)


def write(folder: Path, group: TorchProcesses) -> None:
    """Two processes write shares of their own."""
    for dtype in DTYPES:
        features, labels = rows(dtype)
        mine = slice(0, CUTS[dtype]) if group.rank == 0 else slice(CUTS[dtype], None)
        save_rows(folder / f"two-{dtype}", features[mine], labels[mine], group)
    refuse(folder, group)


def refuse(folder: Path, group: TorchProcesses) -> None:
    """What one of them is refused is refused in both: the messages."""
    features, labels = rows("float64")
    asked = {
        "there": (folder / "two-float64", features, labels),
        "P": (folder / "refused", features[:, : P - group.rank], labels),
        "dtype": (folder / "refused", features.astype(DTYPES[group.rank]), labels),
        "nobody": (folder / "refused", features[:0], labels[:0]),
        "labels": (folder / "refused", features, labels[: N - group.rank]),
        "nowhere": (folder / "two-float64" / ".metadata" / "refused", features, labels),
        "name": (folder / f"refused-{group.rank}", features, labels),
        "own": (Path("refused"), features, labels),
    }
    if group.rank:  # a disk of its own, as it were
        (folder / "own").mkdir()
        os.chdir(folder / "own")
    else:
        os.chdir(folder)
    said = []
    for name, (out, of_features, of_labels) in asked.items():
        try:
            save_rows(out, of_features, of_labels, group)
        except ValueError as error:
            said.append(f"{name}: {error}\n")
    (folder / f"refused-{group.rank}.txt").write_text("".join(said))


def reshare(folder: Path, group: TorchProcesses) -> None:
    """They read a checkpoint of another number of processes, keep a copy of their share, and write it again."""
    for dtype in DTYPES:
        features, labels = load_rows(folder / f"before-{dtype}", group)
        np.savez(folder / f"share-{dtype}-{group.size}-{group.rank}.npz", features=features, labels=labels)
        save_rows(folder / f"after-{dtype}", features, labels, group)


def containers(folder: Path, group: TorchProcesses) -> None:
    """torch reads our checkpoint into DTensors, and we read what torch has written of DTensors, in uneven pieces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from torch.distributed import checkpoint
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (group.size,))
    whole: dict[str, Any] = dict(zip(("features", "labels"), map(torch.from_numpy, rows("float32")), strict=True))
    sharded = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in whole.items()}
    checkpoint.save(sharded, checkpoint_id=folder / "of-torch")
    read = {name: distribute_tensor(torch.zeros_like(tensor), mesh, [Shard(0)]) for name, tensor in whole.items()}
    checkpoint.load(read, checkpoint_id=folder / "before-float32")
    same = [read[name].to_local().numpy().tobytes() == sharded[name].to_local().numpy().tobytes() for name in whole]
    (folder / f"containers-{group.rank}.txt").write_text(str(same))


def killed(folder: Path, group: TorchProcesses) -> None:
    """A process is killed after it has written a part; the other ends with an error and says which."""
    victim = int(folder.name.removeprefix("killed-"))
    written = checkpoint_writer._RowsPlanner.resolve_data
    count = 0

    def resolve(self: Any, item: Any) -> Any:
        nonlocal count
        count += 1
        if group.rank == victim and count > 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return written(self, item)

    planner: Any = checkpoint_writer._RowsPlanner
    planner.resolve_data = resolve
    try:
        save_rows(folder / "out", *rows("float64"), group)
    except Exception as error:
        (folder / f"ended-{group.rank}.txt").write_text(type(error).__name__)


if __name__ == "__main__":
    warnings.simplefilter("error")
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    checkpoint_writer.BLOCK_NUMBERS = 64  # 9 rows: many pieces
    for part in sys.argv[5:]:
        globals()[part](Path(sys.argv[4]), TorchProcesses())
    if "killed" in sys.argv[5:]:
        os._exit(0)  # nobody is left to say goodbye to
    dist.destroy_process_group()
