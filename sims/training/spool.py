"""Last-layer features on disk while they are measured, so that memory does not grow with the number of examples."""

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np


class FeatureSpool:
    """An unnamed temporary file of features (n, P); it vanishes when the block ends or the process dies.

    Raises ValueError where the disk is full.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._labels: list[np.ndarray] = []
        self._P, self._dtype = 0, np.dtype(np.float32)

    def __enter__(self) -> "FeatureSpool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: features (b, P) of the one dtype of the spool, labels (b,)."""
        try:
            self._file.write(np.ascontiguousarray(features).data)
            self._file.flush()
        except OSError as error:
            raise ValueError(f"cannot keep the features for measuring: {error.strerror or error}") from error
        self._labels.append(labels)
        self._P, self._dtype = features.shape[1], features.dtype

    @property
    def labels(self) -> np.ndarray:
        """Labels of everything appended. (n,)"""
        return np.concatenate(self._labels)

    @property
    def features(self) -> np.ndarray:
        """Everything appended, read from disk as it is used. (n, P)"""
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=(len(self.labels), self._P))
