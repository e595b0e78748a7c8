"""The batches that a ledger is of: their classes, and their labels as 0..C-1."""

import inspect
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ufm.arrays import as_numpy

ONE_TENSOR = "pairs (inputs, labels) with one tensor of inputs are needed; give a loader and a model that take them"
Loader = Iterable[Sequence[Tensor]]  # of batches (inputs, labels, ...)


def classes_of(loader: Iterable[Sequence[object]]) -> np.ndarray:
    """The labels there are, sorted.

    Raises ValueError for a loader that can be read once only, for labels that are not integers (n,), and for fewer than two
    classes.
    """
    if iter(loader) is loader:
        raise ValueError(
            "the loader can be read only once; the ledger reads it three times: give a DataLoader or a list of batches"
        )
    labels = [np.unique(_one_an_example(as_numpy(torch.as_tensor(_inputs_and_labels(batch)[1])))) for batch in loader]
    present = np.unique(np.concatenate(labels)) if labels else np.zeros(0, dtype=np.int64)
    if present.dtype.kind not in "iub":
        raise ValueError(f"labels are {present.dtype}: integers are needed")
    if len(present) < 2:
        raise ValueError(f"the loader gives {len(present)} classes: at least 2 are needed")
    return present


def labelled_batches(loader: Loader, model: nn.Module, classes: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Copies of the inputs on the device of the model, labels as 0..C-1; batches without examples are left out."""
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    for batch in loader:
        inputs, labels = batch[0], as_numpy(torch.as_tensor(batch[1]))
        if not isinstance(inputs, Tensor):
            raise ValueError(f"the inputs of a batch are a {type(inputs).__name__}: {ONE_TENSOR}")
        if inputs.ndim == 0 or len(inputs) != len(labels):
            raise ValueError(
                f"inputs of shape {tuple(inputs.shape)} with {len(labels)} labels: the first axis of inputs is the examples'; "
                "of sequences (T, b, P) give inputs.transpose(0, 1), and transpose again in the model's forward"
            )
        known = np.isin(labels, classes)
        if not known.all():
            raise ValueError(
                f"label {labels[~known][0]} did not occur when the loader was read first: give a loader with fixed data"
            )
        if len(labels):  # a copy: the model may change its input in place
            yield inputs.to(device, copy=True), torch.from_numpy(np.searchsorted(classes, labels)).to(device)


def check_takes_one_tensor(model: nn.Module) -> None:
    """Raises ValueError for a model whose forward needs more than one argument, with their names."""
    needed = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(needed) > 1:
        raise ValueError(f"the model's forward needs {len(needed)} arguments ({', '.join(needed)}): {ONE_TENSOR}")


def _one_an_example(labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1:
        raise ValueError(
            f"labels have shape {labels.shape}: integers (n,) are needed, one an example; of one-hot rows take labels.argmax(1)"
        )
    return labels


def _inputs_and_labels(batch: Sequence[object]) -> Sequence[object]:
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(f"a batch is a {type(batch).__name__}: {ONE_TENSOR}")
    return batch
