"""Neural collapse during training with the Trainer of Hugging Face's transformers."""

from collections.abc import Iterable, Sequence
from typing import Any

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ImportError("NeuralCollapseCallback needs transformers: pip install 'transformers[torch]'") from error

from ufm.monitor import watch
from ufm.monitor.logs import Log
from ufm.monitor.schedule import Schedule, in_order, log_all


class NeuralCollapseCallback(TrainerCallback):
    """Measures collapse after epochs, in a pass of its own over the training examples, each once; `state.log_history` keeps it.

    layer    dotted name of the last Linear, as "classifier" or "lm_head"
    loader   other examples than those of training, any iterable of batches
    every, epochs   when: every so many epochs, or at those named (counted 1, 2, ...)

    Other keywords as in `ufm.monitor.watch`; for causal language models shift=True, ignore_index=-100, classes="seen". Weights,
    modes, random states and data order are as without the callback.
    """

    def __init__(
        self,
        layer: str,
        loader: Iterable[Any] | None = None,
        every: int = 1,
        epochs: Sequence[int] | None = None,
        logs: Sequence[Log] = (),
        group: str = "collapse",
        **settings: Any,
    ) -> None:
        self.layer, self.loader, self.schedule, self.logs, self.group = layer, loader, Schedule(every, epochs), logs, group
        self.settings = settings
        self.watched: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Find the layers, so that a wrong name ends the run before it begins."""
        self.watched = watch(model, self.layer, **self.settings)

    def on_epoch_end(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        """Measure and log."""
        epoch = round(state.epoch)
        if epoch not in self.schedule:
            return
        values = self.watched.measure(in_order(train_dataloader) if self.loader is None else self.loader)
        state.log_history.append({"epoch": state.epoch, "step": state.global_step, **self._named(values)})
        if state.is_world_process_zero:
            log_all(self.logs, epoch, self.watched, values)

    def _named(self, values: dict[str, float]) -> dict[str, float]:
        return {f"{self.group}/{name}": value for name, value in values.items()}
