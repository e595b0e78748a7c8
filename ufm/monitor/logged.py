"""A folder of `ufm.monitor.logs.RunLog` read back; torch is needed only where the loss was not split while it was logged."""

import math
from pathlib import Path

import numpy as np

from ufm.files.json_objects import JsonObject, read_json
from ufm.laws.trajectory import LOSS_PARTS
from ufm.monitor.epoch_statistics import load_statistics, statistics_file
from ufm.monitor.record import RUN, TRAJECTORY, Record


def load_log(folder: Path, lam: float | None = None) -> tuple[JsonObject, Record]:
    """The facts and the record of a folder of `RunLog`. Raises ValueError where it is none.

    Where the loss was measured without lambda, its parts are those at the one logged, or else at `lam`, from the statistics and
    the classifier of every epoch.
    """
    facts, record = read_json(folder / RUN), Record.load(folder / TRAJECTORY)
    logged = float(record.arrays.get("lambda", np.nan))
    known = not math.isnan(logged)
    lam = logged if known else lam
    if lam is None or (known and np.isfinite(record.arrays["loss"]).any()):
        return facts, record
    losses = [_losses(statistics_file(folder, int(epoch)), lam) for epoch in record.epochs]
    by_name = {name: np.array([of[name] for of in losses]) for name in (losses[0] if losses else {})}
    return facts, Record({**record.arrays, **by_name, "lambda": np.asarray(lam)})


def _losses(path: Path, lam: float) -> dict[str, float]:
    """The loss and its parts by name, NaN without stored statistics, a classifier or a unique least-squares one."""
    arrays = load_statistics(path) if path.exists() else {}
    if not {"W", "b"} <= arrays.keys():
        return dict.fromkeys(LOSS_PARTS, math.nan)
    import torch

    from ufm.features.ranges import Classifier
    from ufm.features.statistics import ClassStatistics
    from ufm.monitor.measurement import ScalarCollector, add_losses

    counts, means, sigma_w, W, b = (
        torch.from_numpy(arrays[name]).double() for name in ("counts", "class_means", "sigma_w", "W", "b")
    )
    collector = ScalarCollector({}, [])
    add_losses(collector, ClassStatistics(counts, means, sigma_w, 0 * counts), Classifier(W, b), lam)
    return {name: collector.values[name] for name in LOSS_PARTS}
