"""Neural collapse of any network: measures, a streaming metric, and callbacks for training loops."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from manifolds.lazy import module_of, names_of

if TYPE_CHECKING:
    from ufm.monitor.layers import RandomProjection as RandomProjection
    from ufm.monitor.layers import flattened as flattened
    from ufm.monitor.layers import pooled as pooled
    from ufm.monitor.measurement import Measurement as Measurement
    from ufm.monitor.measurement import measure_features as measure_features
    from ufm.monitor.metric import NeuralCollapse as NeuralCollapse
    from ufm.monitor.network import measure_network as measure_network
    from ufm.monitor.record import Record as Record
    from ufm.monitor.watched import Watched as Watched
    from ufm.monitor.watched import watch as watch

_HOMES = {
    "RandomProjection": "layers",
    "flattened": "layers",
    "pooled": "layers",
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
    """The public names and the modules, from the files that hold them when they are asked for."""
    if name not in _HOMES:
        return module_of(__name__, name)
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("ufm", "manifolds"):
            raise
        raise ImportError(f"{name} needs {error.name}: pip install 'neural-collapse-flow[monitor]'") from error


def __dir__() -> list[str]:
    return names_of(__name__)
