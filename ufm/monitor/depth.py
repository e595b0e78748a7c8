"""Collapse over the depth of a network: one row a layer."""

import math
from collections.abc import Collection, Mapping

from ufm.monitor.summary import OF_FEATURES, OF_RANGE

BY_LAYER = (*OF_FEATURES, *OF_RANGE)


def rows_by_layer(values: Mapping[str, Mapping[str, float]], reduced: Collection[str]) -> list[dict[str, float | str]]:
    """Measures of the layers in their order, `reduced` (1 for the layers named) and `gain`: of log omega since the row before.

    NaN is the gain of the first row, and where one of the two geometric means of omega is undefined.
    """
    rows: list[dict[str, float | str]] = []
    before = float("nan")
    for name, own in values.items():
        now = math.log(own["omega_geometric_mean"])
        measures = {key: own[key] for key in BY_LAYER}
        rows.append({"layer": name, **measures, "reduced": float(name in reduced), "gain": now - before})
        before = now
    return rows
