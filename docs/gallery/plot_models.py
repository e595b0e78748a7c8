"""
Models of other papers, solved
==============================

For each model of the literature its paper proves the minimum. Here four are solved numerically from a random start; the
difference from the predicted minimum falls to rounding.
"""

import matplotlib.pyplot as plt
import numpy as np

from ufm.models import model_class
from ufm.models.base import simulate

names = ["mse-bias-free", "zhu", "e-wojtowytsch", "lu-steinerberger"]
styles = [("#0072b2", "-"), ("#b45500", "--"), ("#007a5e", "-."), ("#aa3377", ":")]
fig, ax = plt.subplots(figsize=(6.4, 4))
for name, (colour, style) in zip(names, styles, strict=True):
    result = simulate(model_class(name)())
    gap = result.history["objective"] - result.predicted["minimum"]
    ax.semilogy(np.linspace(0, 1, len(gap)), np.maximum(gap, 1e-16), style, color=colour, label=result.model.facts.paper)
ax.set(xlabel="share of the solver's iterations", ylabel="objective above the predicted minimum")
ax.legend(fontsize=8)
fig.tight_layout()
