"""A spool keeps features of one kind; others would be read back as other numbers."""

from pathlib import Path

import numpy as np
import pytest

from ufm.files.spool import FeatureSpool


@pytest.mark.parametrize("other", [np.zeros((2, 3)), np.zeros((2, 4), np.float32)])
def test_features_of_another_dtype_or_size_are_refused_and_what_was_kept_stays(tmp_path: Path, other: np.ndarray) -> None:
    first = np.arange(6, dtype=np.float32).reshape(2, 3)
    with FeatureSpool(tmp_path) as spool:
        spool.append(first, np.array([0, 1]))
        with pytest.raises(ValueError, match="cannot be kept with those before them, P = 3 of float32"):
            spool.append(other, np.array([1, 0]))
        assert (spool.features == first).all()
        assert spool.labels.tolist() == [0, 1]
