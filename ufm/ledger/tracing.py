"""The operations of any torch network in the order of execution, and its state between them.

The state after an operation is every tensor that a later operation still reads: along a chain the last output, inside a residual
block the pair (skip, branch). To read its shape, dtype or device is not to read a tensor. Each operation is then a map from state
to state, the sum at the end of a block is a linear map of the pair, and gains add up exactly from the input to the output
whatever the graph. Two ways to see it: torch.fx, and, for models that it cannot trace (control flow that depends on data), hooks
on the modules without children, each output taken as the state.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ufm.ledger.affine import affine_by_definition, agree, has_hooks, means_with_neighbours
from ufm.ledger.undisturbed import attributes_kept

State = dict[str, Tensor]  # live tensors by name of the operation that made them
INPUT = "input"
ANY_BEFORE = " ?"  # ends the kind of an operation that may include functional ones before it
SHAPE_ATTRIBUTES = frozenset(("shape", "device", "dtype", "ndim", "layout", "is_cuda", "requires_grad", "itemsize", "nbytes"))
SHAPE_CALLS = frozenset((len, torch.numel, torch.is_floating_point, torch.zeros_like, torch.ones_like, torch.full_like))
SHAPE_CALLS |= {"size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point", "element_size", "get_device"}
SHAPE_CALLS |= {torch.empty_like, "__len__", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"}
SHAPE_OF_SECOND = frozenset(("view_as", "reshape_as", "expand_as", "type_as"))


@dataclass(frozen=True)
class Operation:
    """Name of an operation, what it is, and whether it is affine on the data at hand (None where that was not asked)."""

    name: str
    kind: str
    affine: bool | None = None


Visit = Callable[[Operation, State, State | None], None]


class GraphTrace:
    """A model as torch.fx sees it: `walk(x, visit)` calls visit(operation, state after it, its rounding error) in order."""

    seen = "torch.fx"

    def __init__(self, model: nn.Module) -> None:
        if has_hooks(model):
            raise ValueError("the model itself has hooks, which torch.fx leaves out")
        with attributes_kept(model):
            graph = _Tracer().trace(model)
        self.module = fx.GraphModule(model, graph)
        self.nodes = list(graph.nodes)
        index = {node: k for k, node in enumerate(self.nodes)}
        self.last_run = {node: max((index[user] for user in node.users), default=-1) for node in self.nodes}
        self.last_read = {  # as data: what is run later for its shape alone is no part of a state
            node: max((index[user] for user in node.users if _reads_data(user, node)), default=-1) for node in self.nodes
        }
        self.fed: set[fx.Node] = set()  # nodes that depend on the numbers of the input
        for node in self.nodes:
            if node.op == "placeholder" or any(s in self.fed and _reads_data(node, s) for s in node.all_input_nodes):
                self.fed.add(node)
                if node.op == "call_method" and str(node.target).endswith("_"):  # in place, of zeros too
                    self.fed.update(node.all_input_nodes[:1])

    def walk(self, x: Tensor, visit: Visit, probe: bool = False) -> None:
        """Run the model on a batch; every state is as it is when its operation is done, in-place changes included.

        With `probe` operations are asked whether they are affine, and affine ones for their rounding error, shaped as the state.
        """
        run = fx.Interpreter(self.module, garbage_collect_values=False)
        run.args_iter = iter([x])
        for k, node in enumerate(self.nodes):
            versions = {id(t): t._version for s in node.all_input_nodes for t in _tensors(run.env.get(s))}
            asked = probe and node.op not in ("placeholder", "output", "get_attr")
            affine, errors = self._probed(run, node) if asked else (None, [])
            out = run.env[node] = run.run_node(node)
            if node.op == "output":
                return
            changed = any(versions.get(id(t)) != t._version for t in _tensors(out))
            if node.op != "get_attr" and node in self.fed and (node.op == "placeholder" or changed):
                state, error = self._state(run, k, len(x)), None
                if affine and errors:
                    known = {id(t): e for t, e in zip(_tensors(out), errors, strict=True)}
                    error = self._state(run, k, len(x), known)
                visit(Operation(*self._described(node), affine), state, error)
            for source in node.all_input_nodes:
                if self.last_run[source] <= k:
                    run.env.pop(source, None)

    def _state(self, run: fx.Interpreter, k: int, batch: int, errors: dict[int, Tensor] | None = None) -> State:
        state, parts = State(), list[Tensor]()
        for node in self.nodes[: k + 1]:
            if node in self.fed and self.last_read[node] > k and node in run.env:
                for j, tensor in enumerate(_tensors(run.env[node])):
                    # two names of one tensor (a view that changes nothing, an in-place result) are one part of the state
                    if not any(tensor is other for other in parts):
                        parts.append(tensor)
                        shown = tensor if errors is None else errors.get(id(tensor), torch.zeros_like(tensor))
                        state[f"{node.name}.{j}"] = _by_example(shown, batch, node.name)
        return state

    def _described(self, node: fx.Node) -> tuple[str, str]:
        if node.op == "placeholder":
            return INPUT, INPUT
        if node.op == "call_module":
            calls = [other for other in self.nodes if other.op == "call_module" and other.target == node.target]
            again = f" (call {calls.index(node) + 1})" if node is not calls[0] else ""
            return f"{node.target}{again}", type(self.module.get_submodule(str(node.target))).__name__
        return node.name, node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))

    def _probed(self, run: fx.Interpreter, node: fx.Node) -> tuple[bool | None, list[Tensor]]:
        """Whether f((a + b) / 2) = (f(a) + f(b)) / 2, in float64 too, for examples a and their neighbours b, None if all are a.

        Layers of torch that are affine by their definition are so even where this fails: one that makes the last bits of its
        input large would, since (a + b) / 2 is rounded. What remains of the difference, returned for the outputs of an affine
        operation, is of the size of its rounding error, cancellation inside it included.
        """
        known = node.op == "call_module" and affine_by_definition(self.module.get_submodule(str(node.target)))
        fed = [t for source in node.all_input_nodes if source in self.fed for t in _tensors(run.env.get(source))]
        if all(torch.equal(t, t.roll(1, 0)) for t in fed):
            return known or None, []
        pairs = self._of_neighbours(run, node)
        affine = known or all(agree(*pair) for pair in pairs)
        if affine and not known and any(t.dtype != torch.float64 for t in fed):
            with suppress(Exception):  # what an operation that knows its own dtype raises is anything
                affine = all(agree(*pair) for pair in self._of_neighbours(run, node, in_float64=True))
        return affine, [mean - mixed for mean, mixed in pairs] if affine else []

    def _of_neighbours(self, run: fx.Interpreter, node: fx.Node, in_float64: bool = False) -> list[tuple[Tensor, Tensor]]:
        """(f(a) + f(b)) / 2 and f((a + b) / 2) of every output; in float64 a weak nonlinearity is no rounding."""
        kept, outcomes = dict(run.env), list[Any]()
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if in_float64 and module is not None and not has_hooks(module):
            module = deepcopy(module).double()
        try:
            for mix in (Tensor.clone, means_with_neighbours):
                for source in node.all_input_nodes:
                    value = _mapped(kept[source], Tensor.double) if in_float64 else kept[source]
                    run.env[source] = _mapped(value, mix) if source in self.fed else value
                args, kwargs = run.fetch_args_kwargs_from_env(node)
                outcomes.append(_tensors(run.run_node(node) if module is None else module(*args, **kwargs)))
        finally:
            run.env.clear()
            run.env.update(kept)
        return [(means_with_neighbours(out), mixed) for out, mixed in zip(*outcomes, strict=True)]


class HookTrace:
    """A model by hooks on its modules without children, in the order in which they are first called."""

    seen = "hooks"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.leaves = {name: module for name, module in model.named_modules() if not list(module.children()) and name}
        if not self.leaves:
            raise ValueError("the model has no modules inside, and torch.fx cannot trace it: no operation can be recorded")

    def walk(self, x: Tensor, visit: Visit) -> None:
        """Run the model on a batch; the state after a module is its output, and its kind ends with `ANY_BEFORE`."""
        calls: dict[str, int] = {}
        visit(Operation(INPUT, INPUT), {INPUT: x}, None)

        def note(name: str, module: nn.Module, _: object, out: Any) -> None:
            tensors = _tensors(out)
            if tensors:
                calls[name] = calls.get(name, 0) + 1
                again = f" (call {calls[name]})" if calls[name] > 1 else ""
                state = {str(j): _by_example(t, len(x), name) for j, t in enumerate(tensors)}
                visit(Operation(name + again, type(module).__name__ + ANY_BEFORE), state, None)

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
        return HookTrace(model), f"torch.fx cannot trace this model ({first}); {MODULES_ONLY}"


MODULES_ONLY = (
    "hooks see modules only: functional operations outside of them (activations, pooling, sums) are counted with the module that "
    "follows, so that a row marked ? may have a gain although its module is affine; what follows the last module is not recorded"
)


class _Tracer(fx.Tracer):
    """Modules with hooks stay whole, so that hooks meet tensors and never torch.fx's stand-ins."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return has_hooks(m) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """Optional arguments of the forward have their defaults, which no stand-in could be told from a tensor by."""
        forward, (root, x, *others) = super().create_args_for_root(*args, **kwargs)
        for k, other in enumerate(others):
            if isinstance(other, fx.Proxy) and other.node.args:
                self.graph.erase_node(other.node)
                others[k] = other.node.args[0]
        return forward, [root, x, *others]


def _reads_data(user: fx.Node, source: fx.Node) -> bool:
    """Whether an operation reads the numbers of a tensor, and not only its shape, dtype or device."""
    if user.op not in ("call_function", "call_method"):
        return True
    if user.target is getattr:
        return user.args[1] not in SHAPE_ATTRIBUTES
    return user.target not in SHAPE_CALLS and (user.target not in SHAPE_OF_SECOND or user.args[0] is source)


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors with an axis in a value, tuples, lists and dictionaries looked into."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.ndim else []
    if isinstance(value, dict):
        value = list(value.values())
    return [t for part in value for t in _tensors(part)] if isinstance(value, (tuple, list)) else []


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() and value.ndim else value
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(part, change) for part in value)
    return value


def _by_example(tensor: Tensor, batch: int, name: str) -> Tensor:
    """(b, P) with the batch first. Raises ValueError where the first axis is neither the batch nor its examples split."""
    if tensor.shape[0] % batch:
        raise ValueError(f"{name} gives shape {tuple(tensor.shape)} for {batch} examples: the first axis must be the batch")
    return tensor.reshape(batch, -1) if tensor.shape[0] != batch else tensor
