"""Hypothesis strategies of damaged run folders, shards and memory-mapped features, and of command lines over them."""

import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

Files = dict[str, bytes]
ODD_VALUES: tuple[Any, ...] = (
    None,
    [],
    {},
    "x",
    "",
    -1,
    0,
    2.5,
    True,
    float("nan"),
    float("inf"),
    int("9" * 400),
    [-1],
    ["x"],
    {"a": 1},
)
ODD_TEXTS = (
    "",
    "[",
    "[" * 100_000,
    '{"a":' * 50_000,
    "[]",
    "null",
    "1",
    '"x"',
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
)
ODD_ARRAYS: tuple[np.ndarray, ...] = (
    np.zeros(0),
    np.array(-1),
    np.array(np.nan),
    np.array("x"),
    np.array(10**18),
    np.zeros((3, 2, 1)),
    np.full(4, np.inf),
    np.arange(4),
    np.array([1 + 2j]),
    np.array(["2000-01-01"], dtype="M8[s]"),
    np.zeros((0, 5)),
    np.array([1, 2, 3, 10**12]),
    np.full((4, 9), np.nan),
    np.array([True]),
)
HEADERS = ("(10**9,)", "(99999999999, 9)", "(-1,)", "(((", "(2,)" + " " * 90, "True", "[1]", "()")


def labelled(seed: int, n: int = 30) -> dict[str, np.ndarray]:
    """Features of three classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return {"features": rng.standard_normal((n, 5)) + labels[:, None], "labels": labels}


def contents(folder: Path) -> Files:
    """The bytes of every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@functools.cache
def whole(kind: str) -> Files:
    """The files of a run of sims.train, of a log, of a run of ufm.flow, of shards or of arrays side by side."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kind == "run":
            from sims.train import train
            from tests.sims.runs import tiny

            train(tiny(save_features=(2,), robustness=0), folder)
        elif kind == "log":
            from sims.measure import measure_features
            from ufm.monitor.logs import RunLog

            log = RunLog(folder, 0.01, learning_rate=0.1, seed=0)
            for epoch in range(4):
                arrays = labelled(epoch)
                log(epoch, {}, measure_features(arrays["features"], arrays["labels"], np.eye(3, 5), np.zeros(3), 0.01))
        elif kind == "flow":
            from ufm.flow.command import main

            line = ["--C", "3", "--N", "6", "--P", "4", "--points", "20", "--steps", "30", "--quiet"]
            assert main([*line, "--out", str(folder / "run.npz")]) == 0
        elif kind == "shards":
            for k in range(2):
                np.savez(folder / f"shard-{k}.npz", **labelled(k))  # type: ignore[arg-type]
        else:
            for key, value in (labelled(0) | {"W": np.eye(3, 5), "b": np.zeros(3), "epoch": np.array(7)}).items():
                np.save(folder / f"{key}.npy", value)
        return contents(folder)


def with_odd_value(value: Any, draw: st.DrawFn) -> Any:
    """The same JSON with one value replaced, left out, or added."""
    odd = draw(st.sampled_from(ODD_VALUES))
    if isinstance(value, dict) and value:
        name = draw(st.sampled_from(sorted(value)))
        how = draw(st.sampled_from(["replace", "leave out", "add", "inside"]))
        if how == "inside":
            return value | {name: with_odd_value(value[name], draw)}
        if how == "leave out":
            return {key: entry for key, entry in value.items() if key != name}
        return value | {(name if how == "replace" else "strange"): odd}
    if isinstance(value, list) and value and draw(st.booleans()):
        k = draw(st.integers(0, len(value) - 1))
        return [*value[:k], with_odd_value(value[k], draw), *value[k + 1 :]]
    return odd


def with_odd_array(content: bytes, draw: st.DrawFn) -> bytes:
    """An .npz with one array replaced, left out, or of another shape or dtype."""
    buffer = io.BytesIO()
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    name = draw(st.sampled_from(sorted(arrays)))
    value = arrays.pop(name)
    how = draw(st.sampled_from(["odd", "odd", "leave out", "shorter", "transposed", "dtype", "nan"]))
    if how == "odd":
        arrays[name] = draw(st.sampled_from(ODD_ARRAYS))
    elif how == "shorter":
        arrays[name] = value[:-1] if value.ndim else value[None]
    elif how == "transposed":
        arrays[name] = value.T if value.ndim else value.reshape(1, 1)
    elif how == "dtype":
        arrays[name] = value.astype(
            str if value.dtype.kind == "U" else draw(st.sampled_from(["f4", "i8", "c16", "U3", ">f8", "?"]))
        )
    elif how == "nan" and value.dtype.kind == "f" and value.size:
        arrays[name] = np.where(np.arange(value.size).reshape(value.shape) == value.size // 2, np.nan, value)
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def damaged(name: str, content: bytes, draw: st.DrawFn) -> bytes:
    """A file cut, with flipped bits, or well-formed and wrong."""
    how = draw(st.sampled_from(["wrong", "wrong", "wrong", "cut", "flip"]))
    if how == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if how == "flip":
        flipped = bytearray(content)
        for _ in range(draw(st.integers(1, 3))):
            flipped[draw(st.integers(0, len(flipped) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(flipped)
    if name.endswith(".json"):
        if draw(st.integers(0, 3)) == 0:
            return draw(st.sampled_from(ODD_TEXTS)).encode()
        return json.dumps(with_odd_value(json.loads(content), draw)).encode()
    if name.endswith(".npz"):
        return with_odd_array(content, draw)
    if name.endswith(".npy"):
        buffer = io.BytesIO()
        if draw(st.booleans()):
            np.save(buffer, draw(st.sampled_from(ODD_ARRAYS)))
            return buffer.getvalue()
        shape = draw(st.sampled_from(HEADERS))
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content[-40:]
    return draw(st.binary(max_size=200))


LINES: dict[str, list[list[str]]] = {
    "run": [
        ["sims.measure", "IN"],
        ["sims.measure", "IN", "--json", "--out", "OUT/m.npz", "--report", "OUT/page.html"],
        ["sims.measure", "IN/features-0002.npz", "--json"],
        ["sims.figures", "IN", "--out", "OUT", "--format", "svg"],
        ["sims.figures", "IN/trajectory.npz", "--out", "OUT", "--format", "svg"],
        ["sims.compare", "IN", "--out", "OUT", "--from-epoch", "1"],
        ["sims.compare", "IN/trajectory.npz", "--out", "OUT", "--from-epoch", "1"],
        ["sims.ledger", "IN", "--quiet"],
        ["sims.train", "--config", "IN/config.json", "--out", "IN", "--quiet"],
        ["ufm.flow", "--features", "IN/features-0002.npz", "--reduce", "--quiet"],
    ],
    "log": [
        ["sims.measure", "IN", "--json"],
        ["sims.figures", "IN", "--out", "OUT", "--format", "svg"],
        ["sims.compare", "IN", "--out", "OUT", "--from-epoch", "0"],
    ],
    "flow": [["sims.compare", "IN/run.npz", "--out", "OUT"]],
    "shards": [
        ["ufm.flow", "--features", "IN/shard-*.npz", "--quiet", "--out", "OUT/run.npz"],
        ["ufm.flow", "--features", "IN/shard-*.npz", "--quiet", "--reduce", "--flow", "unnormalized"],
        ["sims.measure", "IN/shard-0.npz", "IN/shard-1.npz", "--out", "OUT/m.npz"],
        ["sims.ledger", "IN/shard-0.npz", "IN/shard-1.npz", "--quiet"],
        ["sims.compare", "IN", "--out", "OUT"],
    ],
    "arrays": [
        ["sims.measure", "IN/features.npy", "--json"],
        ["ufm.flow", "--features", "IN/feature[s].npy", "--quiet"],
    ],
}
SLOW = ("sims.compare", "sims.figures", "sims.train")  # seconds each where the damage does no harm


@st.composite
def folder_lines(draw: st.DrawFn) -> tuple[list[str], Files]:
    """A command with its arguments, and the files of the folder IN, one of which is damaged or missing; results go to OUT."""
    kind = draw(st.sampled_from(sorted(LINES)))
    lines = [line for line in LINES[kind] for _ in range(1 if line[0] in SLOW else 3)]
    line, files = draw(st.sampled_from(lines)), dict(whole(kind))
    name = draw(st.sampled_from(sorted(files)))
    content = files.pop(name)
    if draw(st.integers(0, 9)):
        files[name] = damaged(name, content, draw)
    return line, files
