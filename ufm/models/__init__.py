"""The models of the neural-collapse literature: one file a paper, one table of names, lazy imports."""

from importlib import import_module
from typing import TYPE_CHECKING

from manifolds.lazy import give_modules

if TYPE_CHECKING:
    from ufm.models.base import Model

TABLE = {
    "central-path": ("han_papyan_donoho", "CentralPath"),
    "mixon": ("mixon", "Mixon"),
    "lu-steinerberger": ("lu_steinerberger", "LuSteinerberger"),
    "e-wojtowytsch": ("e_wojtowytsch", "EWojtowytsch"),
    "poggio-liao": ("poggio_liao", "PoggioLiao"),
    "ergen-pilanci": ("ergen_pilanci", "ErgenPilanci"),
    "fang": ("fang", "Fang"),
    "zhu": ("zhu", "Zhu"),
    "mse-bias-free": ("tirer_bruna", "BiasFree"),
    "mse-free-bias": ("tirer_bruna", "FreeBias"),
    "mse-decayed-bias": ("zhou", "DecayedBias"),
    "deep-linear": ("dang", "DeepLinear"),
    "label-smoothing": ("zhou_losses", "LabelSmoothing"),
    "focal": ("zhou_losses", "FocalLoss"),
    "joint-decay": ("joint_decay", "JointDecay"),
    "block-kernel": ("seleznova", "BlockKernel"),
    "softmax-codes": ("jiang", "SoftmaxCodes"),
    "seli": ("thrampoulidis", "Seli"),
    "deep-ce": ("garrod_keating", "DeepCrossEntropy"),
    "mse-any-target": ("any_target", "AnyTarget"),
}
MODEL_NAMES = tuple(TABLE)
__all__ = ["MODEL_NAMES", "model_class"]

give_modules(__name__)


def model_class(name: str) -> "type[Model]":
    """The class of a model by its name. Raises ValueError with the known names for any other."""
    if name not in TABLE:
        raise ValueError(f"no model is called {name!r}; choose from {', '.join(MODEL_NAMES)}")
    module, attribute = TABLE[name]
    return getattr(import_module(f"ufm.models.{module}"), attribute)
