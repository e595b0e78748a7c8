"""Layers of a network by name, what is taken for their features, and measures that need no classifier."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from manifolds.linalg import epsilon, symmetrize
from ufm.arrays import on_device_with_float64
from ufm.features.statistics import ClassStatistics
from ufm.monitor.decisions import single_product_epsilon
from ufm.monitor.whole_weights import check_unsharded

Reduce = Callable[[Tensor], Tensor]
ROWS_CHECKED = 8  # of a pass, whether the classifier is linear in them
ROUNDINGS = 4  # of a product: of W, of h, of partial sums and of the result
TIES = 2**-6  # of the largest: scores of bfloat16 that are further apart are no ties
CLASSES_CHECKED = 4096  # at a time: a vocabulary in float64 is large
WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel and of torch.compile


def bare(model: nn.Module) -> nn.Module:
    """The network inside of DistributedDataParallel or torch.compile."""
    while True:
        inner = next((inside for name in WRAPPERS if isinstance(inside := getattr(model, name, None), nn.Module)), None)
        if inner is None or type(model).__name__ not in ("DistributedDataParallel", "DataParallel", "OptimizedModule"):
            return model
        model = inner


def name_of(model: nn.Module, layer: str | nn.Module) -> str:
    """The dotted name of a layer that is given by it or by itself. Raises ValueError for a module that is not of the network."""
    if isinstance(layer, str):
        return layer
    for name, module in bare(model).named_modules():
        if module is layer:
            return name
    raise ValueError(f"the {type(layer).__name__} that was given is no layer of this network: give one of its own, or a name")


def linear_layer(model: nn.Module, name: str) -> nn.Linear:
    """The Linear layer called `name` (dotted). Raises ValueError with the linear layers there are where it is none of them."""
    linear = {path: layer for path, layer in bare(model).named_modules() if isinstance(layer, nn.Linear)}
    if name not in linear:
        raise ValueError(f"the network has no linear layer called {name!r}; it has: {', '.join(linear) or 'none'}")
    return linear[name]


def any_layer(model: nn.Module, name: str) -> nn.Module:
    """The module called `name` (dotted). Raises ValueError with the names there are where it is none of them."""
    modules = dict(bare(model).named_modules())
    if not name or name not in modules:
        raise ValueError(f"the network has no layer called {name!r}; it has: {', '.join(filter(None, modules)) or 'none'}")
    return modules[name]


def weights_of(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """W and b, read in evaluation mode: in training mode a parametrisation such as spectral_norm changes whenever it is read.

    Raises ValueError where W is sharded over processes.
    """
    with evaluation_mode(layer):
        W, b = layer.weight, layer.bias
    check_unsharded(W, of_layer=True)
    return W, b


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Every module inside has training = False, by its flag: an `eval()` of the user's own may change weights (LoRA merges)."""
    modes = [(inner, inner.training) for inner in module.modules()]
    try:
        for inner, _ in modes:
            inner.training = False
        yield
    finally:
        for inner, training in modes:
            inner.training = training


def few_rows(x: Tensor) -> Tensor:
    """A copy of the first of the vectors along the last axis. (..., P) -> (k, P)"""
    return x.detach().flatten(0, -2)[:ROWS_CHECKED].clone()


def check_linear(layer: nn.Linear, name: str, features: Tensor, output: object) -> None:
    """Raise ValueError where a layer does not give W h + b of its weights, whose decisions and loss are reported.

    A few rows are looked at, up to the rounding of such a product: `_rounding`.
    """
    W, b = weights_of(layer)
    if not W.dtype.is_floating_point:
        raise ValueError(f"the weights of the layer {name!r} are {W.dtype}, floats are needed: measure before it is quantised")
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        h, given = (on_device_with_float64(few_rows(x)) for x in (features, first_tensor(output, name)))
        W, b = on_device_with_float64(W), None if b is None else on_device_with_float64(b)
        rounding = _rounding((h.dtype, W.dtype, given.dtype), h.shape[-1])
        linear = tuple(given.shape) == (len(h), len(W)) and W.shape[1] == h.shape[1]
        for start in range(0, len(W) if linear else 0, CLASSES_CHECKED):
            piece = slice(start, start + CLASSES_CHECKED)
            offsets = None if b is None else b[piece].double()
            expected = nn.functional.linear(h.double(), W[piece].double(), offsets)
            sizes = nn.functional.linear(h.double().abs(), W[piece].double().abs(), None if offsets is None else offsets.abs())
            least = rounding[1] * (h.double().abs().sum(1, keepdim=True) + W[piece].double().abs().sum(1) + 1)
            linear = linear and not bool(((given[:, piece].double() - expected).abs() > rounding[0] * sizes + least).any())
    if not linear:
        raise ValueError(
            f"the layer {name!r} does not give W h + b of its weights, from which predictions and loss are computed: if the "
            "optimizer has made a step since the forward pass, call update before that step; for a head that is not linear, "
            "give the features and the intended classifier to NeuralCollapse.update"
        )


def _rounding(dtypes: tuple[torch.dtype, ...], P: int) -> tuple[float, float]:
    """What W h + b of P features is off by: a share of sum_k |w_k h_k| + |b|, and of what is smaller than a normal number.

    `ROUNDINGS` of half an epsilon of the coarsest dtype there is (autocast rounds W and h too), and P + 2 additions in float32,
    float64 where all are float64 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
    """
    coarse = max((torch.finfo(dtype) for dtype in dtypes), key=lambda info: info.eps)
    sums = torch.finfo(torch.float64 if coarse.dtype == "float64" else torch.float32).eps
    factors = max(coarse.eps, single_product_epsilon()) if coarse.dtype == "float32" else coarse.eps
    return ROUNDINGS * factors / 2 + (P + 2) * sums / 2, ROUNDINGS * coarse.tiny * coarse.eps


def check_returned(returned: object, output: Tensor, name: str) -> None:
    """Raise ValueError where what a network returns decides otherwise than the first rows of the output (k, C) of its layer.

    Whatever has another number of classes, or is no tensor and no mapping with `logits`, is left alone; so are a softmax and a
    scale, which decide alike.
    """
    returned = returned.get("logits") if isinstance(returned, Mapping) else returned
    if not isinstance(returned, Tensor) or returned.ndim < 2 or returned.shape[-1] != output.shape[-1]:
        return
    given = few_rows(returned)
    if given.shape != output.shape or not given.is_floating_point() or not len(given):
        return
    given, output = on_device_with_float64(given).double(), on_device_with_float64(output).double()
    largest = given.amax(1)
    at_decision = given.gather(1, output.argmax(1, keepdim=True))[:, 0]
    if bool((at_decision < largest - TIES * given.abs().amax(1)).any()):
        raise ValueError(
            f"the output of the network predicts other classes than that of its layer {name!r}: is that its last linear layer? "
            "To measure another layer, make a pass of your own: call the network in `with watched:`, then watched.update(labels)"
        )


def is_compiled(model: nn.Module) -> bool:
    """Whether a network or a module of it is one of torch.compile's."""
    modules = model.modules()
    return any(type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in modules)


def head_inputs(args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    """What a layer was called with first, by position or by keyword."""
    return args if args else next(iter(kwargs.values()), None)


def first_tensor(output: object, name: str) -> Tensor:
    """What the layer `name` gives on: itself, or the first of several outputs. Raises ValueError for anything else."""
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        what = f"the layer {name!r} gives {type(output).__name__}, a tensor is needed"
        raise ValueError(f"{what}: name a layer inside of it that gives one")
    return output.detach()


def pooled(features: Tensor) -> Tensor:
    """Channels (b, P) of maps (b, P, ...): the mean over all places. Features (b, P) and tokens (b, T, P) as they are."""
    return features.flatten(2).mean(2) if features.ndim > 3 else features


def flattened(features: Tensor) -> Tensor:
    """Every number of an example is a feature: (b, P ...) -> (b, P)."""
    return features.flatten(1)


class RandomProjection:
    """Gaussian random projection of all numbers of an example to `size` features, the same for every batch (seeded).

    Distances between examples keep their ratio to about sqrt(8 log(n) / size) (Johnson & Lindenstrauss 1984); the SNR of a sketch
    is at most that of the features.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if size < 1:
            raise ValueError(f"size = {size}: a sketch needs at least 1 feature")
        self.size, self.seed = size, seed
        self._matrix: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        wide = features.flatten(1)
        wide = wide if wide.dtype == torch.float64 else wide.float()
        if self._matrix is None or self._matrix.shape[0] != wide.shape[1]:
            generator = torch.Generator().manual_seed(self.seed)
            self._matrix = torch.randn(wide.shape[1], self.size, generator=generator) / self.size**0.5
        self._matrix = self._matrix.to(wide.device)  # in float32 always: rounded to that of a batch it would be another one after
        return wide @ self._matrix.to(wide.dtype)


def effective_rank(stats: ClassStatistics[Tensor]) -> float:
    """exp of the entropy of the singular values of the centred features, as shares of their sum (Roy & Vetterli 2007).

    Raises ValueError where all features are equal.
    """
    within, E = torch.linalg.eigh(symmetrize(stats.sigma_w))
    within = torch.where(within > stats.P * epsilon(within) * within[-1], within, 0.0)
    # the roots side by side, since an eigenvalue of Sigma_T would lose half of the digits of its root
    values = torch.linalg.svdvals(torch.cat([stats.centred_means * stats.priors**0.5, E * within.sqrt()], 1))
    if not float(values.sum()) > 0:
        raise ValueError("all features are equal: Sigma_T = 0 has no effective rank")
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def named_errors(name: str, call: Callable[..., None], *args: object) -> None:
    """Call, and name the layer in its ValueError."""
    try:
        call(*args)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def features_caught(name: str, caught: Sequence[Tensor], labels: Tensor, inner: bool, compiled: bool) -> Tensor:
    """What a layer gave in the calls since the last update, one row an example or token.

    Raises ValueError where there was no call, or where the rows are not those of the labels.
    """
    if not caught:
        stance = "; a compiled network calls no hooks: add with torch.compiler.set_stance('force_eager')"
        raise ValueError(
            f"the layer {name!r} saw no batch since the last update: call the network inside of the with block"
            + (stance if compiled else "")
        )
    features = torch.cat(list(caught))
    if inner and features.ndim == 3 and labels.ndim == 1 and len(features) == len(labels):
        raise ValueError(
            f"the layer {name!r} gives {features.shape[1]} tokens an example, and there is one label an example: "
            "give reduce=, a function to features (b, P), as lambda tokens: tokens.mean(1)"
        )
    if len(features) != len(labels):
        seen = f"{len(features)} examples in {len(caught)} calls"
        raise ValueError(f"the layer {name!r} saw {seen}, and there are {len(labels)} labels: update after each forward pass")
    return features
