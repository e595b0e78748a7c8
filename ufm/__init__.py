"""Unconstrained-features models of neural collapse: statistics, losses, exact laws and flows.

    import ufm

    stats = ufm.statistics_of(features, labels, C=10)        # (n, P), (n,) of a network
    H, layout = ufm.class_blocks(features, labels)           # (P, n), columns in class blocks
    omega = ufm.snr(H, layout).omega                         # SNR singular values
    later = ufm.RENORMALIZED.omega(t, omega, C, N)           # their exact law

The names below are imported from their modules when they are first used, so that `import ufm` and `python -m ufm.flow` start as
fast as numpy does. Subpackages are attributes as well: `ufm.laws.singular_value_dynamics.LAWS` needs no further import.
"""

from typing import TYPE_CHECKING, Any

from ufm.version import __version__

if TYPE_CHECKING:
    from ufm import compare as compare
    from ufm import features as features
    from ufm import files as files
    from ufm import flow as flow
    from ufm import laws as laws
    from ufm import ledger as ledger
    from ufm import models as models
    from ufm import monitor as monitor
    from ufm import tensor as tensor
    from ufm.features.labels import class_blocks as class_blocks
    from ufm.features.least_squares import lambda_of_weight_decay as lambda_of_weight_decay
    from ufm.features.least_squares import ls_classifier as ls_classifier
    from ufm.features.loss_decomposition import decompose as decompose
    from ufm.features.ranges import reduce_to_range as reduce_to_range
    from ufm.features.snr import renormalized_features as renormalized_features
    from ufm.features.snr import snr as snr
    from ufm.features.statistics import StreamingStatistics as StreamingStatistics
    from ufm.features.statistics import statistics_of as statistics_of
    from ufm.flow.result import load_flow as load_flow
    from ufm.laws.discrete_singular_values import run_discrete as run_discrete
    from ufm.laws.general import GeneralLaw as GeneralLaw
    from ufm.laws.general_run import run_general as run_general
    from ufm.laws.singular_value_dynamics import EMBEDDED as EMBEDDED
    from ufm.laws.singular_value_dynamics import LAWS as LAWS
    from ufm.laws.singular_value_dynamics import RENORMALIZED as RENORMALIZED
    from ufm.laws.singular_value_dynamics import UNNORMALIZED as UNNORMALIZED
    from ufm.laws.trajectory import Trajectory as Trajectory
    from ufm.models.references import cite as cite

_SUBPACKAGES = ("compare", "features", "files", "flow", "laws", "ledger", "models", "monitor", "tensor")
_HOMES = {
    "EMBEDDED": "laws.singular_value_dynamics",
    "GeneralLaw": "laws.general",
    "LAWS": "laws.singular_value_dynamics",
    "RENORMALIZED": "laws.singular_value_dynamics",
    "StreamingStatistics": "features.statistics",
    "Trajectory": "laws.trajectory",
    "UNNORMALIZED": "laws.singular_value_dynamics",
    "cite": "models.references",
    "class_blocks": "features.labels",
    "decompose": "features.loss_decomposition",
    "lambda_of_weight_decay": "features.least_squares",
    "load_flow": "flow.result",
    "ls_classifier": "features.least_squares",
    "reduce_to_range": "features.ranges",
    "renormalized_features": "features.snr",
    "run_discrete": "laws.discrete_singular_values",
    "run_general": "laws.general_run",
    "snr": "features.snr",
    "statistics_of": "features.statistics",
}

__all__ = [*_HOMES, *_SUBPACKAGES, "__version__"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _SUBPACKAGES:
        return import_module(f"ufm.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ufm' has no attribute {name!r}: it has {', '.join(sorted(__all__))}")
    value = getattr(import_module(f"ufm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
