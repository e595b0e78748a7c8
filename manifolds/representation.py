"""How objects that hold arrays are printed: shapes and dtypes where the numbers would fill the screen."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LONGEST_TUPLE = 6
LONGEST_TEXT = 60


def short_repr(instance: "DataclassInstance") -> str:
    """`Name(field=..., ...)` of a dataclass, an array as its type, shape and dtype. For a class body: `__repr__ = short_repr`.

    >>> ufm.snr(H, layout)
    Snr(omega=ndarray (3,) float64, V=ndarray (4, 3) float64, ...)
    """
    shown = (field.name for field in dataclasses.fields(instance) if field.repr)
    values = ", ".join(f"{name}={short_value(getattr(instance, name))}" for name in shown)
    return f"{type(instance).__qualname__}({values})"


def short_value(value: object) -> str:
    """One value on part of a line: arrays by shape, what is long by its beginning and its length."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{type(value).__name__} {tuple(value.shape)} {dtype}"
    if isinstance(value, dict):
        return _several(
            "{", [f"{key!r}: {short_value(item)}" for key, item in list(value.items())[:LONGEST_TUPLE]], len(value), "}"
        )
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        opening, closing = "()" if isinstance(value, tuple) else "[]"
        return _several(opening, [short_value(item) for item in value[:LONGEST_TUPLE]], len(value), closing)
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    text = repr(value)
    return text if len(text) <= LONGEST_TEXT or dataclasses.is_dataclass(value) else f"{text[: LONGEST_TEXT - 3]}..."


def _several(opening: str, items: list[str], length: int, closing: str) -> str:
    """The first items between brackets, and how many there are where some are left out."""
    more = f", ... {length} in all" if length > len(items) else "," if opening == "(" and length == 1 else ""
    return f"{opening}{', '.join(items)}{more}{closing}"
