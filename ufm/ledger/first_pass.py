"""The first pass over the examples: statistics of the state after every operation, and what rounding leaves of the theorem."""

from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from manifolds.linalg import Array, epsilon
from ufm.arrays import as_numpy
from ufm.features.statistics import ClassStatistics, StreamingStatistics
from ufm.ledger.discrimination import Discrimination, discrimination
from ufm.ledger.example_axis import example_axes
from ufm.ledger.reductions import ChannelMeans, StateReduction
from ufm.ledger.rounding import raised_by_rounding, rounding_of_readouts, unresolved_by_later_rows
from ufm.ledger.states import Operation, State
from ufm.ledger.tracing import GraphTrace, Trace

AFFINITY_EXAMPLES = 64  # examples that operations are asked of whether they are affine, or as many as the first batch has


class FirstPass:
    """Operations, and statistics of the state after each, as the batches come."""

    def __init__(self, C: int, reduction: StateReduction) -> None:
        self.C, self.reduction = C, reduction
        self.operations: list[Operation] = []
        self.streams: list[StreamingStatistics] = []
        self.precisions: list[float] = []
        self.sizes: list[int] = []
        self.reduced: list[bool] = []
        self.errors: list[np.ndarray | None] = []
        self.statistics: list[ClassStatistics[Array]] = []
        self.wanted, self.examples = AFFINITY_EXAMPLES, list[list[Tensor]]()  # of the classes, to be probed with

    def begin(self, operation: Operation, state: State) -> None:
        """One more row, of a state like this one."""
        if not state:
            raise ValueError(f"{operation.name} has no floating-point features: give the part of the model after its embedding")
        self.operations.append(operation)
        self.streams.append(StreamingStatistics(self.C))
        self.precisions.append(max(epsilon(t) for t in state.values()))
        self.sizes.append(sum(t[0].numel() for t in state.values()))
        self.errors.append(None)
        self.reduced.append(not self.reduction.keeps([tuple(t.shape) for t in state.values()]))

    def close(self) -> None:
        """The statistics of all batches, their buffers freed."""
        self.statistics = [stream.compute() for stream in self.streams]
        self.streams.clear()

    def forms(self) -> list[Discrimination]:
        """The form of every row, each told the largest SNR of the one below, and which contrasts can have an infinite one."""
        told: list[Discrimination] = []
        for k, (stats, precision) in enumerate(zip(self.statistics, self.precisions, strict=True)):
            below, possible = 0.0, None
            if told:
                below = told[-1].largest
                if self.complete[k - 1] and self.complete[k]:
                    possible = told[-1].unbounded if self.operations[k].affine else told[-1].not_doubtful
            try:
                told.append(discrimination(stats, precision, below, possible))
            except ValueError as error:
                raise ValueError(f"{self.operations[k].name}: {error}") from error
        return told

    @property
    def complete(self) -> list[bool]:
        """Rows that the theorem holds between: not reduced, or reduced all alike by a map that affine operations commute with."""
        alike = isinstance(self.reduction, ChannelMeans) and self.reduction.always
        return [alike or not reduced for reduced in self.reduced]

    def unresolved(self, forms: list[Discrimination], omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Directions of every row that may have a finite or an infinite SNR, (L+1,); omega raised by rounding (L+1, K)."""
        affine = [operation.affine for operation in self.operations[1:]]
        tolerance = np.sqrt(self.precisions)  # what `Operation.affine` was probed with
        hidden = unresolved_by_later_rows(
            omega,
            affine,
            np.array([form.dropped for form in forms]),
            np.array([form.unresolved for form in forms]),
            tolerance,
            self.complete,
        )
        raised = np.zeros(omega.shape, dtype=bool)
        for k, known in enumerate(affine, 1):
            if known and self.complete[k - 1] and self.complete[k] and not hidden[k - 1]:
                rho = rounding_of_readouts(forms[k], self.statistics[k], self.errors[k], self.precisions[k])
                raised[k] = raised_by_rounding(omega[k - 1], omega[k], rho, forms[k].counts, float(tolerance[k]))
        return np.maximum(hidden, raised.sum(1)), raised

    def take(self, x: Tensor, y: Tensor, trace: Trace) -> None:
        """One batch through the network."""
        begins, calls = not self.operations, 0
        if begins:
            self.wanted = max(AFFINITY_EXAMPLES, len(x))
            self.examples = [[] for _ in range(min(self.C, self.wanted))]
            trace.axes = example_axes(trace.tensors, x)
        self._keep(x, y)

        def visit(operation: Operation, state: State, _: State | None) -> None:
            nonlocal calls
            if begins:
                self.begin(operation, state)
            if calls >= len(self.operations) or self.operations[calls].name != operation.name:
                raise ValueError(
                    f"the operations differ from batch to batch, first at {operation.name}: no ledger can be computed"
                )
            features = self.reduction(list(state.values()))
            self.streams[calls].update(features, y.to(features.device))
            calls += 1

        trace.walk(x, visit)
        if calls != len(self.operations):
            raise ValueError(f"a batch went through {calls} operations, the first one through {len(self.operations)}")

    def _keep(self, x: Tensor, y: Tensor) -> None:
        """Copies of the first examples of every class, for `probe`."""
        for c, kept in enumerate(self.examples):
            missing = -(-self.wanted // len(self.examples)) - len(kept)
            if missing > 0:
                kept.extend(example[None] for example in x[y == c][:missing].clone())

    def probe(self, trace: GraphTrace) -> None:
        """Which operations are affine, and how they round: asked of examples of every class, neighbours of other classes.

        The batches of a loader may be small, or of one class each, of which a ReLU is affine once the class has collapsed.
        """
        asked = dict[tuple[str, str], tuple[Operation, np.ndarray | None]]()

        def visit(operation: Operation, _: State, error: State | None) -> None:
            rows = None if error is None else as_numpy(self.reduction(list(error.values())))
            asked[operation.name, operation.kind] = operation, None if rows is None else rows.T @ rows / len(rows)

        in_turn = [one for examples in zip_longest(*self.examples) for one in examples if one is not None]
        trace.walk(torch.cat(in_turn[: self.wanted]), visit, probe=True)
        told = [asked.get((operation.name, operation.kind), (operation, None)) for operation in self.operations]
        self.operations, self.errors = [operation for operation, _ in told], [error for _, error in told]
        self.examples.clear()
