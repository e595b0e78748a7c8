"""Where the features of a command come from: random, one file, or shards that one or several processes read."""

import os

from ufm.distributed import Processes
from ufm.flow.config import FlowConfig
from ufm.flow.start import Start, prepare

WILD = "*?["


def read_by(features: str | None) -> tuple[str, ...]:
    """The files that a run reads."""
    if features is None:
        return ()
    if not is_pattern(features):
        return (features,)
    from ufm.files.shards import Shards

    return tuple(map(str, Shards.of(features).paths))


def check_shared(features: str | None) -> None:
    """Raise ValueError where several processes have nothing to share."""
    if features is None or not is_pattern(features):
        raise ValueError("several processes share shards: give --features 'FOLDER/*.npz', or start one process")


def started(config: FlowConfig, group: Processes, left_vectors: bool) -> Start:
    """Where the run starts: one set of features in memory, or the statistics of shards."""
    if config.features is None or not is_pattern(config.features):
        return prepare(config, left_vectors)
    from ufm.flow.sharded_start import prepare_shards

    return prepare_shards(config, group)


def is_pattern(name: str) -> bool:
    """Whether a name stands for several files: it has a wildcard, and no file is called so."""
    return any(character in name for character in WILD) and not os.path.exists(name)
