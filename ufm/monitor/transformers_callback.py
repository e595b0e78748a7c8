"""Neural collapse during training with the Trainer of Hugging Face's transformers."""

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ImportError("NeuralCollapseCallback needs transformers: pip install 'transformers[torch]'") from error

from ufm.monitor import watch
from ufm.monitor.logs import Log
from ufm.monitor.schedule import Schedule, in_order, log_all, own_logs
from ufm.monitor.unchanged import batches_of
from ufm.monitor.whole_weights import no_end_by_sharding

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

EPOCH_ROUNDING = 1e-6  # of an epoch, which the trainer counts in fractions


class NeuralCollapseCallback(TrainerCallback):
    """Measures collapse after epochs, in a pass of its own over the training examples, each once; `state.log_history` keeps it.

    layer    dotted name of the last Linear, as "classifier" or "lm_head"
    loader   other examples than those of training, any iterable of batches
    every, epochs   when: every so many epochs, or at those named (counted 1, 2, ...)

    An epoch is a pass over the training data; one that max_steps or a fraction of an epoch ends early stands in
    `state.log_history` alone, not in `logs`. Data that has no length is read as far as the training has read it in the pass.
    Other keywords as in `ufm.monitor.watch`; for causal language models shift=True, ignore_index=-100, classes="seen". Weights,
    modes, random states and data order are as without the callback.
    """

    def __init__(
        self,
        layer: str,
        loader: Iterable[object] | None = None,
        every: int = 1,
        epochs: Iterable[int] | None = None,
        logs: Sequence[Log] = (),
        group: str = "collapse",
        **settings: Any,
    ) -> None:
        self.layer, self.loader, self.schedule, self.logs, self.group = (
            layer,
            loader,
            Schedule(every, epochs),
            own_logs(logs, self),
            group,
        )
        self.settings = settings
        self.watched: Any = None

    def on_train_begin(self, args: object, state: "TrainerState", control: object, model: Any = None, **_: object) -> None:
        """Find the layers, so that a wrong name ends the run before it begins."""
        self.watched = watch(model, self.layer, **self.settings)
        self._passes = math.floor((state.epoch or 0) + EPOCH_ROUNDING)

    def on_epoch_begin(self, args: object, state: "TrainerState", control: object, **_: object) -> None:
        """Count the steps of a pass."""
        self._begun = state.global_step

    def on_epoch_end(
        self, args: "TrainingArguments", state: "TrainerState", control: object, train_dataloader: Any = None, **_: object
    ) -> None:
        """Measure and log."""
        self._passes += 1
        if self.watched is not None and self._passes in self.schedule:
            with no_end_by_sharding(self._stop):
                self._measure(args, state, train_dataloader)

    def _stop(self) -> None:
        self.watched = None

    def _measure(self, args: "TrainingArguments", state: "TrainerState", train_dataloader: Any) -> None:
        values = self.watched.measure(self._batches(args, state, train_dataloader))
        finite = {f"{self.group}/{name}": value for name, value in values.items() if math.isfinite(value)}
        state.log_history.append({"epoch": state.epoch, "step": state.global_step, **finite})
        whole = not _has_length(train_dataloader) or abs(state.epoch - round(state.epoch)) < EPOCH_ROUNDING
        if state.is_world_process_zero and whole:
            log_all(self.logs, self._passes, self.watched, values)

    def _batches(self, args: "TrainingArguments", state: "TrainerState", given: Any) -> Iterable[object]:
        """The examples to measure."""
        if self.loader is not None:
            return self.loader
        batches = in_order(given)
        if _has_length(given):
            return batches
        read = (state.global_step - self._begun) * args.gradient_accumulation_steps
        return islice(batches_of(batches), read)


def _has_length(loader: Any) -> bool:
    try:
        len(loader)
    except TypeError:
        return False
    return True
