"""Reports of simulated models as JSON, text and a gallery: one figure and one row of a table per model, resumable."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sims.gallery.sweep import FLOOR
from ufm.files.json_objects import JsonObject, errors_as_damage, read_json
from ufm.files.store import check_writable, write_atomically
from ufm.models import MODEL_NAMES, model_class
from ufm.models.base import Model, Quantity, Simulation, simulate

SPARKS = "▁▂▃▄▅▆▇█"
GALLERY: dict[str, dict[str, Any]] = {"fang": {"majority": 2, "imbalance": 3.0, "energy_h": 1.0}}  # else the defaults

ProgressText = Callable[[str], None]


def as_json(report: Simulation) -> JsonObject:
    """The object that `--json` prints: predicted, measured and deviation by quantity, and what was run."""
    return {
        "model": report.model.facts.name,
        "parameters": parameters(report.model),
        "seed": report.seed,
        "predicted": report.predicted,
        "measured": report.measured,
        "deviation": report.deviation,
    }


def parameters(model: Model) -> JsonObject:
    """The parameters of a model as JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(model).items()}


def as_text(report: Simulation) -> str:
    """A table of measured against predicted, and the collapse over time as one line a measure."""
    facts, model = report.model.facts, report.model
    parameters = ", ".join(f"{name} = {value}" for name, value in asdict(model).items() if value not in ("", ()))
    rows = [("quantity", "predicted", "measured", "deviation")]
    rows += [
        (name, shown(report.predicted[name]), shown(report.measured[name]), f"{report.deviation[name]:.1e}")
        for name in report.predicted
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    lines = [f"{facts.name}: {facts.paper}", f"{facts.loss}; {facts.constraint}", f"theory: {facts.theory}", parameters]
    lines += ["", table, "", f"collapse over {report.clock}, logarithmic"]
    lines += [f"{name:>9}  {sparkline(values)}  {values[0]:.1e} -> {values[-1]:.1e}" for name, values in report.history.items()]
    return "\n".join(lines)


def shown(value: Quantity) -> str:
    """A number, or the first four of a list."""
    if isinstance(value, list):
        return "[" + ", ".join(f"{v:.6g}" for v in value[:4]) + (", ..." if len(value) > 4 else "") + "]"
    return f"{value:.10g}"


def sparkline(values: np.ndarray, width: int = 40) -> str:
    """The logarithm of a history in one line of block characters."""
    picked = np.log10(np.maximum(values[np.linspace(0, len(values) - 1, width).round().astype(int)], FLOOR))
    span = picked.max() - picked.min()
    levels = ((picked - picked.min()) / span * 7).round().astype(int) if span > 0 else np.zeros(width, dtype=int)
    return "".join(SPARKS[level] for level in levels)


def gallery_model(name: str) -> Model:
    """The model with the parameters of the gallery."""
    return model_class(name)(**GALLERY.get(name, {}))


def figure_path(out: Path, name: str) -> Path:
    """Where the figure of a model goes."""
    return out / f"models-{name}.png"


def save_sweep_figure(report: Simulation, path: Path) -> None:
    """Solve the sweeps of the model and write its figure, atomically."""
    from sims.gallery.figures import model_figure
    from sims.gallery.sweeps import SWEEPS

    sweeps = tuple(sweep(report.model, report.seed, report.device) for sweep in SWEEPS[report.model.facts.name])
    figure, buffer = model_figure(report, sweeps), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=96, pil_kwargs={"optimize": True})
    save_bytes(buffer.getvalue(), path)


def save_bytes(content: bytes, path: Path) -> None:
    """Write a file, atomically."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(path, write)


def save_json(content: JsonObject, path: Path) -> None:
    """Write one JSON object, atomically."""
    save_bytes((json.dumps(content, indent=1, allow_nan=False) + "\n").encode(), path)


def check_folder(out: Path) -> None:
    """Make the folder; ValueError where files cannot be written there, before anything is computed for it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write into {out}: {error.strerror or error}") from error
    check_writable(out / "models.md")


def save_report(report: Simulation, out: Path) -> None:
    """The figure first, then the JSON that marks the model as finished."""
    save_sweep_figure(report, figure_path(out, report.model.facts.name))
    save_json(as_json(report), out / f"{report.model.facts.name}.json")


def saved_report(model: Model, seed: int, out: Path) -> JsonObject | None:
    """The saved report of exactly this model and seed, or None; anything but a whole report counts as absent."""
    path = out / f"{model.facts.name}.json"
    if not (path.exists() and figure_path(out, model.facts.name).exists()):
        return None
    try:
        saved = read_json(path)
        with errors_as_damage(path):
            markdown_table([saved])
    except ValueError:
        return None
    same = saved.get("parameters") == parameters(model) and saved.get("seed") == seed
    return saved if same else None


def make_gallery(out: Path, seed: int, device: str, progress: ProgressText) -> list[JsonObject]:
    """The reports of every model, skipping what a previous run has finished; writes `models.md`, their table."""
    reports = []
    for k, name in enumerate(MODEL_NAMES):
        model = gallery_model(name)
        saved = saved_report(model, seed, out)
        progress(f"[{k + 1}/{len(MODEL_NAMES)}] {name}: {'already there' if saved else 'solving'}")
        if saved is None:
            report = simulate(model, seed, device)
            save_report(report, out)
            saved = as_json(report)
        reports.append(saved)
    save_bytes(markdown_table(reports).encode(), out / "models.md")
    return reports


def markdown_table(reports: list[JsonObject]) -> str:
    """Model, loss, constraint, what the theory says, what was measured, deviation: one row a model, in Markdown."""
    head = ("model", "loss", "constraint", "theory says", "predicted", "measured", "deviation", "largest other deviation")
    rows = [head, ("---",) * len(head)]
    for report in reports:
        facts = model_class(report["model"]).facts
        key = next((name for name in ("minimum", "loss") if name in report["predicted"]), next(iter(report["predicted"]), ""))
        others = {name: value for name, value in report["deviation"].items() if name != key}
        worst = max(others, key=lambda name: others[name])
        cells = (f"{key} {shown(report['predicted'][key])}", shown(report["measured"][key]), f"{report['deviation'][key]:.1e}")
        words = (f"`{facts.name}`", facts.loss, facts.constraint, facts.theory)
        rows.append((*(re.sub(r"\||_(?=\+)", r"\\\g<0>", word) for word in words), *cells, f"{worst} {others[worst]:.1e}"))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
