"""One log for two callbacks, or two watches: nothing that one of them wrote is lost without a word."""

import gc
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.ufm.monitor.test_logs import measured
from ufm.monitor.logs import CsvLog, RunLog, StepLog
from ufm.monitor.tables import read_csv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what these libraries deprecate of their own is not ours
    from ufm.monitor.lightning_callback import NeuralCollapseCallback as ForLightning
    from ufm.monitor.transformers_callback import NeuralCollapseCallback as ForTransformers


@pytest.mark.parametrize("make", [ForLightning, ForTransformers])
@pytest.mark.parametrize("name", ["run.csv", "run"])
def test_a_file_of_one_callback_is_refused_to_another(make: Any, name: str, tmp_path: Path) -> None:
    log = CsvLog(tmp_path / name) if name.endswith("csv") else RunLog(tmp_path / name)
    sent: list[dict[str, float]] = []
    steps = StepLog(sent.append)
    first = make("fc", logs=[steps, log])
    with pytest.raises(ValueError, match=rf"{name} is written by another callback already: give every callback a log of its own"):
        ForLightning("fc", logs=[log])
    ForLightning("fc", logs=[steps])  # has no file
    assert first.logs == [steps, log]
    kept = pickle.loads(pickle.dumps(log))  # as it goes to the processes of a job
    make("fc", logs=[kept])
    values, measurement = measured()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log(1, values, measurement)
        log(1, values, measurement)  # validated twice an epoch
    del first
    gc.collect()
    ForLightning("fc", logs=[log])  # the other one is gone: the next training in a notebook


def test_an_epoch_that_a_log_wrote_itself_is_not_replaced_in_silence(tmp_path: Path) -> None:
    values, measurement = measured()
    for log in (CsvLog(tmp_path / "run.csv"), RunLog(tmp_path / "run")):
        log(1, values, measurement)
        log(2, values, measurement)
        with pytest.warns(UserWarning, match="the epochs 2 to 2, which this log wrote, are replaced: a second watch needs a log"):
            log(2, values, measurement)
        with pytest.warns(UserWarning, match="epochs 1 to 2"):
            log(1, values, measurement)
        log(2, values, measurement)
    assert read_csv(tmp_path / "run.csv")["epoch"].tolist() == [1, 2]
