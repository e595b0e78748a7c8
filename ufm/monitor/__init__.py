"""Neural collapse of any network: measures, a streaming metric, and callbacks for training loops."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Measurement": "measurement",
    "measure_features": "measurement",
    "measure_network": "network",
    "Record": "record",
    "NeuralCollapse": "metric",
    "Watched": "watched",
    "watch": "watched",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """The public names, from the files that hold them when they are asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
