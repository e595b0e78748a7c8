"""
A complete run, from random features
====================================

What ``python -m ufm.flow`` computes: features are whitened, and their singular values omega (signal-to-noise ratios between
classes) and losses follow the exact law (lines). Dots: the discrete scheme, a gradient step followed by renormalization.
"""

import matplotlib.pyplot as plt
import numpy as np

from ufm.flow.config import FlowConfig
from ufm.flow.run import run_flow
from ufm.flow.start import prepare

config = FlowConfig(C=6, N=80, P=40)
result = run_flow(config, prepare(config))
flow, scheme = result.flow, result.scheme
dots = np.unique(np.geomspace(1, len(scheme.t) - 1, 12).astype(int))
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
left.loglog(flow.t, flow.omega, color="#0072b2")
left.loglog(scheme.t[dots], scheme.omega[dots], "o", color="#1a1a1a", fillstyle="none", markersize=4)
left.set(xlabel="time t", ylabel="singular values omega", title=f"C = {config.C}, N = {config.N}, P = {config.P}")
right.loglog(flow.t, flow.loss, color="#1a1a1a", label="L_LS")
right.loglog(flow.t, flow.loss_nc1, "--", color="#0072b2", label="L_NC1")
right.loglog(flow.t, flow.loss_nc23, ":", color="#b45500", label="L_NC2/3")
right.set(xlabel="time t", ylabel="loss")
right.legend()
fig.tight_layout()
