"""
Three laws from one start
=========================

The renormalized, embedded and unnormalized laws differ in how fast the signal-to-noise ratios omega grow: omega grows as the
square root of time, as its fourth root, and exponentially.
"""

import matplotlib.pyplot as plt
import numpy as np

from ufm import EMBEDDED, RENORMALIZED, UNNORMALIZED

C, N = 4, 60
omega0, t = np.array([3.0, 1.5, 0.7]), np.geomspace(1, 1e6, 300)
laws = [(RENORMALIZED, "(a) renormalized", "#0072b2", "-"), (EMBEDDED, "(b) embedded", "#b45500", "--")]
laws.append((UNNORMALIZED, "(c) unnormalized", "#007a5e", ":"))
fig, ax = plt.subplots(figsize=(6.4, 4))
for law, label, colour, style in laws:
    within = t if law is not UNNORMALIZED else t[t < 8e3]
    lines = ax.loglog(within, law.omega(within, omega0, C, N), color=colour, linestyle=style)
    lines[0].set_label(label)
ax.set(xlabel="time t", ylabel="singular values omega", title=f"C = {C}, N = {N}")
ax.legend()
fig.tight_layout()
