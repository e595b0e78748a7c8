"""Which measured epochs are compared: usable ones, from the entry to the central path on."""

from dataclasses import dataclass

import numpy as np

from manifolds.representation import short_repr
from ufm.laws.trajectory import Trajectory

FRACTION = 0.1  # of L_LS, below which L_perp counts as the central path
FEWEST = 3  # epochs: with two, every law with a free clock and free starts is nearly right


@dataclass(frozen=True, eq=False, repr=False)
class Window:
    """The epochs compared, from `entry` on, as a Trajectory without unusable epochs and vanishing singular values.

    `ratio` is L_perp / L_LS at every epoch of the whole run (NaN where no classifier was measured), `epochs` those epochs.
    Where nothing can be compared, `compared` is None and `reason` says why; `notes` tell what was left out.
    """

    epochs: np.ndarray
    ratio: np.ndarray
    entry: float | None
    compared: Trajectory | None
    reason: str = ""
    notes: tuple[str, ...] = ()
    __repr__ = short_repr


def find_window(
    measured: Trajectory, fraction: float = FRACTION, from_epoch: float | None = None, to_epoch: float | None = None
) -> Window:
    """From the first epoch at which L_perp < fraction L_LS, there and at every later one, or from `from_epoch`, to `to_epoch`.

    A trajectory without measured vectors and losses is a simulated one: it is on the central path from its start.
    Raises ValueError for a fraction that is not positive and finite.
    """
    if not 0 < fraction < np.inf:
        raise ValueError(f"fraction = {fraction}: L_perp is compared with a positive share of L_LS, 0.1 for example")
    ratio = proximity(measured)
    last = np.inf if to_epoch is None else to_epoch
    entry, reason = (from_epoch, "") if from_epoch is not None else _entry_epoch(measured.t, ratio, fraction, last)
    if entry is None:
        return Window(measured.t, ratio, None, None, reason)
    inside = np.flatnonzero((measured.t >= entry) & (measured.t <= last))
    usable, notes = _usable(measured.rows(inside))
    if len(usable.t) < FEWEST:
        epochs = f"{len(usable.t)} usable epoch{'' if len(usable.t) == 1 else 's'}"
        return Window(measured.t, ratio, entry, None, f"{epochs} from epoch {entry:g} on: at least {FEWEST} are needed", notes)
    if not usable.omega.shape[1]:
        return Window(measured.t, ratio, entry, None, "every singular value vanishes: no class mean differs from another", notes)
    return Window(measured.t, ratio, entry, usable, "", notes)


def proximity(measured: Trajectory) -> np.ndarray:
    """L_perp / L_LS (T,), L_LS = L - L_perp; 0 for a simulated trajectory, NaN where no classifier was measured."""
    if "loss_perp" in measured.observed:
        perp = measured.observed["loss_perp"]
        with np.errstate(divide="ignore", invalid="ignore"):
            return perp / (measured.observed["loss"] - perp)
    return np.full(len(measured.t), 0.0 if measured.V_t is None else np.nan)


def _entry_epoch(t: np.ndarray, ratio: np.ndarray, fraction: float, last: float) -> tuple[float | None, str]:
    within = t <= last
    if not within.any():
        return None, f"no epoch is measured up to {last:g}"
    if np.isnan(ratio).all():
        unknown = "L_perp is not known, as no classifier was measured or no lambda given, nor so the entry to the central path"
        return None, f"{unknown}: choose from_epoch"
    outside = np.flatnonzero(~(ratio[within] < fraction))
    first = outside[-1] + 1 if len(outside) else 0
    if first < within.sum():
        return float(t[first]), ""
    least = np.nanmin(ratio[within])
    return None, (
        f"the run is not on the central path at its end: L_perp / L_LS is {ratio[within][-1]:.3g} there and {least:.3g} at the "
        f"least, {fraction:g} is asked for; from a chosen from_epoch on it is compared all the same"
    )


def _usable(run: Trajectory) -> tuple[Trajectory, tuple[str, ...]]:
    """The run without epochs whose SNR is undefined or has fewer positive values than elsewhere, and without zero columns."""
    if not len(run.t):
        return run, ()
    notes: list[str] = []
    finite = np.isfinite(run.omega).all(1)
    positive = np.where(finite, (run.omega > 0).sum(1), -1)
    kept = positive == positive.max(initial=0)
    if not kept.all():
        left_out = ", ".join(f"{epoch:g}" for epoch in run.t[~kept][:8])
        more = f" and {(~kept).sum() - 8} more" if (~kept).sum() > 8 else ""
        notes.append(f"left out, because Sigma_W lost rank or is undefined there: epoch {left_out}{more}")
    run = run.rows(np.flatnonzero(kept))
    moving = np.asarray((run.omega > 0).all(0))
    if not moving.all():
        notes.append(f"left out: {int((~moving).sum())} of {len(moving)} singular values, which are 0")
    return _columns_kept(run, moving), tuple(notes)


def _columns_kept(run: Trajectory, kept: np.ndarray) -> Trajectory:
    if kept.all():
        return run
    V, U, V_t, U_t = (None if a is None else a[..., kept] for a in (run.V, run.U, run.V_t, run.U_t))
    assert V is not None
    return Trajectory(run.t, run.omega[:, kept], V, run.C, run.N, U, V_t, U_t, run.observed, counts=run.counts)
