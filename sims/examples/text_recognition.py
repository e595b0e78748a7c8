"""`python -m sims.examples.text_recognition MODEL.onnx --out FOLDER`: how far a published recogniser of text lines has collapsed.

MODEL.onnx is `rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx` of the package rapidocr-onnxruntime 1.4.4: P = 120
features a step, 6625 classes, most of them Chinese characters, and one for "no character here". Two questions: how the 6625
rows of W lie in 120 dimensions, where no simplex fits; and how far the features of letters and digits have collapsed, on lines
drawn here, which the network has not been trained on.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from sims.command import Parser, print_json, run_command
from sims.examples.onnx_head import OnnxHead, onnx_head
from ufm.features.measures import phd_equiangular, phd_equinorm, phd_maximal_angle
from ufm.features.vectors import norms, unit_vectors
from ufm.files.json_objects import JsonObject
from ufm.monitor import NeuralCollapse
from ufm.monitor.measurement import MEASURES
from ufm.output import show

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "DejaVuSerif-Italic")
TOGETHER = 0.99  # cosine of rows of W that all but coincide
FEATURE_MEASURES = (*MEASURES, "ncc_accuracy", "effective_rank")
LINES, LENGTH, HEIGHT, LINES_AT_ONCE = 200, 10, 48, 25


def drawn(text: str, font: str) -> np.ndarray:
    """A line of text in black on white as the network takes it: (3, 48, 320) in [-1, 1]."""
    picture = Image.new("L", (320, HEIGHT), 255)
    face = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"), 30)
    ImageDraw.Draw(picture).text((8, 5), text, fill=0, font=face)
    return np.repeat((np.asarray(picture, np.float32) / 127.5 - 1)[None], 3, 0)


def characters(session: "InferenceSession") -> list[str]:
    """The name of every class; that of class 0 is empty, the last is a space."""
    return ["", *session.get_modelmeta().custom_metadata_map["character"].split("\n"), " "]


def session_of(head: OnnxHead) -> "InferenceSession":
    """The network with its features as an output, ready to run."""
    import onnxruntime

    return onnxruntime.InferenceSession(head.model)


def features_of_lines(head: OnnxHead, lines: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Features (n, P) and labels (n,) of the steps that show a character in lines read without error; the share of such lines."""
    session, rng = session_of(head), np.random.default_rng(seed)
    names, (given,) = characters(session), session.get_inputs()
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    texts = ["".join(rng.choice(list(LETTERS), LENGTH)) for _ in range(lines)]
    for k in range(0, lines, LINES_AT_ONCE):
        batch = np.stack([drawn(text, FONTS[i % len(FONTS)]) for i, text in enumerate(texts[k : k + LINES_AT_ONCE])])
        H = np.asarray(session.run([head.features_name], {given.name: batch})[0])
        for text, rows in zip(texts[k : k + LINES_AT_ONCE], H, strict=True):
            path = (rows @ head.W.T + head.b).argmax(1)
            changes = np.flatnonzero(np.diff(path, prepend=-1))
            if "".join(names[path[i]] for i in changes) == text:
                kept.append((rows[path > 0], path[path > 0]))
    return np.concatenate([H for H, _ in kept]), np.concatenate([y for _, y in kept]), len(kept) / lines


def centred(W: np.ndarray) -> np.ndarray:
    """Rows (C, P) without their mean, as columns (P, C)."""
    return (W - W.mean(0)).astype(np.float64).T


def nearest_cosines(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine of each column with another one, and which that is."""
    unit = unit_vectors(vectors)
    cosines = unit.T @ unit
    np.fill_diagonal(cosines, -1)
    return cosines.max(0), cosines.argmax(0)


def classifier_measures(W: np.ndarray, names: list[str]) -> tuple[JsonObject, dict[str, np.ndarray]]:
    """NC2 of all rows of W beside that of Gaussian rows, the rows that coincide, the nearest letters; and the nearest cosines."""
    (C, P), wanted = W.shape, [k for k, name in enumerate(names) if name and name in LETTERS]
    measures: JsonObject = {"C": C, "P": P, "least_std": (1 / P - 1 / (C - 1)) ** 0.5}
    nearest = {}
    for name, rows in {"classifier": W, "Gaussian": np.random.default_rng(0).standard_normal(W.shape)}.items():
        M = centred(rows)
        nc2 = {"nc2_equinorm": phd_equinorm(M), "nc2_equiangular": phd_equiangular(M), "nc2_maxangle": phd_maximal_angle(M)}
        measures[name], (nearest[name], others) = nc2, nearest_cosines(M)
        if name == "classifier":
            cosines, lengths = nearest[name], norms(M)
            together = cosines > TOGETHER
            order = [k for k in np.argsort(-cosines) if k < others[k] and k in wanted][:8]
            measures |= {
                "coincident": int(together.sum()),
                "coincident_letters": int(together[wanted].sum()),
                "mean_norm_of_coincident": lengths[together].mean(),
                "mean_norm_of_others": lengths[~together].mean(),
                "nearest_letters": [[names[k], names[others[k]], float(cosines[k])] for k in order],
            }
    return measures, nearest


def classifier_text(measures: JsonObject) -> str:
    """The same as text."""

    def row(name: str) -> str:
        norm, std, cosine = measures[name].values()
        return f"{name:10}  norms, std / mean {norm:.3f}   cosines, std {std:.4f}   mean |cos + 1/(C-1)| {cosine:.4f}"

    m, few = measures, f"{measures['coincident_letters']} of letters and digits among them;"
    least = f"unit vectors that add up to 0 have a std of cosines of at least {m['least_std']:.4f}"
    return "\n".join(
        (
            f"{m['C']} classes, P = {m['P']}: {least}",
            row("classifier"),
            f"{m['coincident']} rows have another within a cosine of {TOGETHER}, {few}",
            f"their mean norm is {m['mean_norm_of_coincident']:.3f}, that of the others {m['mean_norm_of_others']:.3f}",
            "nearest letters and digits: " + ", ".join(f"{a} {b} {cosine:.2f}" for a, b, cosine in m["nearest_letters"]),
            row("Gaussian"),
        )
    )


def cosine_figure(nearest: dict[str, np.ndarray]) -> Figure:
    """The cosine of each row with its nearest, of W and of Gaussian rows."""
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    axes = figure.subplots()
    for name, cosines in nearest.items():
        axes.hist(cosines, 80, range=(0, 1), histtype="step", label=name)
    axes.set(xlabel="cosine of a row of W with the nearest other row", ylabel="classes")
    axes.legend(frameon=False)
    return figure


def feature_measures(head: OnnxHead, lines: int, seed: int) -> JsonObject:
    """The measures of the features of drawn lines, and of the same with shuffled labels."""
    H, y, share = features_of_lines(head, lines, seed)
    W, b = torch.tensor(head.W), torch.tensor(head.b)
    measures: JsonObject = {"lines": lines, "read": share, "features": len(H), "characters": len(np.unique(y))}
    for name, labels in (("labels", y), ("shuffled", np.random.default_rng(seed).permutation(y))):
        metric = NeuralCollapse(len(head.W), classes="seen")
        metric.update(torch.from_numpy(H), torch.from_numpy(labels), (W, b))
        values = metric.compute()
        measures[name] = {measure: float(values[measure]) for measure in FEATURE_MEASURES}
    return measures


def feature_text(m: JsonObject) -> str:
    """The same as text."""
    head = (
        f"{m['read']:.1%} of {m['lines']} lines are read without error: {m['features']} features of {m['characters']} characters"
    )
    rows = [f"{name:16} {m['labels'][name]:8.3f} {m['shuffled'][name]:8.3f}" for name in FEATURE_MEASURES]
    return "\n".join((head, f"{'':16} {'labels':>8} {'shuffled':>8}", *rows))


def parser() -> Parser:
    """The command line."""
    p = Parser(
        "python -m sims.examples.text_recognition", ("seed", "json", "quiet"), "pretrained", description=__doc__.split("\n")[0]
    )
    p.add_argument("model", type=Path, help="the recogniser, an ONNX file")
    p.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the figure")
    p.add_argument("--lines", type=int, default=LINES, help="lines of text to draw")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; exit codes as in `sims.command`."""
    return run_command(parser(), show_and_draw, argv)


def show_and_draw(args: argparse.Namespace) -> None:
    """Write the figure, and print both tables or with `--json` one object."""
    head = onnx_head(args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    of_rows, nearest = classifier_measures(head.W, characters(session_of(head)))
    cosine_figure(nearest).savefig(args.out / "text-recognition.png", dpi=120)
    of_features = feature_measures(head, args.lines, args.seed)
    if args.json:
        print_json({"classifier": of_rows, "features": of_features})
    elif not args.quiet:
        show(f"{classifier_text(of_rows)}\n{feature_text(of_features)}")


if __name__ == "__main__":
    sys.exit(main())
