"""Where a run on shards starts: their class statistics, merged over blocks and processes.

No feature stays in memory but where the full X is integrated, for which every process keeps the columns of its own share.
"""

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from manifolds.class_centering import ClassLayout
from ufm.distributed import Processes, raised_in_all
from ufm.features.ranges import Reduction
from ufm.features.sharded import FactoredStatistics, counts_of, factored_snr, factored_statistics, restricted_to_range
from ufm.files.archive import check_memory
from ufm.files.rows import BLOCK_NUMBERS, SharedRows
from ufm.flow.config import FlowConfig
from ufm.flow.held_rows import columns_of, digest_of
from ufm.flow.share import ColumnShare
from ufm.flow.start import Start, check_examples, scaled_means, without_zeros
from ufm.laws.mean_system import MeanSystem, factored_mean_system


def prepare_shards(config: FlowConfig, shards: SharedRows, group: Processes) -> Start:
    """The start of a run on shards or a checkpoint; for the full X it has the columns of this process.

    Raises ValueError for options that need all features at once.
    """
    _check_options(config)
    _check_same(shards, group)
    mine = shards.share(group.rank, group.size)
    counts = counts_of(shards.labels(mine), group, shards.n)
    layout = ClassLayout(tuple(counts.tolist()))
    check_examples(layout)
    precision = max(float(np.finfo(shards.dtype).eps), float(np.finfo(config.dtype).eps))

    def place(row: int) -> str:
        return shards.place(mine.start + row)

    statistics = factored_statistics(lambda: shards.blocks(mine), layout, shards.P, precision, group, place)
    notes = [f"{shards.n} examples in {shards.where}" + f", read by {group.size} processes" * (group.size > 1)]
    reduction = None
    if config.reduce:
        total = float((statistics.centred_means**2).sum())
        statistics, basis = restricted_to_range(statistics)
        lost = max(total - float((statistics.centred_means**2).sum()), 0.0)
        reduction = Reduction(basis, shards.P - statistics.P, lost / total if total else 0.0)
        notes.append(reduction.note)
    measured, zeros = without_zeros(factored_snr(statistics))
    start = replace(Start(None, layout, measured, (*notes, *zeros), reduction), statistics=statistics)
    return with_columns(start, shards, mine, group) if config.full else start


def with_columns(start: Start, shards: SharedRows, mine: range, group: Processes) -> Start:
    """The start with the features of rows `mine` at hand."""
    with raised_in_all(group):
        check_memory({"the features of a process": len(mine) * shards.P * shards.dtype.itemsize})
        H, labels, held = columns_of(shards, mine, start.layout.C)
    digest = digest_of(H, labels, held.numbers, group)
    H = H if start.reduction is None else start.reduction.basis.T @ H
    layout = start.layout
    if group.size > 1:
        layout = ColumnShare(layout.sizes, tuple(np.bincount(labels, minlength=layout.C).tolist()), group)
    return replace(start, H=H, layout=layout, held=held, digest=digest)


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


def _check_same(shards: SharedRows, group: Processes) -> None:
    """Raise ValueError, in every process, where they read different files: rows would be lost or count twice."""
    described = zlib.crc32(shards.described.encode(errors="surrogateescape"))
    facts = np.zeros((group.size, 3), dtype=np.int64)
    facts[group.rank] = shards.n, shards.P, described
    facts = group.sum(facts)
    odd = np.flatnonzero((facts != facts[0]).any(1))
    if len(odd):
        differing, (n, P), (others, width) = "in names, rows or dtypes", facts[0, :2], facts[odd[0], :2]
        if (n, P) != (others, width):
            differing = f"{n} examples of P = {P} in process 0, {others} of P = {width} in process {odd[0]}"
        raise ValueError(
            f"the processes do not see the same {shards.where}, {differing}: give all of them all files, on one disk"
        )


def _check_options(config: FlowConfig) -> None:
    for name, value in (("balance", config.balance), ("device", config.device is not None)):
        if value:
            raise ValueError(f"{name} needs all features in memory: shards are known by their class statistics alone")
