"""The training loop: one process, one GPU or many under Hugging Face's launcher; deterministic, measured, resumable.

Order and initialisation depend on the seed and the epoch alone, so a run resumed after a kill ends with the same bits (CPU).
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sims.training.data import Data
from sims.training.examples import Examples, epoch_batches
from sims.training.folder import DAMAGED, RunFolder
from sims.training.loss_and_optimizer import facts_of, groups, optimizer_of, summed_loss
from sims.training.nets import CLASSIFIER, Shape, build, freeze_as_simplex_etf
from sims.training.processes import processes_of
from sims.training.protocol import TrainConfig
from sims.training.robustness import deepfool_robustness, robustness_sample
from sims.training.shared_statistics import share_running_statistics, synchronized
from sims.training.velocity import features_of, measure_velocity
from ufm.arrays import as_numpy
from ufm.distributed import Processes, check_alike, raised_in_all, wait_for_all
from ufm.features.least_squares import lambda_of_weight_decay
from ufm.features.ranges import Classifier
from ufm.files.json_objects import JsonObject
from ufm.monitor.epoch_statistics import save_statistics
from ufm.monitor.layers import linear_layer
from ufm.monitor.measurement import Measurement
from ufm.monitor.network import measure_network
from ufm.monitor.record import Record

Progress = Callable[[int, int, int], None]  # (epoch, batch, batches an epoch)
OnMeasurement = Callable[[int, float, Measurement], None]  # (epoch, training loss, what was measured)


def network(config: TrainConfig, data: Data) -> nn.Module:
    """The network of a configuration, initialised from its seed."""
    return network_of_images(config, data.train.images.shape[1:], data.classes)


def network_of_images(config: TrainConfig, images: tuple[int, ...], classes: int) -> nn.Module:
    """The network of a configuration for images (channels, height, width), initialised from its seed."""
    channels, height, width = images
    if height != width:
        raise ValueError(f"images of {height} x {width} are not square: pad them")
    torch.manual_seed(config.seed)
    variant = {"head_norm": config.head_norm, "memory_efficient": config.memory_efficient}
    model = build(config.net, Shape(channels, height, classes, config.width, config.batch_norm, config.stem, **variant))
    if config.fixed_etf:
        freeze_as_simplex_etf(linear_layer(model, CLASSIFIER), torch.Generator().manual_seed(config.seed))
    return model


class Trainer:
    """A network, its optimiser and its data under an Accelerator: `train_epoch`, `measure`, `state`, `restore`.

    Raises ValueError, in every process, where the data of several differ.
    """

    def __init__(self, config: TrainConfig, data: Data, accelerator: Accelerator, group: Processes | None = None) -> None:
        if config.optimizer == "lbfgs" and accelerator.num_processes > 1:
            # each process's line search would see its own share of the loss, take its own steps, and wait for the others
            raise ValueError(f"lbfgs runs in one process, not in {accelerator.num_processes}: use sgd or adam, or one process")
        if config.velocity and accelerator.num_processes > 1:
            raise ValueError(f"velocities are taken in one process, this run has {accelerator.num_processes}: leave them out")
        self.config, self.accelerator, self.fingerprint, self._data = config, accelerator, data.fingerprint, data
        self.group = group or processes_of(accelerator)
        check_alike(self.group, {"data": self.fingerprint})
        self.bare = synchronized(network(config, data)) if config.sync_batch_norm else network(config, data)
        self.head = linear_layer(self.bare, CLASSIFIER)
        self.lam = lambda_of_weight_decay(config.weight_decay, data.classes)
        self.groups = groups(self.bare, self.head, config)
        self.model, optimizer = accelerator.prepare(self.bare), optimizer_of(self.groups, config)
        # the wrapper scales gradients of 16 bits, and searches the disk for a package at every step
        self.optimizer: Any = optimizer if accelerator.scaler is None else accelerator.prepare(optimizer)
        self.loss = summed_loss(config)
        device = accelerator.device
        self.train, self.test = (Examples.of(split, data.normalizer, device) for split in (data.train, data.test))
        if not self._batches(1):
            raise ValueError(f"{len(data.train)} examples make no batch of {config.batch_size}: give a smaller batch_size")
        self._features: list[Tensor] = []
        self.head.register_forward_pre_hook(self._notice)

    def train_epoch(self, epoch: int, progress: Progress) -> float:
        """One pass over the training set; the mean loss of the batches in their order. Raises ValueError where it diverged."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate_at(epoch)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        total = torch.zeros((), device=self.accelerator.device)
        batches = self._batches(epoch)
        for k, batch in enumerate(batches):
            mine = torch.from_numpy(batch[rank::world]).to(self.accelerator.device)
            total += self._step(*self.train.batch(mine), scale=world / len(batch))
            progress(epoch, k + 1, len(batches))
        # every process sees the loss of its share: all must come to the same verdict, or the others would wait for ever
        mean = float(self.accelerator.reduce(total, "mean")) / len(batches)
        if not np.isfinite(mean):
            raise ValueError(f"training diverged in epoch {epoch} (loss {mean}): lower the learning rate {self.config.rate:g}")
        return mean

    def _batches(self, epoch: int) -> list[np.ndarray]:
        config, world = self.config, self.accelerator.num_processes
        return epoch_batches(len(self.train.labels), config.batch_size, config.seed, epoch, world, config.drop_last)

    def _step(self, inputs: Tensor, labels: Tensor, scale: float) -> Tensor:
        """One update. `scale` makes the sum over this process's share, averaged over processes, the mean over the batch."""

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            logits = self.model(inputs)  # the hook on the classifier notices the features on the way
            loss = scale * self.loss(logits, labels, self._features[0])
            if self.config.optimizer == "lbfgs":  # it has no weight decay of its own
                loss = loss + torch.stack([group.penalty() for group in self.groups]).sum()
            self.accelerator.backward(loss)
            return loss.detach()

        if self.config.optimizer != "lbfgs":
            loss = closure()
            self.optimizer.step()
            return loss
        met: list[Tensor] = []  # the search evaluates the closure many times, first where it stands

        def search() -> Tensor:
            met.append(closure())
            return met[-1]

        self.optimizer.step(search)
        return met[0]

    def measure(self, folder: RunFolder, epoch: int) -> Measurement:
        """Everything measured at this epoch, each process its share of the examples; features written where they are asked for.

        Process 0 attacks the images of the robustness by itself. An error of one process is raised in all.
        """
        if self.group.size > 1:  # those of its checkpoint: all measure one network
            share_running_statistics(self.bare)
        classifier = Classifier.of(self.head)
        W, b = (as_numpy(weights) for weights in (classifier.W, classifier.b))
        wanted = epoch in self.config.save_features
        keep = partial(folder.save_features, epoch, W=W, b=b) if wanted else None
        train, test = (examples.in_order(self.group.rank, self.group.size) for examples in (self.train, self.test))
        where = {"scratch": folder.path, "group": self.group}
        measurement = measure_network(self.bare, train, CLASSIFIER, self.lam, test, keep=keep, **where)
        with raised_in_all(self.group):
            if self.config.robustness and self.accelerator.is_main_process:
                sample = robustness_sample(len(self.test.labels), self.config.robustness, self.config.seed)
                images, _ = self.test.batch(torch.from_numpy(sample).to(self.accelerator.device))
                measurement.scalars["robustness"] = deepfool_robustness(self.bare, images)
        return measurement

    def velocity(self, epoch: int) -> JsonObject:
        """What the features do in the epoch after this one, trained and taken back, beside what the gradients say."""
        before = copy.deepcopy(self.state())
        now = features_of(self.bare, self.head, self.train.in_order())
        self.train_epoch(epoch + 1, lambda *_: None)
        moved = features_of(self.bare, self.head, self.train.in_order()) - now
        self.restore(before)
        with torch.random.fork_rng(devices=[]):
            wide = network(self.config, self._data).double().to(self.accelerator.device)
        wide.load_state_dict(self.bare.state_dict())
        batches = [(x.double(), y) for x, y in self.train.in_order()]
        return measure_velocity(wide, linear_layer(wide, CLASSIFIER), batches, self.config, moved)

    def state(self) -> dict[str, object]:
        """Everything that changes in training."""
        scaler = self.accelerator.scaler
        content = {"model": self.bare.state_dict(), "optimizer": self.optimizer.state_dict(), "data": self.fingerprint}
        return content | (dict[str, object]() if scaler is None else {"scaler": scaler.state_dict()})

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state saved by `state`."""
        self.bare.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _notice(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.model.training:
            self._features[:] = [inputs[0]]


def run(trainer: Trainer, folder: RunFolder, progress: Progress, report: OnMeasurement) -> Record:
    """Train, measure and checkpoint from wherever the folder stands to the last epoch. Returns what process 0 measured, there.

    Raises ValueError, in every process, where training diverges or where one process cannot resume, measure or store.
    """
    config, accelerator = trainer.config, trainer.accelerator
    alone = accelerator.is_main_process  # in what it stores, while the others wait
    with raised_in_all(trainer.group):  # and no checkpoint is written before all have read the last one
        start, record = _resumed(trainer, folder)
    with raised_in_all(trainer.group):
        if alone:
            folder.begin(accelerator.num_processes)
    loss = float("nan")
    for epoch in range(start, config.epochs + 1):
        if epoch:
            loss = trainer.train_epoch(epoch, progress)
        if epoch in config.measured:
            measurement = trainer.measure(folder, epoch)
            with raised_in_all(trainer.group):
                if alone:
                    record = record.with_epoch(epoch, measurement, trainer.lam)
                    save_statistics(folder.path, epoch, measurement, facts_of(config, len(measurement.counts), epoch))
                    if epoch in config.velocity:
                        folder.save_velocity(epoch, trainer.velocity(epoch))
                    folder.save_checkpoint(epoch, trainer.state(), record)
                    report(epoch, loss, measurement)
    with raised_in_all(trainer.group):
        if alone and config.epochs in config.measured:
            folder.finish()
    wait_for_all(trainer.group)
    return record if alone else Record.empty()


def _resumed(trainer: Trainer, folder: RunFolder) -> tuple[int, Record]:
    """The first epoch to train and what was measured before it, the trainer in that state."""
    saved = folder.load_checkpoint()
    if saved is None:
        return 0, Record.empty()
    epoch, state, record = saved
    if "data" in state:  # checkpoints of the first version have none
        folder.check_data(state["data"], trainer.fingerprint)
    try:
        trainer.restore(state)
    except DAMAGED as error:
        raise folder.damaged(error) from error
    return epoch + 1, record
