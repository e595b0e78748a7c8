"""The models on a CUDA device: the same minima as on the CPU; run on demand with -m gpu."""

import pytest
import torch

from tests.ufm.models.oracles import assert_as_predicted
from ufm.models.base import Model, simulate
from ufm.models.e_wojtowytsch import EWojtowytsch
from ufm.models.ergen_pilanci import ErgenPilanci
from ufm.models.fang import Fang
from ufm.models.poggio_liao import PoggioLiao
from ufm.models.tirer_bruna import BiasFree
from ufm.models.zhu import Zhu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

MODELS = [
    Zhu(C=4, N=5, P=6),
    Zhu(C=4, N=5, P=6, optimizer="lbfgs"),
    Fang(C=4, N=3, P=6, majority=2, imbalance=2.0, energy_h=1.0),
    PoggioLiao(C=4, N=3, P=5),
    PoggioLiao(C=4, N=3, P=5, optimizer="geoopt"),
    EWojtowytsch(C=4, N=3, P=5),
    ErgenPilanci(sizes=(6, 4, 2)),
    BiasFree(C=4, P=5, sizes=(6, 4, 2, 2)),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.facts.name} {model.optimizer}")
def test_a_solve_on_the_device_finds_the_predicted_minimum(model: Model) -> None:
    assert model.solve(0, "cuda").point[0].is_cuda
    assert_as_predicted(simulate(model, 0, "cuda"))
