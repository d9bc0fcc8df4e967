"""Mistakes in the input gradient, dx = rstd * (d - mean(d) - xhat * mean(d * xhat)) with d = gamma * dy."""

from typing import Any

from reference.diagnosis.faults.entry import CENTRED, Fault, Variant, instead, times
from reference.truth.arithmetic import sqrt

_RIGHT = "dx = rstd * (d - mean(d) - xhat * mean(d * xhat)), d = gamma * dy"


def _fault(id: str, summary: str, fix: str, wrong: str, *variants: Variant, **rest: Any) -> Fault:
    right = rest.pop("right", _RIGHT)
    return Fault(id, "mistake", summary, fix, wrong, right, ("dx",), variants=variants, **rest)


def _bare_rstd(p: Any) -> Any:
    return 1 / sqrt(p.var)


def _mean_with(factor: Any) -> Any:
    """A change of the means of the gradient alone: each is multiplied by factor(pass)."""
    return lambda p, average: lambda array: average(array) * factor(p)


def _last_axis(p: Any, average: Any) -> Any:
    last = len(p.view.shape) - 1
    return lambda array: array.mean(last, keepdims=True) if last in p.view.axes else average(array)


def _means_over(count: Any) -> Variant:
    """The sums of the gradient divided by another number than that of the summed values."""
    return {"backward_average": _mean_with(lambda p: p.count / count(p))}


ENTRIES = (
    _fault(
        "dx-mean-term-missing",
        "The mean of d is not subtracted: the input moves the mean, and that path is left out.",
        "Subtract mean(d) inside of the bracket.",
        "dx = rstd * (d - xhat * mean(d * xhat))",
        {"mean_term": lambda p, m: 0 * m},
        layers=CENTRED,
    ),
    _fault(
        "dx-mean-term-sign",
        "The mean of d is added where it should be subtracted.",
        "Subtract mean(d).",
        "dx = rstd * (d + mean(d) - xhat * mean(d * xhat))",
        {"mean_term": lambda p, m: -m},
        layers=CENTRED,
    ),
    _fault(
        "dx-mean-term-doubled",
        "The mean of d is subtracted twice.",
        "Subtract mean(d) once.",
        "dx = rstd * (d - 2 * mean(d) - xhat * mean(d * xhat))",
        {"mean_term": lambda p, m: 2 * m},
        layers=CENTRED,
        seen_in="tt-metal#53204",
    ),
    _fault(
        "dx-mean-term-added",
        "A mean of d is subtracted; RMSNorm has no mean, and so no such term.",
        "Leave mean(d) out.",
        "dx = rstd * (d - mean(d) - xhat * mean(d * xhat))",
        {"mean_term": instead(lambda p: p.backward_average(p.d))},
        layers=("RMSNorm",),
        right="dx = rstd * (d - xhat * mean(d * xhat)), d = gamma * dy",
    ),
    _fault(
        "dx-projection-term-missing",
        "The term with mean(d * xhat) is left out: the input moves the variance, and that path is missing.",
        "Subtract xhat * mean(d * xhat) inside of the bracket.",
        "dx = rstd * (d - mean(d))",
        {"projection": lambda p, q: 0 * q},
    ),
    _fault(
        "dx-projection-term-sign",
        "The term with mean(d * xhat) is added where it should be subtracted.",
        "Subtract xhat * mean(d * xhat).",
        "dx = rstd * (d - mean(d) + xhat * mean(d * xhat))",
        {"projection": lambda p, q: -q},
    ),
    _fault(
        "dx-projection-term-doubled",
        "The term with mean(d * xhat) is subtracted twice.",
        "Subtract xhat * mean(d * xhat) once.",
        "dx = rstd * (d - mean(d) - 2 * xhat * mean(d * xhat))",
        {"projection": lambda p, q: 2 * q},
    ),
    _fault(
        "dx-statistics-held-constant",
        "Mean and variance are taken for constants: both of their terms are missing.",
        "Subtract mean(d) and xhat * mean(d * xhat) inside of the bracket.",
        "dx = rstd * d",
        {"mean_term": lambda p, m: 0 * m, "projection": lambda p, q: 0 * q},
        layers=CENTRED,
        seen_in="tinygrad PR#4904",
    ),
    _fault(
        "dx-projection-uses-x",
        "The projection term is made with x where it should be xhat.",
        "Multiply mean(d * xhat) by xhat.",
        "dx = rstd * (d - mean(d) - x * mean(d * xhat))",
        {"projection": instead(lambda p: p.x * p.projection_mean)},
    ),
    _fault(
        "dx-gamma-missing",
        "gamma is left out of dx: dy is used where it should be gamma * dy.",
        "Start from d = gamma * dy.",
        "dx = rstd * (dy - mean(dy) - xhat * mean(dy * xhat))",
        {"d": instead(lambda p: p.dy)},
        seen_in="oneDNN#3543, llm.c PR#763",
    ),
    _fault(
        "dx-gamma-twice",
        "gamma is multiplied into dx twice.",
        "Multiply by gamma once: d = gamma * dy.",
        "dx = rstd * (d - mean(d) - xhat * mean(d * xhat)), d = gamma**2 * dy",
        {"d": times(lambda p: p.backward_gamma)},
        {"dx": times(lambda p: p.backward_gamma)},
    ),
    _fault(
        "dx-gamma-outside-means",
        "gamma multiplies the whole bracket; inside, the means are taken of dy without it. Right only where gamma is "
        "the same for all that share a mean.",
        "Take both means of d = gamma * dy.",
        "dx = gamma * rstd * (dy - mean(dy) - xhat * mean(dy * xhat))",
        {"d": instead(lambda p: p.dy), "dx": times(lambda p: p.backward_gamma)},
        layers=("GroupNorm", "LayerNorm", "RMSNorm"),
        seen_in="four of 117 public NumPy layers",
    ),
    _fault(
        "dx-rstd-missing",
        "The bracket is not multiplied by rstd.",
        "Multiply by rstd = 1 / sqrt(var + eps).",
        "dx = d - mean(d) - xhat * mean(d * xhat)",
        {"backward_rstd": lambda p, rstd: 0 * rstd + 1},
    ),
    _fault(
        "dx-rstd-squared",
        "The bracket is multiplied by rstd twice.",
        "Multiply by rstd once.",
        "dx = rstd**2 * (d - mean(d) - xhat * mean(d * xhat))",
        {"backward_rstd": lambda p, rstd: rstd**2},
    ),
    _fault(
        "dx-times-std",
        "The bracket is multiplied by the deviation where it should be divided by it.",
        "Divide by sqrt(var + eps).",
        "dx = sqrt(var + eps) * (d - mean(d) - xhat * mean(d * xhat))",
        {"backward_rstd": lambda p, rstd: 1 / rstd},
        seen_in="llm-foundry#371",
    ),
    _fault(
        "dx-eps-missing",
        "The backward pass has a rstd of its own, without eps.",
        "Use the forward's rstd, 1 / sqrt(var + eps).",
        "dx = (d - mean(d) - xhat * mean(d * xhat)) / sqrt(var)",
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
    ),
    _fault(
        "dx-divides-by-n-minus-1",
        "Both means of the gradient are divided by n - 1.",
        "Divide by n: they are plain means.",
        "dx = rstd * (d - sum(d) / (n - 1) - xhat * sum(d * xhat) / (n - 1))",
        _means_over(lambda p: p.count - 1 or float("nan")),
    ),
    _fault(
        "dx-sum-not-mean",
        "Sums stand where the means should be.",
        "Divide both sums by the number of values that share a mean.",
        "dx = rstd * (d - sum(d) - xhat * sum(d * xhat))",
        _means_over(lambda p: 1),
    ),
    _fault(
        "dx-last-axis-only",
        "The means of the gradient run over the last axis only.",
        "Take them over all the axes that the forward's mean runs over.",
        "mean(d, axis=-1)",
        {"backward_average": _last_axis},
        layers=("GroupNorm", "LayerNorm", "RMSNorm"),
        seen_in="Liger-Kernel#1375, FlagGems#5392",
    ),
    _fault(
        "dx-divides-by-batch-only",
        "The sums of the gradient are divided by the batch size, where batch times space (or the group's size) were "
        "summed.",
        "Divide by the number of values that share a mean.",
        "dx = rstd * (d - sum(d) / N - xhat * sum(d * xhat) / N)",
        _means_over(lambda p: p.batch),
        layers=("GroupNorm", "BatchNorm"),
    ),
    _fault(
        "dx-divided-by-batch",
        "dx is divided by the batch size; that belongs to a loss that is a mean, and is in dy already.",
        "Do not divide.",
        "dx = rstd * (...) / N",
        {"dx": lambda p, dx: dx / p.batch},
    ),
    _fault(
        "dx-sign",
        "dx has the wrong sign.",
        "Turn the sign.",
        "dx = -rstd * (d - mean(d) - xhat * mean(d * xhat))",
        {"dx": lambda p, dx: -dx},
    ),
    _fault(
        "dx-diagonal-only",
        "Only the diagonal of the Jacobian is used: how each output depends on its own input.",
        "Every output depends on all inputs that share its mean: use both means.",
        "dx = rstd * d * (1 - 1 / n - xhat**2 / n)",
        {
            "mean_term": lambda p, m: 0 * m if not p.case.kind.centred or p.backward_constant else p.d / p.count,
            "projection": lambda p, q: 0 * q if p.backward_constant else p.d * p.backward_xhat**2 / p.count,
        },
    ),
    _fault(
        "dx-is-dy",
        "dy is handed through as dx.",
        "Compute the gradient.",
        "dx = dy",
        {"dx": instead(lambda p: p.dy)},
    ),
)
