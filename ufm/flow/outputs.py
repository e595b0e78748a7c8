"""Where a run writes: its arrays, its figure and its checkpoint, checked before anything is computed for them."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ufm.distributed import Processes
from ufm.files import store
from ufm.files.one_folder import check_one_folder
from ufm.files.write_lock import write_lock
from ufm.flow.checkpoints import remove_checkpoint
from ufm.flow.config import FlowConfig
from ufm.flow.result import FlowRun
from ufm.flow.source import is_pattern, is_shared, read_by


def output_paths(config: FlowConfig, out: str | None, plot: str | None, several: bool) -> tuple[Path | None, Path | None]:
    """The paths of the arrays and of the figure of one flow, where they are wanted.

    Raises ValueError where one of them, or the checkpoint, cannot be written or is read, or would be read as a shard next time.
    """
    read = read_by(config.features)
    paths = tuple(None if name is None else path_of_flow(name, config.flow, several) for name in (out, plot))
    for path in paths:
        if path is not None:
            store.check_writable(path, *read)
    if out is not None:
        _check_checkpoint(config, checkpoint_path(config, out, several), read)
    if paths[0] is not None and config.features is not None and is_pattern(config.features):
        from ufm.files.shards import is_named

        if is_named(config.features, paths[0]):
            raise ValueError(f"{paths[0]} would be one of the shards {config.features} next time: choose another name or folder")
    return paths[0], paths[1]


def path_of_flow(name: str, flow: str, several: bool) -> Path:
    """The path of one flow: its name before the suffix where there are several."""
    path = Path(name)
    return path.with_name(f"{path.stem}.{flow}{path.suffix}") if several else path


def checkpoint_path(config: FlowConfig, out: str, several: bool) -> Path:
    """Where a run of the full X keeps its state until its result is stored: a file, or on rows that processes share a folder."""
    shared = config.features is not None and is_shared(config.features)
    return path_of_flow(out, config.flow, several).with_suffix(".partial" if shared else ".partial.npz")


def locked_states(configs: Mapping[str, FlowConfig], out: str, group: Processes, locks: ExitStack) -> dict[str, Path]:
    """Where all processes keep the states of --full, in one folder; no other command writes these or the results during `locks`.

    Raises ValueError, in every process, where that is another folder in one of them, or another command has the lock.
    """
    states, several = dict[str, Path](), len(configs) > 1
    for name, config in configs.items():
        states[name] = checkpoint_path(config, out, several)
        check_one_folder(states[name].parent, group)
        locks.enter_context(write_lock(path_of_flow(out, name, several), group))
    return states


def write_run(result: FlowRun, out: Path | None, plot: Path | None, checkpoint: Path | None) -> None:
    """The arrays and the figure of a run, where asked for; the checkpoint of a whole run goes when they are on disk."""
    if out is not None:
        store.save_arrays(out, result.arrays)
        if checkpoint is not None and result.complete:
            remove_checkpoint(checkpoint)
    if plot is not None:
        from ufm.files.plot import save_figure, trajectory_figure
        from ufm.flow.report import title

        save_figure(trajectory_figure(result.flow, result.scheme, title(result)), plot)


def _check_checkpoint(config: FlowConfig, checkpoint: Path, read: tuple[str, ...]) -> None:
    features = config.features
    if features is None or not is_shared(features):
        store.check_writable(checkpoint, *read)
        return
    store.check_not_read(checkpoint, features)
    if checkpoint.exists() and not checkpoint.is_dir():
        raise ValueError(f"{checkpoint} is no folder, and the run keeps its state there: choose another name, or move it away")
