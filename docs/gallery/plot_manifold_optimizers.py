"""
Two metrics, two libraries
==========================

The same loss on the normalized features manifold, minimised by conjugate gradients of pymanopt in the bundle metric and in the
embedded one, and by geoopt's RiemannianSGD. All three stay on the manifold to rounding.
"""

import geoopt
import matplotlib.pyplot as plt
import numpy as np
import pymanopt
import torch

import manifolds

layout, P = manifolds.ClassLayout((6, 8, 7, 6)), 5
Y = torch.eye(4, dtype=torch.float64)[torch.as_tensor(layout.labels)].T
head = Y - Y.mean(-1, keepdim=True)
W = torch.linalg.qr(torch.randn(P, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0].T


def loss(X):
    """Cross-entropy of a fixed head, with weight decay on the features so that a minimum exists."""
    return torch.nn.functional.cross_entropy((W @ X).T, Y.argmax(0)) + 0.01 * (X * X).mean()


start = manifolds.random_point(layout, P, rng=3)
paths = {}
for name in ("NormalizedFeatures", "EmbeddedNormalizedFeatures"):
    manifold = getattr(manifolds.pymanopt, name)(layout, P)
    cost = pymanopt.function.pytorch(manifold)(loss)
    optimizer = pymanopt.optimizers.ConjugateGradient(verbosity=0, max_iterations=40, log_verbosity=1)
    log = optimizer.run(pymanopt.Problem(manifold, cost), initial_point=start).log["iterations"]
    paths[f"pymanopt, {'bundle' if name[0] == 'N' else 'embedded'} metric"] = log["cost"]
manifold = manifolds.geoopt.NormalizedFeatures(layout)
X = geoopt.ManifoldParameter(torch.as_tensor(start), manifold=manifold)
optimizer = geoopt.optim.RiemannianSGD([X], lr=20.0)
values = []
for _ in range(41):
    optimizer.zero_grad()
    value = loss(X)
    value.backward()
    values.append(value.item())
    optimizer.step()
paths["geoopt, RiemannianSGD"] = values
assert manifold.check_point_on_manifold(X)
best = min(map(min, paths.values()))
fig, ax = plt.subplots(figsize=(6.4, 4))
for (name, path), colour, style in zip(paths.items(), ("#0072b2", "#b45500", "#007a5e"), ("-", "--", ":"), strict=True):
    ax.semilogy(np.maximum(np.array(path) - best, 1e-12), style, color=colour, label=name)
ax.set(xlabel="iteration", ylabel="loss above the best of all")
ax.legend()
fig.tight_layout()
