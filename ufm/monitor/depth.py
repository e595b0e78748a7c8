"""Collapse over the depth of a network: one row a layer."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

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


def layer_gains(values: Mapping[str, float], layers: Sequence[str]) -> dict[str, float]:
    """`gain` of `rows_by_layer` as "NAME/gain" and "gain", from values by such names; layers: the classifier, then inner ones.

    The first row has none, nor has a network without inner layers.
    """
    prefixes = _prefixes(layers) if len(layers) > 1 else []
    logarithms = {prefix: math.log(values[f"{prefix}omega_geometric_mean"]) for prefix in prefixes}
    return {f"{now}gain": logarithms[now] - logarithms[before] for before, now in pairwise(prefixes)}


def gains_undefined(reasons: Mapping[str, str], layers: Sequence[str]) -> dict[str, str]:
    """Why a gain is undefined: because omega is, of its layer or of the one before. Names and layers as in `layer_gains`."""
    lost: dict[str, str] = {}
    for before, now in pairwise(_prefixes(layers)):
        known = (reasons.get(f"{at}omega_geometric_mean") for at in (now, before))
        reason = next(filter(None, known), None)
        lost |= {} if reason is None else {f"{now}gain": f"omega is undefined there, or before it: {reason}"}
    return lost


def _prefixes(layers: Sequence[str]) -> list[str]:
    """What stands before the names of a layer: inner ones in their order, and then the classifier's features."""
    return [*(f"{name}/" for name in layers[1:]), ""]
