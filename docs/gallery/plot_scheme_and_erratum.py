"""
The discrete scheme, its law and the printed law
================================================

The discrete scheme (gradient step, then renormalization) with step size 50 follows law (a), the renormalized law. The closed
form printed in the paper as Proposition 2 belongs to another flow.
"""

import matplotlib.pyplot as plt
import numpy as np

from ufm import EMBEDDED, RENORMALIZED
from ufm.laws.discrete_singular_values import run_discrete

C, N, eta, steps = 4, 12, 50.0, 200
omega0 = np.array([4.0, 2.1, 1.4])
scheme = run_discrete(omega0, eta, steps, C, N)
t = np.linspace(0, eta * steps, 400)
fig, ax = plt.subplots(figsize=(6.4, 4))
for law, label, colour, style in [
    (RENORMALIZED, "law (a)", "#0072b2", "-"),
    (EMBEDDED, "printed Proposition 2", "#b45500", "--"),
]:
    lines = ax.plot(t, law.omega(t, omega0, C, N), style, color=colour)
    lines[0].set_label(label)
shown = slice(0, None, 20)
dots = ax.plot(np.arange(steps + 1)[shown] * eta, scheme.omega[shown], "o", color="#1a1a1a", fillstyle="none", markersize=5)
dots[0].set_label("scheme, every 20th step")
ax.set(xlabel="time t = step size x steps", ylabel="singular values omega", title=f"C = {C}, N = {N}, step size {eta:.0f}")
ax.legend()
fig.tight_layout()
