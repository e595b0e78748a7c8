"""The handwritten digits of scikit-learn, read from its file: importing the library takes longer than a short training."""

import importlib.util
from pathlib import Path

import numpy as np


def digits_table() -> np.ndarray:
    """A row an image: 8 x 8 pixels in 0..16, then the digit. (1797, 65) uint8

    Raises ValueError where scikit-learn is not installed.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ValueError("the digits come with scikit-learn: pip install 'neural-collapse-flow[train]'")
    file = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    return np.loadtxt(file, delimiter=",", dtype=np.uint8)
