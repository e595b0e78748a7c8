"""Where a run on shards starts: their class statistics, merged over blocks and processes.

No feature stays in memory, but with --full, for which every process keeps the columns of its own share.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from manifolds.layout import ClassLayout
from ufm.distributed import Processes
from ufm.features.ranges import Reduction
from ufm.features.sharded import FactoredStatistics, counts_of, factored_snr, factored_statistics, restricted_to_range
from ufm.files.rows import BLOCK_NUMBERS, SharedRows
from ufm.flow.config import FlowConfig
from ufm.flow.share import ColumnShare
from ufm.flow.start import Start, check_examples, scaled_means, without_zeros
from ufm.laws.mean_system import MeanSystem, factored_mean_system


def prepare_shards(config: FlowConfig, shards: SharedRows, group: Processes) -> Start:
    """The start of a run on shards or a checkpoint; with --full it has the columns of this process.

    Raises ValueError for options that need all features at once.
    """
    _check_options(config)
    mine = shards.share(group.rank, group.size)
    counts = counts_of(shards.labels(mine), group)
    layout = ClassLayout(tuple(counts.tolist()))
    check_examples(layout)
    precision = max(float(np.finfo(shards.dtype).eps), float(np.finfo(config.dtype).eps))
    statistics = factored_statistics(lambda: shards.blocks(mine), layout, shards.P, precision, group)
    notes = [f"{shards.n} examples in {shards.where}" + f", read by {group.size} processes" * (group.size > 1)]
    reduction = None
    if config.reduce:
        total = float((statistics.centred_means**2).sum())
        statistics, basis = restricted_to_range(statistics)
        lost = max(total - float((statistics.centred_means**2).sum()), 0.0)
        reduction = Reduction(basis, shards.P - statistics.P, lost / total if total else 0.0)
        notes.append(reduction.note)
    measured, zeros = without_zeros(factored_snr(statistics))
    H: np.ndarray | None = None
    if config.full:
        H, held = columns_of(shards, mine, layout.C)
        H = H if reduction is None else reduction.basis.T @ H
        layout = layout if group.size == 1 else ColumnShare(layout.sizes, held, group)
    return replace(Start(H, layout, measured, (*notes, *zeros), reduction), statistics=statistics)


def columns_of(rows: SharedRows, part: range, C: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """The features of rows `part` in class blocks (P, columns), and how many there are of every class (C,)."""
    held = np.zeros(C, dtype=np.int64)
    for labels in rows.labels(part):
        held += np.bincount(labels.astype(np.int64), minlength=C)
    H = np.empty((rows.P, len(part)), dtype=rows.dtype)
    place = np.cumsum(held) - held
    for features, labels in rows.blocks(part):
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels.astype(np.int64), minlength=C)
        before = np.repeat(np.cumsum(counts) - counts, counts)  # of the block, in classes of smaller number
        H[:, place[labels[order]] + np.arange(len(labels)) - before] = features[order].T
        place += counts
    return H, tuple(held.tolist())


def system_of_columns(H: np.ndarray, start: Start, kernel_ratio: float) -> MeanSystem:
    """`ufm.laws.mean_system.mean_system` of the columns of all processes; H (P, columns) at hand, in class blocks."""
    layout = start.layout
    group = layout.group if isinstance(layout, ColumnShare) else None
    step, labels = max(1, BLOCK_NUMBERS // len(H)), layout.labels

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(labels), step):
            yield H[:, first : first + step].T, labels[first : first + step]

    statistics = factored_statistics(blocks, layout, len(H), start.snr.precision, group)
    return factored_mean_system(statistics, factored_snr(statistics), kernel_ratio)


def factored_system(config: FlowConfig, start: Start, statistics: FactoredStatistics) -> MeanSystem:
    """The class-mean system from the features as they are, or brought to total covariance I, in the coordinates of U."""
    if config.start == "raw":
        return factored_mean_system(statistics, start.snr, config.kernel_ratio)
    K, M = len(start.snr.omega), start.snr.omega[:, None] * start.snr.V.T
    U, sigma, _ = np.linalg.svd(scaled_means(start), full_matrices=False)
    to_one = np.eye(K) + (U * ((1 + sigma**2) ** -0.5 - 1)) @ U.T  # (I + S S^T)^{-1/2}
    whole = FactoredStatistics(start.layout, to_one @ M, np.zeros(K), to_one, float(K), start.snr.precision)
    return factored_mean_system(whole, factored_snr(whole), config.kernel_ratio)


def _check_options(config: FlowConfig) -> None:
    for name, value in (("balance", config.balance), ("device", config.device is not None)):
        if value:
            raise ValueError(f"--{name} needs all features in memory: shards are known by their class statistics alone")
