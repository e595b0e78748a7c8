"""Neural collapse during training with Lightning."""

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from ufm.monitor import Watched, watch
from ufm.monitor.batches import selected
from ufm.monitor.logs import Log
from ufm.monitor.schedule import Schedule, in_order, log_all, own_logs
from ufm.monitor.unchanged import batches_of, unchanged
from ufm.monitor.whole_weights import no_end_by_sharding

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

# one library under two names, whose classes do not mix: the one that the user has imported, or else has
LIGHTNING_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_imported = [name for name in LIGHTNING_PACKAGES if name in sys.modules]
_installed = [name for name in reversed(LIGHTNING_PACKAGES) if find_spec(name.partition(".")[0])]
if not _installed:
    raise ImportError("NeuralCollapseCallback needs Lightning: pip install lightning")
Callback: Any = import_module((*_imported, *_installed)[0]).Callback


SEVERAL: tuple[type, ...] = (list, tuple, dict)  # of which Lightning takes one loader or several


class NeuralCollapseCallback(Callback):
    """Measures collapse after training epochs, or during the validation pass; logs to the trainer and to `logs`.

    layer   dotted name of the last Linear of the LightningModule, as "model.fc"
    on      "train": a pass of its own over the training examples, each once, in evaluation mode (the measures of the papers);
            "validation": the features of the trainer's own validation pass, of the first validation loader where there are
            several, which costs no forward pass
    every, epochs   when: every so many epochs, or at those named (counted 1, 2, ...)
    loader  with on="train", other examples than those of the training loader, any iterable of batches

    A batch of the pass goes through the precision and the batch transfer hooks of the training. Data that has no length is read
    as far as the training reads it in an epoch. Under fast_dev_run only its batches are measured and nothing is written to
    `logs`. Other keywords as in `ufm.monitor.watch`. Weights, modes, random states and data order are as without the callback.
    """

    def __init__(
        self,
        layer: str,
        on: Literal["train", "validation"] = "train",
        every: int = 1,
        epochs: Iterable[int] | None = None,
        logs: Sequence[Log] = (),
        group: str = "collapse",
        loader: Iterable[object] | None = None,
        **settings: Any,
    ) -> None:
        if on not in ("train", "validation"):
            raise ValueError(f"on = {on!r}: it is 'train' or 'validation'")
        if on == "validation" and loader is not None:
            raise ValueError("on = 'validation' measures during the trainer's validation pass: leave loader= out")
        self.loader = loader
        self.layer, self.on, self.schedule, self.logs, self.group = (
            layer,
            on,
            Schedule(every, epochs),
            own_logs(logs, self),
            group,
        )
        self.settings, self.watched, self._measured = settings, None, False

    watched: Watched | None

    def on_fit_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Find the layers, so that a wrong name ends the run before it begins."""
        self.watched = watch(pl_module, self.layer, **self.settings)

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Refuse training data of which it is not known what is to be measured, before the training."""
        given = trainer.train_dataloader
        several = isinstance(given, SEVERAL) or type(given).__name__ == "CombinedLoader"
        if self.on == "train" and self.loader is None and several:
            raise ValueError("there are several training loaders: give loader=, the one whose examples are to be measured")

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Measure the training examples."""
        if self.on == "train" and trainer.current_epoch + 1 in self.schedule and self.watched is not None:
            given: Any = trainer.train_dataloader if self.loader is None else self.loader
            with no_end_by_sharding(self._stop):
                with unchanged(pl_module, given), trainer.precision_plugin.forward_context():
                    values = self.watched.measure(self._as_trained(trainer, given))
                self._log(trainer, pl_module, values)

    def _as_trained(self, trainer: Any, given: Iterable[object]) -> Iterator[object]:
        """The batches to measure, as the network gets them in training."""
        batches = in_order(given)
        endless = batches is given and self.loader is None
        most = trainer.num_training_batches if endless or trainer.fast_dev_run else float("inf")
        for batch in islice(batches_of(batches), None if most == float("inf") else int(most)):
            batch = trainer.precision_plugin.convert_input(batch)
            batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
            yield trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def on_validation_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Begin to catch features."""
        if self._catching(trainer) and self.watched is not None:
            self.watched.reset()
            self.watched.__enter__()

    def on_validation_batch_end(
        self, trainer: "Trainer", pl_module: object, outputs: object, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take in the features of the batch with its labels."""
        if not self._catching(trainer) or self.watched is None:
            return
        if dataloader_idx == 0:
            with no_end_by_sharding(self._stop):
                self.watched.update(selected(batch, self.watched.select).labels)
        else:
            self.watched.drop()

    def on_validation_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log what was caught."""
        if self._catching(trainer) and self.watched is not None:
            self.watched.__exit__(None, None, None)
            self._log(trainer, pl_module, self.watched.compute())

    def on_fit_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Say so where nothing was measured."""
        if not self._measured:
            when = f"every = {self.schedule.every}, epochs = {self.schedule.epochs}"
            said = f"of {trainer.current_epoch} epochs none was measured: {when}"
            if self.on == "validation":
                said = f"on='validation', and no validation pass was measured: give the trainer validation data ({said})"
            warnings.warn(said, stacklevel=2)

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        """Leave no hook behind."""
        if self.watched is not None:
            self.watched.__exit__(None, None, None)

    def _stop(self) -> None:
        if self.watched is not None:
            self.watched.__exit__(None, None, None)
        self.watched, self._measured = None, True  # what was said need not be said again at the end

    def _catching(self, trainer: "Trainer") -> bool:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking  # not trainer.validate, which may follow
        return self.on == "validation" and fitting and trainer.current_epoch + 1 in self.schedule

    def _log(self, trainer: Any, pl_module: "LightningModule", values: dict[str, float]) -> None:
        self._measured = True
        pl_module.log_dict({f"{self.group}/{name}": value for name, value in values.items()}, rank_zero_only=True, batch_size=1)
        if trainer.is_global_zero and not trainer.fast_dev_run and self.watched is not None:
            log_all(self.logs, trainer.current_epoch + 1, self.watched, values)
