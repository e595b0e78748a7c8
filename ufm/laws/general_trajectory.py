"""A whole trajectory of the general law: singular values and vectors, loss and its parts, NC1 to NC4."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from manifolds.linalg import Array, ArrayT, namespace
from manifolds.representation import short_repr
from ufm.arrays import ClassMeans, LeftVectors, LeftVectorsInTime, OmegaInTime, RightVectors, RightVectorsInTime, Times, as_numpy
from ufm.features import spectral_loss
from ufm.laws.general import GeneralLaw
from ufm.laws.general_states import peak_signs
from ufm.laws.thin_svd import thin_svd
from ufm.laws.trajectory import Trajectory

Centre = Literal["examples", "classes"]


@dataclass(frozen=True, eq=False, repr=False)
class GeneralTrajectory:
    """omega, u and the singular vectors at times t (T,), values descending at every time; K = min(C - 1, P).

    omega (T, K)  singular values of Eq. 9's Sigma_W^{-1/2} (M - mu_G 1^T), mu_G the mean over examples
    u (T, K)      eigenvalues of G = S^T S; omega^2 / C for equal classes
    error         bound on the relative error of every omega and sqrt(u), from the integrator's local errors; beside it stands
                  what rounding of the start leaves of a small value, a few eps sigma_1 / sigma_j of S
    U_0 (P, K)    left singular vectors of the start; Z (T, K, C) with S_t = U_0 Z_t, or (K, C) for equal classes, where the
                  vectors are frozen and S_t = U_0 diag(sqrt(u_t)) Z

    Measures of the class means are about mu_G, the mean over examples, or with centre="classes" about the mean of the class
    means. Only about the latter do NC2 and NC3 emerge for unequal classes: the means tend to a regular simplex, and mu_G is not
    its centre.

    Where two values cross the columns swap: unequal classes make them avoid each other, but a symmetry may let them cross.
    """

    law: GeneralLaw
    t: Times[Array]
    omega: OmegaInTime[Array]
    u: OmegaInTime[Array]
    error: float
    U_0: LeftVectors[Array]
    Z: Annotated[Array, "... K C"]
    __repr__ = short_repr

    @property
    def frozen(self) -> bool:
        """Whether the singular vectors stay as they are: equal classes."""
        return self.Z.ndim == 2

    def S(self, index: int) -> ClassMeans[Array]:
        """S = M diag(sqrt(pi)) at one of the times. (P, C)"""
        return self.U_0 @ self._reduced(index)

    def class_means(self, index: int) -> ClassMeans[Array]:
        """Class means of the renormalized features at one of the times. (P, C)"""
        return self.law.class_means(self.S(index))

    @cached_property
    def V_t(self) -> RightVectorsInTime[Array]:
        """Right singular vectors of Eq. 9's matrix, signs continuous in time. (T, C, K)"""
        return self._vectors[1]

    @cached_property
    def U_t(self) -> LeftVectorsInTime[Array]:
        """Left singular vectors of Eq. 9's matrix, signs continuous in time. (T, P, K)"""
        return self._vectors[0]

    @property
    def V(self) -> RightVectors[Array]:
        """Right singular vectors at the start. (C, K)"""
        return self.V_t[0]

    @cached_property
    def _vectors(self) -> tuple[Array, Array]:
        xp, T = namespace(self.Z), len(self.t)
        if self.frozen:
            return tuple(xp.broadcast_to(x, (T, *x.shape)) for x in (self.U_0, self.Z.mT))  # type: ignore[return-value]
        U, V = list[Array](), list[Array]()
        for Z in self.Z:
            left, _, right = thin_svd(self.law.class_means(Z))
            right = right.mT
            signs = peak_signs(right) if not V else xp.where((V[-1] * right).sum(0) < 0, -1.0, 1.0)
            U.append(self.U_0 @ (left * signs))
            V.append(right * signs)
        return xp.stack(U), xp.stack(V)

    @cached_property
    def _parts(self) -> tuple[Array, Array]:
        """L_NC1 and L_NC2/3. (T,), (T,)"""
        xp, law, basis = namespace(self.u), self.law, self.law.basis(self.u)
        if self.frozen:
            _, p, rest = law.spectrum(basis.reduce(self.Z))
            return law.parts_of(self.u, p, rest)
        parts = [law.parts_of(*law.spectrum(basis.reduce(Z))) for Z in self.Z]
        nc1, nc23 = zip(*parts, strict=True)
        return xp.stack(nc1), xp.stack(nc23)

    @property
    def loss(self) -> Times[Array]:
        """L_LS = 1/2 tr Pi (s K - q q^T), of the ridge least-squares classifier with free bias. (T,)"""
        return self.loss_nc1 + self.loss_nc23

    @property
    def loss_nc1(self) -> Times[Array]:
        """L_NC1 = 1/2 tr W (Sigma_W + lambda I) W^T. (T,)"""
        return self._parts[0]

    @property
    def loss_nc23(self) -> Times[Array]:
        """L_NC2/3 = 1/2 sum_c pi_c ||W mu_c + b - e_c||^2. (T,)"""
        return self._parts[1]

    @cached_property
    def nc1(self) -> Times[Array]:
        """tr(Sigma_W Sigma_B^+) / C = sum_j 1 / (C u_j) over the non-zero values. (T,)"""
        return spectral_loss.spectral_nc1((self.law.C * self.u) ** 0.5)

    def equinorm(self, centre: Centre = "examples") -> Times[Array]:
        """NC2: Std_c / Avg_c of the norms of the class means. (T,)"""
        return self._of_means(centre, spectral_loss.spectral_equinorm)

    def equiangular(self, centre: Centre = "examples") -> Times[Array]:
        """NC2: Std over pairs of the cosines of the class means. (T,)"""
        return self._of_means(centre, spectral_loss.spectral_equiangular)

    def maximal_angle(self, centre: Centre = "examples") -> Times[Array]:
        """NC2: Avg over pairs of |cos + 1/(C-1)| of the class means. (T,)"""
        return self._of_means(centre, spectral_loss.spectral_maximal_angle)

    def nc3(self, centre: Centre = "examples") -> Times[Array]:
        """|| W^T / ||W||_F - M / ||M||_F ||_F^2 of the ridge least-squares classifier W and the class means. (T,)"""
        law, xp = self.law, namespace(self.u)
        values = []
        for k in range(len(self.t)):
            left, sigma, right = thin_svd(self._reduced(k))
            W = (left * (sigma / (law.s + sigma * sigma))) @ right * law.priors_like(self.u) ** 0.5
            M = self._centred(k, centre)
            values.append(((W / (W * W).sum() ** 0.5 - M / (M * M).sum() ** 0.5) ** 2).sum())
        return xp.stack(values)

    def _of_means(self, centre: Centre, measure: Callable[[ArrayT, ArrayT], ArrayT]) -> ArrayT:
        ones = 0 * self.U_0[0] + 1
        return namespace(self.u).stack([measure(ones, self._centred(k, centre).mT) for k in range(len(self.t))])

    def _reduced(self, index: int) -> Array:
        """U_0^T S. (K, C)"""
        return self.u[index][:, None] ** 0.5 * self.Z if self.frozen else self.Z[index]

    def _centred(self, index: int, centre: Centre) -> Array:
        """U_0^T times the class means about a centre. (K, C)"""
        M = self.law.class_means(self._reduced(index))
        return M if centre == "examples" else M - M.mean(-1)[:, None]

    def trajectory(self) -> Trajectory:
        """The same as the type that every simulated and measured trajectory has, numpy; N is the mean class size n / C."""
        t, omega, U, V = (as_numpy(x) for x in (self.t, self.omega, self.U_t, self.V_t))
        observed = {f"ls_{name}": as_numpy(getattr(self, name)) for name in ("loss", "loss_nc1", "loss_nc23")}
        vectors = {} if self.frozen else {"V_t": V, "U_t": U}
        return Trajectory(
            t, omega, V[0], self.law.C, self.law.n // self.law.C, U[0], **vectors, observed=observed, counts=self.law.counts
        )
