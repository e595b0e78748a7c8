"""A torchmetrics metric whose states are moments: what it takes to gather, merge, move, store and restore them exactly."""

import copy
import itertools
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from ufm.arrays import on_device_with_float64
from ufm.monitor.inputs import FAULTS, OTHER_CLASSIFIER, OTHER_CLASSIFIER_THERE, grown_faults
from ufm.monitor.moments import IGNORED, Moments, bits_of, check_one_metric, merged_states
from ufm.monitor.waiting import LEAST, MOST, StoredRows, WaitingRows

OF_INSTANCE = "instance"
_instances = itertools.count(1)


class MomentsMetric(Metric):
    """Rows wait until there are enough for one product, become moments, and are stored on disk where that is asked for.

    Processes are gathered by merging moments in the order of their ranks (never by sums of squares): all have the same bits.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    classes: Tensor
    counts: Tensor
    scatter: Tensor
    W: Tensor
    b: Tensor
    precision: Tensor
    faults: Tensor
    width: Tensor

    def __init__(self, stored: bool, scratch: Path | None, lazy: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stored, self.scratch, self.lazy = stored, scratch, lazy
        self._forget()

    def _add_states(self, classes: int) -> None:
        """The moments of so many classes, the classifier W, b, and facts about the rows."""
        nothing = Moments.empty(classes) | {
            "W": torch.zeros(0, 0, dtype=torch.float64),
            "b": torch.zeros(0, dtype=torch.float64),
            "precision": torch.zeros(1, dtype=torch.float64),
            "faults": torch.zeros(len(FAULTS), dtype=torch.int64),
            "width": torch.zeros(1, dtype=torch.int64),  # P
        }
        for name, value in nothing.items():
            self.add_state(name, value, persistent=True)
        # MetricCollection lets one metric work for all whose states are equal, as those are whose rows wait: never equal
        self.add_state(OF_INSTANCE, bits_of(next(_instances)), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """`update`; a batch has no value of its own, since it has too few examples a class."""
        self.update(*args, **kwargs)

    def reset(self) -> None:
        """Forget everything: features, classifier and what is stored."""
        super().reset()
        self._forget()

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Take in everything that another metric has seen, or its states by name (these without the stored features).

        Raises ValueError, and takes nothing in, for a metric of other classes or another P.
        """
        if incoming_state is self:
            raise ValueError("a metric cannot be merged into itself: give the other one")
        self._take_in_waiting()
        states: Any = incoming_state
        if isinstance(incoming_state, MomentsMetric):
            incoming_state._take_in_waiting()
            states = incoming_state._states
        if not isinstance(states, dict):
            raise ValueError(f"another {type(self).__name__} or its states are needed, got {type(incoming_state).__name__}")
        states = {**states, **grown_faults(states)}
        self._check_states(states)
        parts = [self._states, {name: value.to(self.device) for name, value in states.items() if name in self._states}]
        check_one_metric(parts, OTHER_CLASSIFIER)
        self._set_states(parts)
        if isinstance(incoming_state, MomentsMetric) and incoming_state._rows is not None:
            self._rows = self._rows or StoredRows(self.scratch)
            self._rows.extend(incoming_state._rows)
        self._computed, self._update_count = None, self._update_count + 1

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Values that are the caller's own: torchmetrics would give those out that it keeps."""
        kept = super()._wrap_compute(compute)

        @wraps(compute)
        def own(*args: Any, **kwargs: Any) -> Any:
            return copy.copy(kept(*args, **kwargs))

        return own

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Take the data of all processes in the place of this one's, as `compute` does by itself."""
        self._take_in_waiting()
        super().sync(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Everything but the stored features: a metric restored from it has no NC4 of them."""
        self._take_in_waiting()
        return super().state_dict(*args, **kwargs)

    def set_dtype(self, dst_type: str | torch.dtype) -> "MomentsMetric":
        """Does nothing: moments stay in float64, since fewer digits do not resolve collapse."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        self._take_in_waiting()
        return {**super().__getstate__(), "_waiting": None, "_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.faults = grown_faults(self.__dict__).get("faults", self.faults)
        self._defaults["faults"] = torch.zeros_like(self.faults)
        self.add_state(OF_INSTANCE, bits_of(next(_instances)).to(self.device), persistent=False)  # a copy is another metric

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        own = {name: state_dict[f"{prefix}{name}"] for name in self._states if f"{prefix}{name}" in state_dict}
        if own:
            grown = grown_faults(own)
            self._check_states(own | grown)
            state_dict.update({f"{prefix}{name}": value for name, value in grown.items()})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if own:  # weights of a network that were saved without this metric leave what it has seen
            self._forget()
            self.to(self.device)
            self._computed, self._update_count = None, self._update_count + 1

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], exclude_state: Any = "") -> "MomentsMetric":
        self._take_in_waiting()
        self._waiting = None
        device = on_device_with_float64(fn(torch.zeros(1, device=self.device))).device
        super()._apply(partial(torch.Tensor.to, device=device), exclude_state)  # a change of precision would lose digits
        return self

    def _sync_dist(
        self, dist_sync_fn: Callable[..., list[torch.Tensor]] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        group = process_group or self.process_group
        gathered = {name: dist_sync_fn(value, group=group) for name, value in self._states.items()}
        parts = [dict(zip(gathered, values, strict=True)) for values in zip(*gathered.values(), strict=True)]
        check_one_metric(parts, OTHER_CLASSIFIER_THERE)  # every process has all parts, so that all raise or none does
        self._set_states(parts)

    @property
    def _states(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._defaults if name != OF_INSTANCE}

    def _set_states(self, parts: list[dict[str, Tensor]]) -> None:
        for name, value in merged_states(parts).items():
            setattr(self, name, value)

    def _check_states(self, states: Mapping[str, Tensor]) -> None:
        """Raise ValueError where states are not those of such a metric: of another version, cut, or of other classes."""
        missing = [name for name in self._states if not isinstance(states.get(name), Tensor)]
        if missing:
            raise ValueError(f"the states lack {', '.join(missing)}: they are of another version or of another metric")
        K, P = len(states["classes"]), len(states["scatter"])
        expected = {name: tuple(value.shape) for name, value in Moments.empty(K, P).items()}
        defaults = {name: value for name, value in self._defaults.items() if isinstance(value, Tensor)}
        expected |= {name: tuple(defaults[name].shape) for name in ("faults", "precision", "width")}
        expected["b"] = tuple(states["W"].shape[:1])
        for name, shape in expected.items():
            value, dtype = states[name], defaults[name].dtype
            if (tuple(value.shape), value.dtype) != (shape, dtype):
                wanted = f"{tuple(value.shape)} {value.dtype}, {shape} {dtype} is needed"
                raise ValueError(f"the state {name} is {wanted}: it is of another version, or was converted")
        self._check_classes(states["classes"])

    def _check_classes(self, classes: Tensor) -> None:
        """Raise ValueError where states have other classes than this metric."""
        if not self.lazy and not torch.equal(classes.to(self.classes.device), self.classes):
            raise ValueError(f"states of {len(classes)} classes do not go with a metric of {len(self.classes)}")

    def _forget(self) -> None:
        self._waiting: WaitingRows | None = None
        self._rows: StoredRows | None = None

    def _room_for(self, rows: Tensor, labels: Tensor, P: int) -> WaitingRows:
        """Where rows of this dtype wait; those of another one, which may hold more digits, wait no longer."""
        if self._waiting is not None and self._waiting.dtype == rows.dtype:
            return self._waiting
        self._take_in_waiting()
        if self.device != rows.device:
            self.to(rows.device)
        self.precision = self.precision.clamp(min=torch.finfo(rows.dtype).eps)
        self.width = torch.full_like(self.width, P)
        capacity = MOST if self.lazy else min(max(LEAST, 8 * len(self.classes)), MOST)
        self._waiting = WaitingRows(capacity, rows, labels)
        return self._waiting

    def _take_in(self, waiting: WaitingRows, rows: Tensor, labels: Tensor) -> None:
        if self.stored:
            kept = labels != IGNORED
            whole = bool(kept.all())
            self._rows = self._rows or StoredRows(self.scratch)
            self._rows.add(rows if whole else rows[kept], labels if whole else labels[kept])
        moments = Moments.of_rows(rows, labels, None if self.lazy else self.classes, waiting.deviations)
        self._set_states([self._states, {**self._states, "faults": 0 * self.faults, **moments}])

    def _take_in_waiting(self) -> None:
        if self._waiting is not None:
            for rest in self._waiting.rest():
                self._take_in(self._waiting, *rest)

    def _over_stored(self, summand: Callable[[Tensor, Tensor], Tensor], total: Tensor) -> Tensor:
        """The sum over the stored rows of all processes. Raises ValueError where some of the rows seen are not stored."""
        rows, total, failure = self._rows, total.to(self.device), None
        try:
            total = total if rows is None else rows.sum_of(summand, total)
        except Exception as error:  # whatever it is: the other processes wait for this one
            failure = error
        refused, failed = isinstance(failure, ValueError), failure is not None and not isinstance(failure, ValueError)
        facts = torch.tensor([0 if rows is None else rows.count, refused, failed], device=self.device)
        if self._is_synced:
            gather = self.dist_sync_fn or gather_all_tensors
            total, facts = (torch.stack(gather(value, group=self.process_group)).sum(0) for value in (total, facts))
        count, refusals, failures = facts.tolist()
        if failure is not None and (failed or not failures):
            raise failure
        if failures:
            raise RuntimeError(f"{failures} other processes could not read their stored features: their own errors say why")
        if refusals:
            raise ValueError("undefined for the features of another process, which says why")
        if count != int(self.counts.sum()):
            kept = f"{count} of {int(self.counts.sum())} features are stored"
            raise ValueError(
                f"{kept}, and the class means are known only now: keep stored=True, and one metric for the whole pass"
            )
        return total
