"""Where the features of a command come from: random, one file, or shards or a checkpoint that several processes read."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ufm.distributed import Processes, check_alike, raised_in_all
from ufm.flow.config import FlowConfig
from ufm.flow.start import Start, prepare

if TYPE_CHECKING:
    from ufm.files.rows import SharedRows

WILD = "*?["


def read_by(features: str | None) -> tuple[str, ...]:
    """The files that a run reads."""
    if features is None:
        return ()
    return rows_of(features).files() if is_shared(features) else (features,)


def check_shared(features: str | None, group: Processes) -> None:
    """Raise ValueError, in every process, where one of several has nothing to share."""
    with raised_in_all(group):
        if features is None or not is_shared(features):
            lost = "" if features is None or os.path.exists(features) else f"there is no {features}; "
            raise ValueError(
                f"several processes share shards: {lost}give features 'FOLDER/*.npz' or a checkpoint, or start one process"
            )


def check_options_alike(options: Mapping[str, object], group: Processes) -> None:
    """Raise ValueError, in every process, where options differ on which the sums depend that they form together.

    The folders of paths may: one folder may have several names. `--features` may, whose rows are compared when they are there.
    """
    written = {name: path if (path := options[name]) is None else os.path.basename(str(path)) for name in ("out", "plot")}
    facts = {name: value for name, value in options.items() if name not in ("features", "quiet", "json")} | written
    check_alike(group, {"--" + name.replace("_", "-"): value for name, value in sorted(facts.items())})


def started(config: FlowConfig, group: Processes, left_vectors: bool) -> Start:
    """Where the run starts: one set of features in memory, or the statistics of shards."""
    if config.features is None or not is_shared(config.features):
        return prepare(config, left_vectors)
    from ufm.flow.sharded_start import prepare_shards

    with raised_in_all(group):
        rows = rows_of(config.features)
    return prepare_shards(config, rows, group)


def rows_of(features: str) -> "SharedRows":
    """The rows of a pattern of shards, or of a folder that torch.distributed.checkpoint has written."""
    if is_pattern(features):
        from ufm.files.shards import Shards

        return Shards.of(features)
    from ufm.files.checkpoint import CheckpointRows

    return CheckpointRows.of(features)


def is_shared(features: str) -> bool:
    """Whether several processes can read a share each."""
    return is_pattern(features) or os.path.isdir(features)


def is_pattern(name: str) -> bool:
    """Whether a name stands for several files: it has a wildcard, and no file is called so."""
    return any(character in name for character in WILD) and not os.path.exists(name)
