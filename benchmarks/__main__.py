"""`python -m benchmarks [section ...]`: run all measurements, or some, and print the markdown table."""

import datetime
import os
import platform
import sys
from pathlib import Path

import numpy as np

from benchmarks import flow, later_models, laws, scaling
from benchmarks.rows import Row

SECTIONS = (*flow.SECTIONS, *laws.SECTIONS, *later_models.SECTIONS)
ON_REQUEST = scaling.SECTIONS  # that take all cores, and minutes
HEAD = ("quantity", "ours", "compared with", "measured (quartiles)", "target", "met")


def machine() -> str:
    """The machine and the versions, in words."""
    import scipy
    import torch

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    versions = f"Python {platform.python_version()}, numpy {np.__version__} ({blas['name']} {blas['version']})"
    libraries = f"scipy {scipy.__version__}, torch {torch.__version__}"
    return f"{_processor()}, {os.cpu_count()} cores, one thread used, {platform.system()}; {versions}, {libraries}"


def _processor() -> str:
    """Name, family and model of the processor where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in lines if ":" in line)}
    return (
        f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"
    )


def line(row: Row) -> str:
    """One line of the table."""
    holds = {True: "yes", False: "**no**", None: ""}[row.holds]
    return f"| {row.quantity} | {row.ours} | {row.other} | {row.measured} | {row.target} | {holds} |"


def main(names: list[str]) -> int:
    """Print the table, line by line as it is measured: 0 every target holds, 1 one does not, 2 unknown section."""
    sections = {section.__name__: section for section in (*SECTIONS, *ON_REQUEST)}
    unknown = [name for name in names if name not in sections]
    if unknown:
        print(f"benchmarks: error: {unknown[0]} is none of {', '.join(sections)}", file=sys.stderr)
        return 2
    print(f"{machine()}; {datetime.date.today():%Y-%m-%d}; load average {os.getloadavg()[0]:.1f}\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    failed = False
    for name in names or [section.__name__ for section in SECTIONS]:
        for row in sections[name]():
            print(line(row), flush=True)
            failed |= row.holds is False
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
