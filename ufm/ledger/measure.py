"""The ledger of a network: omega_j of its state after every operation, in sample, bias-corrected and held out.

from ufm.ledger import ledger
result = ledger(model, loader)
print(result.table())
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from manifolds.rng import RNG, seed_from
from ufm.ledger.batches import Loader, check_takes_one_tensor, classes_of, labelled_batches
from ufm.ledger.discrimination import Discrimination, signal_omega
from ufm.ledger.estimators import Estimates, estimates, shortfall
from ufm.ledger.first_pass import FirstPass
from ufm.ledger.leave_one_out import SecondPass
from ufm.ledger.reductions import Sketch, StateReduction
from ufm.ledger.result import Ledger
from ufm.ledger.states import Operation, State
from ufm.ledger.tracing import GraphTrace, Trace, traced
from ufm.ledger.undisturbed import undisturbed


def ledger(
    model: nn.Module,
    loader: Loader,
    reduction: StateReduction | None = None,
    seed: int = 0,
    *,
    rng: RNG = None,
) -> Ledger:
    """The ledger of `model` in evaluation mode on the examples of `loader`, batches (inputs (b, ...), labels (b,), ...).

    reduction  what is done to tensors of more features than its limit: `Sketch(512)` (default), or `ChannelMeans(512)`
    seed       of the bootstrap behind the intervals of `corrected`; or `rng`, a generator or a seed

    The loader is read three times (labels, statistics, leave-one-out), once more where single examples dominate directions,
    and once more where a covariance is nearly singular; in any order, with the same examples each time.
    Nothing of the caller's changes: modes, random generators, hooks, parameters, buffers.
    Labels may be any integers; classes are counted in their sorted order.
    Raises ValueError for a model whose forward needs several arguments, for a loader that can be read once only, that gives other
    data when read again, or no two classes, for an operation in whose output no axis has the examples, and for one after which
    no direction has any variability.
    """
    reduction = Sketch() if reduction is None else reduction
    check_takes_one_tensor(model)
    with undisturbed(model):
        classes = classes_of(loader)
        trace, note = traced(model)
        first = _first_pass(model, trace, loader, classes, reduction)
        forms = first.forms()

        def again(kept: list[Discrimination]) -> list[SecondPass]:
            passes = [SecondPass(stats, form) for stats, form in zip(first.statistics, kept, strict=True)]
            for x, y in labelled_batches(loader, model, classes):
                _second_pass(trace, x, y, iter(passes), reduction)
            return passes

        forms, kept, estimated = _estimated(forms, again, seed_from(rng, seed))
    return _assembled(first, forms, kept, estimated, classes, trace.seen, note)


def ledger_of_features(
    layers: Mapping[str, np.ndarray],
    labels: np.ndarray,
    reduction: StateReduction | None = None,
    seed: int = 0,
    *,
    rng: RNG = None,
) -> Ledger:
    """The ledger of features in memory: name -> (n, P) in the order of the operations, the first being the input; labels (n,).

    Raises ValueError for fewer than two layers, and for other numbers of examples than labels.
    """
    reduction = Sketch() if reduction is None else reduction
    if len(layers) < 2:
        raise ValueError(f"{len(layers)} layers: an input and at least one operation are needed")
    tensors = {name: torch.from_numpy(np.ascontiguousarray(H)) for name, H in layers.items()}
    for name, H in tensors.items():
        if H.ndim != 2 or len(H) != len(labels):
            raise ValueError(f"{name} has shape {tuple(H.shape)} and there are {len(labels)} labels: (n, P) and (n,) are needed")
    classes = classes_of([(None, torch.from_numpy(np.ascontiguousarray(labels)))])
    y = torch.from_numpy(np.searchsorted(classes, labels))
    first = FirstPass(len(classes), reduction)
    for name, H in tensors.items():
        first.begin(Operation(name, "features"), {name: H})
        first.streams[-1].update(reduction([H]), y)
    first.close()
    forms = first.forms()

    def again(kept: list[Discrimination]) -> list[SecondPass]:
        parts = zip(tensors.values(), first.statistics, kept, strict=True)
        return [SecondPass(stats, form).update(reduction([H]), y) for H, stats, form in parts]

    forms, kept, estimated = _estimated(forms, again, seed_from(rng, seed))
    return _assembled(first, forms, kept, estimated, classes, "features", "")


def _estimated(
    forms: list[Discrimination], again: Callable[[list[Discrimination]], list[SecondPass]], seed: int
) -> tuple[list[Discrimination], list[Discrimination], list[Estimates]]:
    """Forms of every row, whitened again where rounding spoiled it; those without directions of single examples; estimates.

    Either needs one more pass. A direction of a single example (a unit that one example switches on, a pixel that one image
    has) says nothing that could be checked on another example. Leaving it out is a linear map, so that the estimates are of a
    lower bound; in sample nothing is left out.
    """
    passes = again(forms)
    rewhitened = [second.rewhitened for second in passes]
    if any(new is not old for new, old in zip(rewhitened, forms, strict=True)):
        forms, passes = rewhitened, again(rewhitened)
    rows, alone = [second.compute() for second in passes], [second.alone for second in passes]
    omega = [signal_omega(row.signal, form.unbounded) for row, form in zip(rows, forms, strict=True)]
    kept = [form.without(a) if 0 < len(a) < form.rank else form for form, a in zip(forms, alone, strict=True)]
    if any(map(len, alone)):
        rows = [second.compute() for second in again(kept)]
    estimated = [estimates(form, row, seed) for form, row in zip(kept, rows, strict=True)]
    return forms, kept, [replace(e, omega=values) for e, values in zip(estimated, omega, strict=True)]


def _first_pass(model: nn.Module, trace: Trace, loader: Loader, classes: np.ndarray, reduction: StateReduction) -> FirstPass:
    first = FirstPass(len(classes), reduction)
    for x, y in labelled_batches(loader, model, classes):
        first.take(x, y, trace)
    if isinstance(trace, GraphTrace):
        first.probe(trace)
    first.close()
    return first


def _second_pass(trace: Trace, x: Tensor, y: Tensor, passes: Iterator[SecondPass], reduction: StateReduction) -> None:
    def visit(_: Operation, state: State, __: State | None) -> None:
        features = reduction(list(state.values()))
        next(passes).update(features, y.to(features.device))

    trace.walk(x, visit)


def _assembled(
    first: FirstPass,
    forms: list[Discrimination],
    kept: list[Discrimination],
    estimated: list[Estimates],
    classes: np.ndarray,
    seen: str,
    note: str,
) -> Ledger:
    shortfalls = [
        (shortfall(stats, form, precision) if isinstance(first.reduction, Sketch) else float("nan")) if reduced else 0.0
        for stats, form, precision, reduced in zip(first.statistics, forms, first.precisions, first.reduced, strict=True)
    ]
    omega = np.stack([e.omega for e in estimated])
    unresolved, raised = first.unresolved(forms, omega)
    return Ledger(
        operations=tuple(operation.name for operation in first.operations[1:]),
        kinds=tuple(operation.kind for operation in first.operations[1:]),
        affine=tuple(operation.affine for operation in first.operations[1:]),
        classes=classes,
        n=forms[0].n,
        features=np.array(first.sizes),
        ranks=np.array([form.rank for form in forms]),
        dropped=np.array([form.dropped for form in forms]),
        unresolved=unresolved,
        raised=raised,
        set_aside=np.array([form.rank - less.rank for form, less in zip(forms, kept, strict=True)]),
        reduced=np.array(first.reduced),
        shortfall=np.array(shortfalls),
        omega=omega,
        corrected=np.stack([e.corrected for e in estimated]),
        corrected_interval=np.stack([e.corrected_interval for e in estimated]),
        held_out=np.stack([e.held_out for e in estimated]),
        held_out_interval=np.stack([e.held_out_interval for e in estimated]),
        influence=np.stack([e.influence for e in estimated]),
        reasons=tuple(e.reason for e in estimated),
        seen=seen,
        note=note,
    )
