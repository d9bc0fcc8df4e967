"""Mistakes in the running statistics: what they start from, what they take in, and when."""

from typing import Any

import numpy as np

from reference.cases.case import Array
from reference.diagnosis.faults.entry import BATCH, Fault, Variant, instead
from reference.diagnosis.faults.formulas import RUNNING
from reference.truth.arithmetic import wide
from reference.truth.exact import Change, Pass


def _learned(p: Pass) -> Any:
    """How much of the running statistics is the batches', and not what they started from: 1 - (1 - momentum)**t."""
    left = wide(np.ones(()))
    q: Pass | None = p
    while q is not None:
        left = left * (1 - q.fraction) if q.follows else left
        q = q.previous
    return 1 - left


def _corrected(untaught: float) -> Change:
    """The running statistics over what of them is learned; `untaught` before any batch."""

    def change(p: Pass, running: Array) -> Array:
        learned = _learned(p)
        return running / learned if learned else 0 * running + untaught

    return change


def _own_fraction(guarded: bool) -> Change:
    """The fraction of the new in statistics that are stored corrected; a momentum of 0 is 0 / 0, or left alone."""

    def change(p: Pass, fraction: Any) -> Any:
        learned = 1 - (1 - fraction) ** p.batches
        if p.momentum is None:
            return fraction  # they are plain averages already
        return fraction / learned if learned else fraction * (1 if guarded else np.nan)

    return change


_ZERO_VAR: Variant = {"initial_var": lambda p, var: 0 * var}
# Before the first batch there is nothing to correct: a layer divides 0 by 0, uses its zeros, or a mean of 0 and a
# variance of 1.
_CORRECTED_IN_USE: tuple[Variant, ...] = tuple(
    {**_ZERO_VAR, "used_mean": _corrected(mean), "used_var": _corrected(var)}
    for mean, var in ((np.nan, np.nan), (0.0, 0.0), (0.0, 1.0))
)
_CORRECTED_IN_STORE: tuple[Variant, ...] = tuple(
    {**start, "fraction": _own_fraction(guarded)} for start in ({}, _ZERO_VAR) for guarded in (False, True)
)

ENTRIES = (
    Fault(
        id="running-var-biased",
        kind="convention",
        summary="The running variance takes the biased variance of the batch; torch stores the unbiased one.",
        fix="Multiply the batch's variance by n / (n - 1) before it is stored; or accept this convention.",
        wrong="running_var follows sum((x - mean)**2) / n",
        right="running_var follows sum((x - mean)**2) / (n - 1)",
        quantities=("running_var",),
        layers=BATCH,
        variants=({"stored_var": instead(lambda p: p.batch_var)},),
        forward=True,
        seen_in="37 of 46 public NumPy BatchNorms; tinygrad PR#807, tt-metal#55438, BrainPy PR#843",
    ),
    Fault(
        id="momentum-inverted",
        kind="convention",
        summary="momentum is taken for the fraction that is kept; in torch it is the fraction of the new.",
        fix="Use running = (1 - momentum) * running + momentum * batch; or accept this convention.",
        wrong="running = momentum * running + (1 - momentum) * batch",
        right=RUNNING,
        quantities=("running_mean", "running_var"),
        layers=BATCH,
        variants=({"fraction": lambda p, f: f if p.momentum is None else 1 - f},),
        forward=True,
        seen_in="deeplab-pytorch#79, ludwig PR#2100",
    ),
    Fault(
        id="running-statistics-updated-in-eval",
        summary="The running statistics follow batches in eval mode too.",
        fix="Update them in training mode only.",
        wrong="running = ... in every forward",
        right="running is left alone in eval mode",
        quantities=("running_mean", "running_var"),
        layers=BATCH,
        variants=(
            {"follows": instead(lambda p: bool(p.tracks))},
            {
                "follows": instead(lambda p: bool(p.tracks)),
                "used_mean": instead(lambda p: p.old_mean),
                "used_var": instead(lambda p: p.old_var),
            },
        ),
        forward=True,
        seen_in="chainer#5555",
    ),
    Fault(
        id="running-statistics-not-updated",
        summary="The running statistics are never updated.",
        fix="Update them in each forward of training mode.",
        wrong="running stays at mean 0 and variance 1",
        right=RUNNING,
        quantities=("running_mean", "running_var"),
        layers=BATCH,
        variants=({"follows": instead(lambda p: False)},),
        forward=True,
        seen_in="aprender PR#2166",
    ),
    Fault(
        id="running-statistics-replaced-by-first-batch",
        kind="convention",
        summary="The first batch replaces the running statistics, where it should be averaged into them.",
        fix="Start from mean 0 and variance 1, and average from the first batch on; or accept this convention.",
        wrong="running = batch  # at the first batch",
        right=RUNNING,
        quantities=("running_mean", "running_var"),
        layers=BATCH,
        variants=(
            {"fraction": lambda p, f: f * 0 + 1 if p.batches == 1 else f},
            {
                "running_mean": lambda p, mean: p.batch_mean if p.batches == 1 else mean,
                "running_var": lambda p, var: p.stored_var if p.batches == 1 else var,
            },
        ),
        forward=True,
    ),
    Fault(
        id="running-var-decayed-twice",
        summary="The running variance is multiplied by 1 - momentum twice at each update.",
        fix="Decay it once.",
        wrong="running_var = (1 - momentum)**2 * running_var + momentum * var",
        right=RUNNING,
        quantities=("running_var",),
        layers=BATCH,
        variants=(
            {"running_var": instead(lambda p: (1 - p.fraction) ** 2 * p.old_var + p.fraction * p.stored_var)},
            {"running_var": lambda p, var: (1 - p.fraction) * var + p.fraction * p.stored_var},
            {"running_var": lambda p, var: (1 - p.fraction) * var},
        ),
        forward=True,
        seen_in="chainer#5555",
    ),
    Fault(
        id="running-var-includes-eps",
        summary="The running variance learns var + eps, so that eval adds eps twice.",
        fix="Add eps where the root is taken, not to the variance that is stored.",
        wrong="running_var follows var + eps",
        right="running_var follows var",
        quantities=("running_var",),
        layers=BATCH,
        variants=(
            {"stored_var": lambda p, var: var + p.eps * p.count / max(p.count - 1, 1)},
            {"stored_var": lambda p, var: var + p.eps},
        ),
        forward=True,
        seen_in="chainer PR#4505",
    ),
    Fault(
        id="running-mean-unbiased",
        summary="The running mean takes the batch's mean times n / (n - 1); that factor is the variance's.",
        fix="Average the plain mean of the batch into running_mean.",
        wrong="running_mean follows sum(x) / (n - 1)",
        right="running_mean follows sum(x) / n",
        quantities=("running_mean",),
        layers=BATCH,
        variants=({"running_mean": lambda p, mean: mean + p.fraction * p.batch_mean / max(p.count - 1, 1)},),
        forward=True,
    ),
    Fault(
        id="running-statistics-start-at-zero",
        kind="convention",
        summary="running_var starts at 0, as running_mean does; in torch it starts at 1.",
        fix="Start from mean 0 and variance 1; or accept this convention.",
        wrong="running_var = np.zeros(num_features)",
        right="running_var = np.ones(num_features)",
        quantities=("running_var",),
        layers=BATCH,
        variants=(_ZERO_VAR,),
        forward=True,
        seen_in="cs231n's assignment 2",
    ),
    Fault(
        id="running-statistics-bias-corrected",
        kind="convention",
        summary="The running statistics are divided by 1 - (1 - momentum)**t, as Adam's moments are.",
        fix="Start from mean 0 and variance 1 and use them as they are; or accept this convention.",
        wrong="xhat = (x - running_mean / c) / sqrt(running_var / c + eps), c = 1 - (1 - momentum)**t",
        right="xhat = (x - running_mean) / sqrt(running_var + eps)",
        quantities=("y", "running_mean", "running_var"),
        layers=BATCH,
        variants=(*_CORRECTED_IN_USE, *_CORRECTED_IN_STORE),
        ways=len(_CORRECTED_IN_USE) + len(_CORRECTED_IN_STORE),
        forward=True,
        seen_in="dm-haiku",
    ),
)
