"""
Models of other papers, solved
==============================

Each model of the literature comes with the minimum that its paper proves. Here four are solved from a random start, and what is
left above the predicted minimum goes to rounding.
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
