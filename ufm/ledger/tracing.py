"""The operations of any torch network in the order of execution, and its state between them.

The state after an operation is every tensor that a later operation still reads: along a chain the last output, inside a residual
block the pair (skip, branch). Each operation is then a map from state to state, the sum at the end of a block is a linear map of
the pair, and gains add up exactly from the input to the output whatever the graph. Two ways to see it: torch.fx, and, for models
that it cannot trace (control flow that depends on data), hooks on the modules without children, each output taken as the state.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

AFFINE = frozenset((nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
AFFINE |= {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d}
AFFINE |= {nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d}
BATCH_NORMS = frozenset((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))

State = dict[str, Tensor]  # live tensors by name of the operation that made them
INPUT = "input"


@dataclass(frozen=True)
class Operation:
    """Name of an operation, what it is, and whether it is affine on the data at hand (None where that was not asked)."""

    name: str
    kind: str
    affine: bool | None = None


Visit = Callable[[Operation, State], None]


class GraphTrace:
    """A model as torch.fx sees it: `walk(x, visit)` calls visit(operation, state after it) in order."""

    seen = "torch.fx"

    def __init__(self, model: nn.Module) -> None:
        if _hooked(model):
            raise ValueError("the model itself has hooks, which torch.fx leaves out")
        with _attributes_kept(model):
            graph = _Tracer().trace(model)
        self.module = fx.GraphModule(model, graph)
        self.nodes = list(graph.nodes)
        index = {node: k for k, node in enumerate(self.nodes)}
        self.last_read = {node: max((index[user] for user in node.users), default=-1) for node in self.nodes}
        self.fed: set[fx.Node] = set()  # nodes that depend on the input
        for node in self.nodes:
            if node.op == "placeholder" or any(source in self.fed for source in node.all_input_nodes):
                self.fed.add(node)

    def walk(self, x: Tensor, visit: Visit, probe: bool = False) -> None:
        """Run the model on a batch; every state is as it is when its operation is done, in-place changes included."""
        run = fx.Interpreter(self.module, garbage_collect_values=False)
        run.args_iter = iter([x])
        for k, node in enumerate(self.nodes):
            versions = {id(t): t._version for s in node.all_input_nodes for t in _tensors(run.env.get(s))}
            affine = self._is_affine(run, node) if probe and node.op not in ("placeholder", "output", "get_attr") else None
            out = run.env[node] = run.run_node(node)
            if node.op == "output":
                return
            changed = any(versions.get(id(t)) != t._version for t in _tensors(out))
            if node.op != "get_attr" and node in self.fed and (node.op == "placeholder" or changed):
                visit(Operation(*self._described(node), affine), self._state(run, k, len(x)))
            for source in node.all_input_nodes:
                if self.last_read[source] <= k:
                    run.env.pop(source, None)

    def _state(self, run: fx.Interpreter, k: int, batch: int) -> State:
        state: State = {}
        for node in self.nodes[: k + 1]:
            if node in self.fed and self.last_read[node] > k and node in run.env:
                for j, tensor in enumerate(_tensors(run.env[node])):
                    # two names of one tensor (a view that changes nothing, an in-place result) are one part of the state
                    if not any(tensor is other for other in state.values()):
                        state[f"{node.name}.{j}"] = _by_example(tensor, batch, node.name)
        return state

    def _described(self, node: fx.Node) -> tuple[str, str]:
        if node.op == "placeholder":
            return INPUT, INPUT
        if node.op == "call_module":
            calls = [other for other in self.nodes if other.op == "call_module" and other.target == node.target]
            again = f" (call {calls.index(node) + 1})" if node is not calls[0] else ""
            return f"{node.target}{again}", type(self.module.get_submodule(str(node.target))).__name__
        return node.name, node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))

    def _is_affine(self, run: fx.Interpreter, node: fx.Node) -> bool | None:
        """Whether f((a + b) / 2) = (f(a) + f(b)) / 2 for the examples a of the batch and their neighbours b, None if all are a.

        Layers of torch that are affine by their definition are not asked: one that makes the last bits of its input large would
        fail, since (a + b) / 2 is rounded.
        """
        if node.op == "call_module" and _affine_by_definition(self.module.get_submodule(str(node.target))):
            return True
        fed = [t for source in node.all_input_nodes if source in self.fed for t in _tensors(run.env.get(source))]
        if all(torch.equal(t, t.roll(1, 0)) for t in fed):
            return None
        kept, outcomes = dict(run.env), list[Any]()
        try:
            for mix in (Tensor.clone, _with_neighbours):
                for source in node.all_input_nodes:
                    if source in self.fed:
                        run.env[source] = _mapped(kept[source], mix)
                outcomes.append(_tensors(run.run_node(node)))
        finally:
            run.env.clear()
            run.env.update(kept)
        pairs = zip(*outcomes, strict=True)
        return all(_close((out + out.roll(1, 0)) / 2, mixed) for out, mixed in pairs)


class HookTrace:
    """A model by hooks on its modules without children, in the order in which they are first called."""

    seen = "hooks"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.leaves = {name: module for name, module in model.named_modules() if not list(module.children()) and name}
        if not self.leaves:
            raise ValueError("the model has no modules inside, and torch.fx cannot trace it: no operation can be recorded")

    def walk(self, x: Tensor, visit: Visit, probe: bool = False) -> None:
        """Run the model on a batch; the state after a module is its output."""
        del probe
        calls: dict[str, int] = {}
        visit(Operation(INPUT, INPUT), {INPUT: x})

        def note(name: str, module: nn.Module, _: object, out: Any) -> None:
            tensors = _tensors(out)
            if tensors:
                calls[name] = calls.get(name, 0) + 1
                again = f" (call {calls[name]})" if calls[name] > 1 else ""
                state = {str(j): _by_example(t, len(x), name) for j, t in enumerate(tensors)}
                visit(Operation(name + again, type(module).__name__), state)

        with ExitStack() as stack:
            for name, module in self.leaves.items():
                handle = module.register_forward_hook(partial(note, name))
                stack.callback(handle.remove)
            self.model(x)


Trace = GraphTrace | HookTrace


def traced(model: nn.Module) -> tuple[Trace, str]:
    """The model seen by torch.fx, or by hooks where that fails, with the reason; an empty reason where it did not fail."""
    try:
        return GraphTrace(model), ""
    except Exception as error:  # what a user's forward raises when it meets torch.fx's stand-ins is anything
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return HookTrace(model), f"torch.fx cannot trace this model ({first}); sums outside of modules are not recorded"


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode without gradients; afterwards every mode and random generator is as it was."""
    modes = {module: module.training for module in model.modules()}
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if devices:
            torch.cuda.set_rng_state_all(devices)


class _Tracer(fx.Tracer):
    """Modules with hooks stay whole, so that hooks meet tensors and never torch.fx's stand-ins."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _hooked(m) or super().is_leaf_module(m, module_qualified_name)


def _affine_by_definition(module: nn.Module) -> bool:
    """A layer of torch itself, in evaluation mode and without hooks, that is an affine map whatever the data."""
    if type(module) in BATCH_NORMS:
        return module.running_mean is not None and not _hooked(module)
    return type(module) in AFFINE and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """What a forward stores on its modules while it is traced is undone."""
    saved = {module: dict(module.__dict__) for module in model.modules()}
    try:
        yield
    finally:
        for module, attributes in saved.items():
            module.__dict__.clear()
            module.__dict__.update(attributes)


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors with an axis in a value, tuples, lists and dictionaries looked into."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.ndim else []
    if isinstance(value, dict):
        value = list(value.values())
    return [t for part in value for t in _tensors(part)] if isinstance(value, (tuple, list)) else []


def _with_neighbours(x: Tensor) -> Tensor:
    return (x + x.roll(1, 0)) / 2


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() and value.ndim else value
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(part, change) for part in value)
    return value


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= torch.finfo(a.dtype).eps ** 0.5 * a.abs().max()) if a.numel() else True


def _by_example(tensor: Tensor, batch: int, name: str) -> Tensor:
    """(b, P) with the batch first. Raises ValueError where the first axis is neither the batch nor its examples split."""
    if tensor.shape[0] % batch:
        raise ValueError(f"{name} gives shape {tuple(tensor.shape)} for {batch} examples: the first axis must be the batch")
    return tensor.reshape(batch, -1) if tensor.shape[0] != batch else tensor
