"""One run of a rung into a folder: trained, measured, finished or begun again."""

import json
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sims.rungs.descent import Descent, FeatureDescent
from sims.rungs.rung import DIGITS_DATA, Rung, body_of, examples, rung_data
from sims.training.folder import velocity_file
from sims.training.protocol import TrainConfig
from sims.training.readers import DataChoice
from sims.training.velocity import measure_velocity
from ufm.arrays import as_numpy
from ufm.features.statistics import statistics_of
from ufm.files.json_objects import JsonObject, read_json
from ufm.files.store import write_text
from ufm.files.write_lock import write_lock
from ufm.monitor.epoch_statistics import add_layer
from ufm.monitor.logs import RunLog
from ufm.monitor.measurement import measure_features
from ufm.output import json_values

FINISHED = "finished.json"
GROWTH = 8.0  # of the geometric mean of omega, at which a descent ends
POINTS = 20  # measured in that growth
LOOK = 5  # steps between two looks at omega


class _Shifted(nn.Module):
    """body(x) + E."""

    def __init__(self, body: nn.Module, E: Tensor) -> None:
        super().__init__()
        self.body, self.E = body, E

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.E


def run_rung(rung: Rung, seed: int, path: Path, choice: DataChoice = DIGITS_DATA) -> None:
    """Train one run of a rung into a folder, unless it is finished there.

    Raises ValueError for a folder of another run, and for one that another command trains into.
    """
    data = rung_data(seed, choice)
    identity = json.loads(json.dumps(rung.identity(seed, data, choice)))
    done = path / FINISHED
    if done.exists():
        stored = read_json(done)
        if stored != identity:
            key = next(key for key in sorted(stored | identity) if stored.get(key) != identity.get(key))
            was, now = stored.get(key), identity.get(key)
            raise ValueError(f"{path} is another run ({key} = {was!r}, now {now!r}): choose another folder")
        return
    if rung.train is not None:
        from sims.training.session import train

        train(rung.training(seed, choice, data), path, cpu=True)
    else:
        assert rung.descent is not None
        x, labels = examples(data)
        path.mkdir(parents=True, exist_ok=True)
        with write_lock(path):
            descend(FeatureDescent(rung.descent, body_of(rung, x, labels, seed), x, labels, seed), rung, seed, path)
    write_text(done, json.dumps(identity, indent=1) + "\n")


def descend(descent: FeatureDescent, rung: Rung, seed: int, path: Path) -> None:
    """Descend until omega has grown by GROWTH or the steps are over, measured evenly in log omega, into the folder of a log."""
    how = descent.how
    lam = how.lam if how.rate_ratio is None else how.decay_w
    log = RunLog(path, lam, **_facts(how, descent, rung, seed))
    start = last = _measure_epoch(descent, 0, log, lam)
    pending = _Pending(descent, 0)
    for k in range(1, rung.steps + 1):
        descent.step((k - 1) / rung.steps)
        if pending.epoch + descent.steps_per_epoch == k:
            pending.write(path)
        if k % LOOK and k != rung.steps:
            continue
        now = _level(descent)
        far = now - start >= np.log(GROWTH)
        if abs(now - last) >= np.log(GROWTH) / POINTS or far or k == rung.steps:
            last = _measure_epoch(descent, k, log, lam)
            if pending.epoch + descent.steps_per_epoch <= k:
                pending = _Pending(descent, k)
        if far:
            break


class _Pending:
    """What the gradients say at a step, until an epoch later it is seen what the features did."""

    def __init__(self, descent: FeatureDescent, epoch: int) -> None:
        self.epoch, self.descent, self.H = epoch, descent, descent.features()
        self.weights = (descent.W.clone(), descent.b.clone())
        body = {name: p.detach().clone() for name, p in descent.body.state_dict().items()}
        self.body, self.E = body, descent.E.clone()

    def write(self, path: Path) -> None:
        """Compare and store."""
        descent = self.descent
        moved = descent.features() - self.H
        now = {name: p.detach().clone() for name, p in descent.body.state_dict().items()}
        head = nn.Linear(descent.W.shape[1], descent.C).double()
        with torch.no_grad():
            head.weight.copy_(self.weights[0])
            head.bias.copy_(self.weights[1])
        descent.body.load_state_dict(self.body)
        parts: OrderedDict[str, nn.Module] = OrderedDict(features=_Shifted(descent.body, self.E), classifier=head)
        model = nn.Sequential(parts)
        rate = descent.offset_rate
        values = measure_velocity(model, head, [(descent.x, descent.labels)], TrainConfig(weight_decay=0.0), moved, rate)
        descent.body.load_state_dict(now)
        if not descent.moving:  # of features that no network makes
            values["gains"] = None
        text = json.dumps({"epoch": self.epoch, **json_values(values)}, indent=1, allow_nan=False)
        write_text(velocity_file(path, self.epoch), text + "\n")


def _measure_epoch(descent: FeatureDescent, epoch: int, log: RunLog, lam: float) -> float:
    H, labels, W, b = (as_numpy(tensor) for tensor in (descent.features(), descent.labels, descent.W, descent.b))
    measurement = measure_features(H, labels, W, b, lam)
    log(epoch, {"learning_rate": descent.rate}, measurement)
    layers = list(descent.body) if isinstance(descent.body, nn.Sequential) else []  # children() would list a ReLU used twice once
    last = layers[-1] if layers else None
    if isinstance(last, nn.Linear) and len(descent.moving) == 1 and descent.moving[0] is last.weight:
        with torch.no_grad():  # a linear map trained over features that are fixed
            Z = nn.Sequential(*layers[:-1])(descent.x)
        below = statistics_of(as_numpy(Z), labels, descent.C)
        add_layer(log.folder, epoch, as_numpy(last.weight), below)
    return float(np.log(measurement.snr.omega).mean())


def _level(descent: FeatureDescent) -> float:
    from sims.training.velocity import level

    return level(descent.features(), descent.labels)


def _facts(how: Descent, descent: FeatureDescent, rung: Rung, seed: int) -> JsonObject:
    values = {name: str(value) if value == np.inf else value for name, value in asdict(how).items() if name != "lam"}
    facts = {"rung": rung.name, "body": rung.body, "seed": seed, "loss": "mse", "optimizer": "sgd", "decay_b": 0.0}
    return facts | values | {"batch_size": how.batch or descent.n}
