"""Where the features of a command come from: random, one file, or shards that one or several processes read."""

from ufm.distributed import Processes
from ufm.flow.config import FlowConfig
from ufm.flow.start import Start, prepare


def read_by(features: str | None) -> tuple[str, ...]:
    """The files that a run reads."""
    if features is None:
        return ()
    from ufm.files.shards import Shards, is_pattern

    return tuple(map(str, Shards.of(features).paths)) if is_pattern(features) else (features,)


def check_shared(features: str | None) -> None:
    """Raise ValueError where several processes have nothing to share."""
    from ufm.files.shards import is_pattern

    if features is None or not is_pattern(features):
        raise ValueError("several processes share shards: give --features 'FOLDER/*.npz', or start one process")


def started(config: FlowConfig, group: Processes, left_vectors: bool) -> Start:
    """Where the run starts: one set of features in memory, or the statistics of shards."""
    from ufm.files.shards import is_pattern

    if config.features is None or not is_pattern(config.features):
        return prepare(config, left_vectors)
    from ufm.flow.sharded_start import prepare_shards

    return prepare_shards(config, group)
