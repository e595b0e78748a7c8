"""What several processes have measured a share of, brought together: the features where they are kept, one classifier."""

import numpy as np
import torch
from torch import Tensor

from ufm.arrays import as_numpy
from ufm.distributed import Processes, raised_in_all
from ufm.features.ranges import Classifier
from ufm.features.statistics import CHUNK
from ufm.files.spool import FeatureSpool


def gather_features(spool: FeatureSpool, group: Processes) -> None:
    """Append the features of all other processes to the spool of process 0, bit for bit, in the order of the ranks.

    All processes call it; memory is `CHUNK` rows. Raises ValueError, in every process, where process 0 cannot keep them.
    """
    for source in range(1, group.size):
        mine = spool.blocks(CHUNK) if group.rank == source else iter(())
        facts = next(mine, None)
        while True:
            # rows, P and bytes a number of the next block; no rows end it
            own = np.zeros(3, dtype=np.int64) if facts is None else np.array([*facts[0].shape, facts[0].dtype.itemsize])
            n, P, size = (int(number) for number in group.broadcast(own, source))
            if not n:
                break
            nothing = np.empty((n, P), dtype=np.float32 if size == 4 else np.float64), np.empty(n, dtype=np.int64)
            features, labels = (group.broadcast(values, source) for values in (facts or nothing))
            with raised_in_all(group):
                if group.rank == 0:
                    spool.append(features, labels)
            facts = next(mine, None)


def shared_classifier(own: Classifier, forwarded: bool, group: Processes) -> Classifier:
    """The classifier of the first process that has done a forward pass: without one, weights that a pass makes are stale."""
    if group.size == 1:
        return own
    source = int(group.smallest(np.array([group.rank if forwarded else group.size]))[0])
    if source == group.size:
        return own

    def of_source(values: Tensor) -> Tensor:
        return torch.from_numpy(group.broadcast(as_numpy(values), source)).to(values.device)

    return Classifier(of_source(own.W), of_source(own.b))
