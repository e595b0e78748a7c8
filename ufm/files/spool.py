"""Last-layer features on disk while they are measured, so that memory does not grow with the number of examples."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np


class FeatureSpool:
    """Unnamed temporary files of features (n, P) and labels (n,); they vanish when the block ends or the process dies.

    Raises ValueError where the folder cannot hold them or the disk is full.
    """

    def __init__(self, folder: Path | None = None) -> None:
        try:
            self._features, self._labels = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115 - by __exit__
        except OSError as error:
            raise ValueError(f"cannot keep features in {folder}: {error.strerror}; name a folder that can be written") from error
        self._n, self._P, self._dtype = 0, 0, np.dtype(np.float32)

    def __enter__(self) -> "FeatureSpool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._features.close()
        self._labels.close()

    def append(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: features (b, P) of the one dtype and P of the spool, labels (b,). Raises ValueError for others."""
        if self._n and (features.shape[1], features.dtype) != (self._P, self._dtype):
            others = f"P = {features.shape[1]} of {features.dtype}"
            raise ValueError(f"features with {others} cannot be kept with those before them, P = {self._P} of {self._dtype}")
        try:
            # arrays kept between batches would scatter what the allocator reuses, and memory would creep up
            for file, values in ((self._features, features), (self._labels, labels.astype(np.int64))):
                file.write(np.ascontiguousarray(values).data)
                file.flush()
        except OSError as error:
            raise ValueError(f"cannot keep the features for measuring: {error.strerror or error}") from error
        self._n, self._P, self._dtype = self._n + len(labels), features.shape[1], features.dtype

    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        """The features, so many rows at a time: unlike a mapped file they leave memory when their turn is over."""
        self._features.seek(0)
        for start in range(0, self._n, rows):
            chunk = np.empty((min(rows, self._n - start), self._P), dtype=self._dtype)
            self._features.readinto(chunk.data)  # type: ignore[attr-defined]
            yield chunk

    def blocks(self, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The features and their labels, so many rows at a time: copies, both."""
        for k, features in enumerate(self.chunks(rows)):
            yield features, np.array(self.labels[k * rows : k * rows + len(features)])

    @property
    def n(self) -> int:
        """The examples appended."""
        return self._n

    @property
    def labels(self) -> np.ndarray:
        """Labels of everything appended, read from disk as they are used. (n,)"""
        return np.memmap(self._labels, dtype=np.int64, mode="r", shape=(self._n,))

    @property
    def features(self) -> np.ndarray:
        """Everything appended, read from disk as it is used. (n, P)"""
        return np.memmap(self._features, dtype=self._dtype, mode="r", shape=(self._n, self._P))
