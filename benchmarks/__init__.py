"""Measurements beside what a user would otherwise pick, as ratios in one run: `python -m benchmarks` prints the table.

One thread, set here because a BLAS reads it when numpy is first imported: with two, any other busy process doubles a wall time.
"""

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
