"""Which operations of a network cause collapse: the SNR after every operation, its estimators, and the theorem behind them."""

from manifolds.lazy import give_modules
from ufm.ledger.discrimination import Discrimination, discrimination
from ufm.ledger.measure import ledger, ledger_of_features
from ufm.ledger.reductions import ChannelMeans, Sketch
from ufm.ledger.result import Ledger

__all__ = ["ChannelMeans", "Discrimination", "Ledger", "Sketch", "discrimination", "ledger", "ledger_of_features"]

give_modules(__name__)
