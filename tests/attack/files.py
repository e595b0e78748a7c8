"""Hypothesis strategies of feature files, whole, strange and damaged, and of command lines over them."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

SCALES = (1e-300, 1e-200, 1e-8, 1.0, 1e8, 1e14, 1e200, 1e300)
NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "1e11",
    "nan",
    "inf",
    "-inf",
    "1e-320",
    "1e400",
    "9" * 400,
    "",
    "--",
    "=--",
    "x",
    "é",
    "0x10",
)
NAMES = ("a" * 300, "", ".", "..", "/", "/dev/null", "/nowhere/x.npz", "<script>.npz", "\n.npz", "-", "é.npz")


@st.composite
def feature_arrays(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Arrays of a feature file, most of them measurable, some of them nonsense."""
    C, N, P = draw(st.sampled_from([(2, 3, 1), (2, 5, 3), (3, 4, 5), (4, 2, 7), (1, 4, 2)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.repeat(np.arange(C), N)[: draw(st.sampled_from([C * N, C * N - 1, 1, 0]))]
    scale, shift = draw(st.sampled_from(SCALES)), draw(st.sampled_from((0.0, 1e8, 1e14, 1e200)))
    with np.errstate(all="ignore"):
        features = scale * (rng.standard_normal((C * N, P)) + shift)[: len(labels)]
        features = features.astype(draw(st.sampled_from(["f8", "f8", "f8", "f4", "f2", ">f8", "i8", "c16", "U3", "M8[s]", "?"])))
    arrays = {"features": features, "labels": labels.astype(draw(st.sampled_from(["i8", "i8", "u1", "f8", "U2", "?"])))}
    if draw(st.booleans()):
        arrays |= {"W": rng.standard_normal((C, P)), "b": rng.standard_normal(C)}
    if draw(st.booleans()):
        extra = draw(st.sampled_from(["lambda", "epoch", "b", "W", "labels", "features", "train_error"]))
        arrays[extra] = draw(st.sampled_from([np.zeros(0), np.array(-1), np.array(np.nan), np.array("x"), np.zeros((3, 2, 1))]))
    return arrays


@st.composite
def file_bytes(draw: st.DrawFn) -> bytes:
    """An .npz: whole, cut, with flipped bits, with a member that is none, or no archive at all."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = draw(feature_arrays())
    np.savez(buffer, **arrays)
    whole = bytearray(buffer.getvalue())
    damage = draw(st.sampled_from(["none", "none", "cut", "flip", "member", "random", "header"]))
    if damage == "cut":
        return bytes(whole[: draw(st.integers(0, len(whole)))])
    if damage == "flip":
        for _ in range(draw(st.integers(1, 4))):
            whole[draw(st.integers(0, len(whole) - 1))] ^= 1 << draw(st.integers(0, 7))
    if damage == "random":
        return draw(st.sampled_from([b"PK", b"PK\x03\x04", b"\x93NUMPY", b""])) + draw(st.binary(max_size=200))
    if damage in ("member", "header"):
        with zipfile.ZipFile(buffer, "w") as archive:
            shape = draw(st.sampled_from(["(10**9,)", "(99999999999, 9)", "(-1,)", "(((", "(2,)" + " " * 90, "True", "[1]"]))
            header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
            npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            archive.writestr("features.npy", npy if damage == "header" else draw(st.binary(max_size=60)))
            archive.writestr("labels.npy", npy)
        return buffer.getvalue()
    return bytes(whole)


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A command, and options that it takes or not; FILE and OUT stand for a feature file and a result."""
    command = draw(st.sampled_from(["ufm.flow", "ufm.flow", "sims.measure", "sims.measure", "sims.models"]))
    number, name = st.sampled_from(NUMBERS), st.sampled_from(NAMES)
    options = {
        "ufm.flow": [
            *(["--C", "--N", "--P", "--seed", "--growth", "--t-end", "--points", "--eta", "--steps", "--ridge", "--sizes"]),
            *(["--kernel-ratio", "--feature-decay"]),
        ],
        "sims.measure": ["--lambda"],
        "sims.models": ["--C", "--N", "--P", "--layers", "--lambda-w", "--seed"],
    }[command]
    line = []
    if command == "sims.models":
        line += draw(st.sampled_from([["list"], ["cite", "zhu"], ["run", "nothing"], ["nothing"], ["cite", ""]]))
    else:
        given = draw(st.one_of(st.just("FILE"), st.just("FILE"), name))
        line += (["--features", given] if command == "ufm.flow" else [given]) if draw(st.integers(0, 9)) else []
    for option in draw(st.lists(st.sampled_from(options), max_size=2)):
        value = draw(number)
        line += draw(st.sampled_from([[option, value], [f"{option}={value}"], [option]]))
    if command == "ufm.flow":
        line += [
            "--quiet",
            *draw(st.sampled_from([[], ["--flow", "all"], ["--reduce"], ["--balance"], ["--flow", "unnormalized"]])),
        ]
    if draw(st.booleans()):
        line += ["--out", draw(st.one_of(st.just("OUT"), name))]
    if draw(st.booleans()):
        line += ["--json"]
    return command, line


def placed(line: list[str], folder: Path) -> list[str]:
    """A command line with its files in a folder."""
    places = {"FILE": str(folder / "in.npz"), "OUT": str(folder / "out.npz")}
    return [places.get(argument, argument) for argument in line]
