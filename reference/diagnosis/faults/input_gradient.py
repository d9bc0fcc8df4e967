"""Mistakes in the input gradient, dx = rstd * (d - mean(d) - xhat * mean(d * xhat)) with d = gamma * dy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from reference.cases.case import Array
from reference.diagnosis.faults.entry import CENTRED, RMS, Fault, Variant, instead, times
from reference.diagnosis.faults.formulas import DX, DX_OF_RMS
from reference.truth.arithmetic import sqrt
from reference.truth.exact import Change, Pass

Average = Callable[[Array], Array]
Number = Callable[[Pass], float]


def _bare_rstd(p: Pass) -> Array:
    return np.asarray(1 / sqrt(p.var))


def _mean_with(factor: Number) -> Change:
    """A change of the means of the gradient alone: each is multiplied by factor(pass)."""

    def change(p: Pass, average: Average) -> Average:
        return lambda array: average(array) * factor(p)

    return change


def _last_axis(p: Pass, average: Average) -> Average:
    last = len(p.view.shape) - 1
    return lambda array: array.mean(last, keepdims=True) if last in p.view.axes else average(array)


def _of_dy(p: Pass, factor: Any) -> Array:
    """A mean of dy where one of gamma * dy should be."""
    return p.backward_average(p.dy * factor)


def _means_over(count: Number) -> Variant:
    """The sums of the gradient divided by another number than that of the summed values."""
    return {"backward_average": _mean_with(lambda p: p.count / count(p))}


ENTRIES = (
    Fault(
        id="dx-mean-term-missing",
        summary="The mean of d is not subtracted: the input moves the mean, and that path is left out.",
        fix="Subtract mean(d) inside of the bracket.",
        wrong="dx = rstd * (d - xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        layers=CENTRED,
        variants=({"mean_term": lambda p, m: 0 * m},),
    ),
    Fault(
        id="dx-mean-term-sign",
        summary="The mean of d is added where it should be subtracted.",
        fix="Subtract mean(d).",
        wrong="dx = rstd * (d + mean(d) - xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        layers=CENTRED,
        variants=({"mean_term": lambda p, m: -m},),
    ),
    Fault(
        id="dx-mean-term-doubled",
        summary="The mean of d is subtracted twice.",
        fix="Subtract mean(d) once.",
        wrong="dx = rstd * (d - 2 * mean(d) - xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        layers=CENTRED,
        variants=({"mean_term": lambda p, m: 2 * m},),
        seen_in="tt-metal#53204",
    ),
    Fault(
        id="dx-mean-term-added",
        summary="A mean of d is subtracted; RMSNorm has no mean, and so no such term.",
        fix="Leave mean(d) out.",
        wrong="dx = rstd * (d - mean(d) - xhat * mean(d * xhat))",
        right=DX_OF_RMS,
        quantities=("dx",),
        layers=RMS,
        variants=({"mean_term": instead(lambda p: p.backward_average(p.d))},),
    ),
    Fault(
        id="dx-projection-term-missing",
        summary="The term with mean(d * xhat) is left out: the input moves the variance, and that path is missing.",
        fix="Subtract xhat * mean(d * xhat) inside of the bracket.",
        wrong="dx = rstd * (d - mean(d))",
        right=DX,
        quantities=("dx",),
        variants=({"projection": lambda p, q: 0 * q},),
        seen_in="abhiskk/ladder#2",
    ),
    Fault(
        id="dx-projection-term-sign",
        summary="The term with mean(d * xhat) is added where it should be subtracted.",
        fix="Subtract xhat * mean(d * xhat).",
        wrong="dx = rstd * (d - mean(d) + xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        variants=({"projection": lambda p, q: -q},),
    ),
    Fault(
        id="dx-projection-term-doubled",
        summary="The term with mean(d * xhat) is subtracted twice.",
        fix="Subtract xhat * mean(d * xhat) once.",
        wrong="dx = rstd * (d - mean(d) - 2 * xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        variants=({"projection": lambda p, q: 2 * q},),
    ),
    Fault(
        id="dx-statistics-held-constant",
        summary="Mean and variance are taken for constants: both of their terms are missing.",
        fix="Subtract mean(d) and xhat * mean(d * xhat) inside of the bracket.",
        wrong="dx = rstd * d",
        right=DX,
        quantities=("dx",),
        layers=CENTRED,
        variants=({"mean_term": lambda p, m: 0 * m, "projection": lambda p, q: 0 * q},),
        seen_in="tinygrad PR#4904",
    ),
    Fault(
        id="dx-projection-uses-x",
        summary="The projection term is made with x where it should be xhat.",
        fix="Multiply mean(d * xhat) by xhat.",
        wrong="dx = rstd * (d - mean(d) - x * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        variants=({"projection": instead(lambda p: p.x * p.projection_mean)},),
    ),
    Fault(
        id="dx-gamma-missing",
        summary="gamma is left out of dx: dy is used where it should be gamma * dy.",
        fix="Start from d = gamma * dy.",
        wrong="dx = rstd * (dy - mean(dy) - xhat * mean(dy * xhat))",
        right=DX,
        quantities=("dx",),
        variants=({"d": instead(lambda p: p.dy)},),
        seen_in="oneDNN#3543, llm.c PR#763",
    ),
    Fault(
        id="dx-projection-term-without-gamma",
        summary="The projection term is that of dy, without gamma; the rest of dx has it.",
        fix="Take the mean of d * xhat, d = gamma * dy.",
        wrong="dx = rstd * (d - mean(d) - xhat * mean(dy * xhat)), d = gamma * dy",
        right=DX,
        quantities=("dx",),
        variants=({"projection_mean": lambda p, own: own if p.backward_constant else _of_dy(p, p.backward_xhat)},),
    ),
    Fault(
        id="dx-mean-term-without-gamma",
        summary="The mean term is that of dy, without gamma; the rest of dx has it.",
        fix="Take the mean of d = gamma * dy.",
        wrong="dx = rstd * (d - mean(dy) - xhat * mean(d * xhat)), d = gamma * dy",
        right=DX,
        quantities=("dx",),
        layers=CENTRED,
        variants=({"mean_term": lambda p, own: own if p.backward_constant else _of_dy(p, 1)},),
    ),
    Fault(
        id="dx-gamma-twice",
        summary="gamma is multiplied into dx twice.",
        fix="Multiply by gamma once: d = gamma * dy.",
        wrong="dx = rstd * (d - mean(d) - xhat * mean(d * xhat)), d = gamma**2 * dy",
        right=DX,
        quantities=("dx",),
        variants=(
            {"d": times(lambda p: p.backward_gamma)},
            {"dx": times(lambda p: p.backward_gamma)},
        ),
    ),
    Fault(
        id="dx-gamma-outside-means",
        summary=(
            "gamma multiplies the whole bracket; inside, the means are taken of dy without it. Right only where gamma is "
            "the same for all that share a mean."
        ),
        fix="Take both means of d = gamma * dy.",
        wrong="dx = gamma * rstd * (dy - mean(dy) - xhat * mean(dy * xhat))",
        right=DX,
        quantities=("dx",),
        layers=("GroupNorm", "LayerNorm", "RMSNorm"),
        variants=({"d": instead(lambda p: p.dy), "dx": times(lambda p: p.backward_gamma)},),
        seen_in="four of 117 public NumPy layers",
    ),
    Fault(
        id="dx-rstd-missing",
        summary="The bracket is not multiplied by rstd.",
        fix="Multiply by rstd = 1 / sqrt(var + eps).",
        wrong="dx = d - mean(d) - xhat * mean(d * xhat)",
        right=DX,
        quantities=("dx",),
        variants=({"backward_rstd": lambda p, rstd: 0 * rstd + 1},),
    ),
    Fault(
        id="dx-rstd-squared",
        summary="The bracket is multiplied by rstd twice.",
        fix="Multiply by rstd once.",
        wrong="dx = rstd**2 * (d - mean(d) - xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        variants=({"backward_rstd": lambda p, rstd: rstd**2},),
    ),
    Fault(
        id="dx-times-std",
        summary="The bracket is multiplied by the deviation where it should be divided by it.",
        fix="Divide by sqrt(var + eps).",
        wrong="dx = sqrt(var + eps) * (d - mean(d) - xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        variants=({"backward_rstd": lambda p, rstd: 1 / rstd},),
    ),
    Fault(
        id="dx-eps-missing",
        summary="The backward pass has a rstd of its own, without eps.",
        fix="Use the forward's rstd, 1 / sqrt(var + eps).",
        wrong="dx = (d - mean(d) - xhat * mean(d * xhat)) / sqrt(var)",
        right=DX,
        quantities=("dx",),
        variants=(
            {"backward_rstd": instead(_bare_rstd)},
            {
                "backward_rstd": instead(_bare_rstd),
                "backward_xhat": instead(lambda p: p.centred * _bare_rstd(p)),
                "dgamma_factor": instead(lambda p: p.xhat),
            },
            {"projection": instead(lambda p: p.centred * _bare_rstd(p) ** 2 * p.backward_average(p.d * p.centred))},
            {
                "backward_rstd": instead(_bare_rstd),
                "backward_xhat": instead(lambda p: p.centred * _bare_rstd(p)),
            },
            # node by node, in one line of the variance's gradient: the one with the root, or with the whole power
            {"projection": times(lambda p: _bare_rstd(p) / p.rstd)},
            {"projection": times(lambda p: (_bare_rstd(p) / p.rstd) ** 3)},
        ),
        seen_in="chainer PR#4191",
    ),
    Fault(
        id="dx-divides-by-n-minus-1",
        summary="Both means of the gradient are divided by n - 1.",
        fix="Divide by n: they are plain means.",
        wrong="dx = rstd * (d - sum(d) / (n - 1) - xhat * sum(d * xhat) / (n - 1))",
        right=DX,
        quantities=("dx",),
        variants=(_means_over(lambda p: p.count - 1 or float("nan")),),
    ),
    Fault(
        id="dx-sum-not-mean",
        summary="Sums stand where the means should be.",
        fix="Divide both sums by the number of values that share a mean.",
        wrong="dx = rstd * (d - sum(d) - xhat * sum(d * xhat))",
        right=DX,
        quantities=("dx",),
        variants=(_means_over(lambda p: 1),),
    ),
    Fault(
        id="dx-mean-term-sum",
        summary="The sum of d is subtracted where its mean should be; the other term is a mean.",
        fix="Divide the sum of d by the number of values that share a mean.",
        wrong="dx = rstd * (d - sum(d) - xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        layers=CENTRED,
        variants=({"mean_term": times(lambda p: p.count)},),
        seen_in="mlpack PR#1327",
    ),
    Fault(
        id="dx-projection-term-sum",
        summary="The projection term has a sum where its mean should be; the other term is a mean.",
        fix="Divide the sum of d * xhat by the number of values that share a mean.",
        wrong="dx = rstd * (d - mean(d) - xhat * sum(d * xhat))",
        right=DX,
        quantities=("dx",),
        layers=CENTRED,
        variants=({"projection": times(lambda p: p.count)},),
    ),
    Fault(
        id="dx-last-axis-only",
        summary="The means of the gradient run over the last axis only.",
        fix="Take them over all the axes that the forward's mean runs over.",
        wrong="mean(d, axis=-1)",
        right=DX,
        quantities=("dx",),
        layers=("GroupNorm", "LayerNorm", "RMSNorm"),
        variants=({"backward_average": _last_axis},),
        seen_in="Liger-Kernel#1375, FlagGems#5392",
    ),
    Fault(
        id="dx-divides-by-batch-only",
        summary=(
            "The sums of the gradient are divided by the batch size, where batch times space (or the group's size) were "
            "summed."
        ),
        fix="Divide by the number of values that share a mean.",
        wrong="dx = rstd * (d - sum(d) / N - xhat * sum(d * xhat) / N)",
        right=DX,
        quantities=("dx",),
        layers=("GroupNorm", "BatchNorm"),
        variants=(_means_over(lambda p: p.batch),),
    ),
    Fault(
        id="dx-divided-by-batch",
        summary="dx is divided by the batch size; that belongs to a loss that is a mean, and is in dy already.",
        fix="Do not divide.",
        wrong="dx = rstd * (...) / N",
        right=DX,
        quantities=("dx",),
        variants=({"dx": lambda p, dx: dx / p.batch},),
    ),
    Fault(
        id="dx-sign",
        summary="dx has the wrong sign.",
        fix="Turn the sign.",
        wrong="dx = -rstd * (d - mean(d) - xhat * mean(d * xhat))",
        right=DX,
        quantities=("dx",),
        variants=({"dx": lambda p, dx: -dx},),
    ),
    Fault(
        id="dx-diagonal-only",
        summary="Only the diagonal of the Jacobian is used: how each output depends on its own input.",
        fix="Every output depends on all inputs that share its mean: use both means.",
        wrong="dx = rstd * d * (1 - 1 / n - xhat**2 / n)",
        right=DX,
        quantities=("dx",),
        variants=(
            {
                "mean_term": lambda p, m: 0 * m if not p.case.kind.centred or p.backward_constant else p.d / p.count,
                "projection": lambda p, q: 0 * q if p.backward_constant else p.d * p.backward_xhat**2 / p.count,
            },
        ),
    ),
    Fault(
        id="dx-is-dy",
        summary="dy is handed through as dx.",
        fix="Compute the gradient.",
        wrong="dx = dy",
        right=DX,
        quantities=("dx",),
        variants=({"dx": instead(lambda p: p.dy)},),
    ),
)
