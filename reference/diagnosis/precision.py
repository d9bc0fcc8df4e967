"""Mistakes that lose digits, though their formula is the right one: told by how the error grows, not by a change.

Knows the formula and what a subject gave; must not know how a finding is put into words beyond its evidence.
"""

from typing import NamedTuple

import numpy as np

from reference.cases.case import Array
from reference.dtypes import roundoff
from reference.truth.exact import Changes, passes
from reference.truth.tolerance import tolerance_of
from reference.truth.verdict import Trial

LOST = (0.01, 64.0)  # roundoffs of mean**2 by which a one-pass variance is off where it is off most
FOLLOWS = 1e-3  # of a row's error in y, at most, that does not follow xhat


class _Loss(NamedTuple):
    """By how much the variances that a layer divided by are off, in one trial: in roundoffs of mean**2, at most."""

    conditioning: float
    roundoffs: float


def one_pass_variance(trials: list[Trial], changes: Changes | None = None) -> str | None:
    """The evidence that the variance is mean(x**2) - mean(x)**2, which cancels where the mean is large; else None.

    It is that if wherever y is wrong each row of it is the right row times one number, that of a variance which is off
    by some roundoffs of mean**2: no more, so that y is right wherever the mean is small, and at the worst not much less.

    Args:
        trials: all of a subject, right and wrong. changes: the conventions that it is held to.
    """
    losses = []
    for trial in trials:
        if "y" not in trial.wrong or _statistics_given(trial):
            continue  # where the statistics are given none of them is the batch's own variance
        loss = _loss_of(trial, changes or {})
        if loss is None:
            return None
        losses.append(loss)
    if not losses:
        return None
    worst = max(loss.roundoffs for loss in losses)
    if not LOST[0] <= worst <= LOST[1]:
        return None
    near, far = (pick(loss.conditioning for loss in losses) for pick in (min, max))
    return (
        f"y is wrong only where |mean| is {near:.2g} to {far:.2g} deviations; there each row is the right one times a "
        f"number, that of a variance which is off by {worst:.2g} u of mean**2 at most, as mean(x**2) - mean(x)**2 is"
    )


def _statistics_given(trial: Trial) -> bool:
    return trial.case.tracks and not trial.case.training


def _loss_of(trial: Trial, changes: Changes) -> _Loss | None:
    """What was lost in a trial whose y is wrong; None if it is no loss of this sort."""
    case, got = trial.case, trial.seen.outcome.get("y")
    conditioning = trial.expected.truth.conditioning
    last = passes(case, changes)[-1]
    if got is None or got.size != last.x.size or not case.kind.centred:
        return None
    u, axes = roundoff(case.dtype), last.view.axes
    with np.errstate(all="ignore"):
        xhat = ((got.reshape(last.view.shape) - last.beta) / last.gamma).astype(np.float64)
        right, var = last.xhat.astype(np.float64), last.var.astype(np.float64)
        # the number that makes the right row the subject's
        factor = (xhat * right).sum(axes, keepdims=True) / (right**2).sum(axes, keepdims=True)
        rest, error, whole = (_size(array, axes) for array in (xhat - factor * right, xhat - right, right))
        left = rest / error
        off = (var + last.eps) / factor**2 - last.eps - var
        roundoffs = np.abs(off) / (u * last.mean.astype(np.float64) ** 2)
        # where what is lost is more than there was, the root is one of a negative number, or of one that was clamped
        gone = LOST[1] * u * last.mean.astype(np.float64) ** 2 > var + last.eps
        # A row is made from a rounded mean all the same, and tolerated up to that.
        units = tolerance_of("y", conditioning, case.dtype) * u
        tolerated = error <= units * whole
        # beside a beta, a small xhat has no more digits than that
        scale = np.abs(trial.expected.truth.scale["y"].reshape(last.view.shape) / last.gamma).astype(np.float64)
        rounded = rest <= units * _size(scale, axes) * np.maximum(np.abs(factor), 1)
    rows = np.isfinite(factor) & ~tolerated
    if not np.all(np.isfinite(factor) | gone) or not np.all((left <= FOLLOWS) | rounded | ~rows):
        return None
    return _Loss(conditioning, float(np.max(roundoffs, initial=0.0, where=rows)))


def _size(array: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.sqrt((array**2).sum(axes, keepdims=True)))
