"""Mistakes in the gradients of gamma and beta, dgamma = sum(dy * xhat) and dbeta = sum(dy)."""

from math import prod
from typing import Any

from reference.diagnosis.faults.entry import CENTRED, ROWS, Fault, Variant, instead

_RIGHT = {
    ("dgamma",): "dgamma = sum(dy * xhat) over all axes but gamma's",
    ("dbeta",): "dbeta = sum(dy) over all axes but beta's",
    ("dgamma", "dbeta"): "dgamma = sum(dy * xhat), dbeta = sum(dy), over all axes but gamma's",
}


def _fault(
    id: str, quantities: tuple[str, ...], summary: str, fix: str, wrong: str, *variants: Variant, **rest: Any
) -> Fault:
    return Fault(id, "mistake", summary, fix, wrong, _RIGHT[quantities], quantities, variants=variants, **rest)


def _terms(p: Any) -> int:
    """How many terms a sum of the parameters' gradients has."""
    return prod(p.view.shape[axis] for axis in p.view.gamma_axes)


def _summed_over(axes: Any, *names: str) -> Variant:
    """dgamma, dbeta or both with their sums over other axes."""
    terms = {"dgamma": lambda p: p.dy * p.dgamma_factor, "dbeta": lambda p: p.dy}

    def summed(name: str) -> Any:
        return instead(lambda p: terms[name](p).sum(axes(p)))

    return {name: summed(name) for name in names or ("dgamma", "dbeta")}


def _batch_axis(p: Any) -> int:
    return 0


BOTH = ("dgamma", "dbeta")

ENTRIES = (
    _fault(
        "dgamma-uses-x",
        ("dgamma",),
        "dgamma is made with x where it should be xhat.",
        "Multiply dy by the normalized input.",
        "dgamma = sum(dy * x)",
        {"dgamma_factor": instead(lambda p: p.x)},
    ),
    _fault(
        "dgamma-uses-centred-x",
        ("dgamma",),
        "dgamma is made with x - mean: it is not divided by the deviation.",
        "Multiply dy by the normalized input.",
        "dgamma = sum(dy * (x - mean))",
        {"dgamma_factor": instead(lambda p: p.centred)},
        layers=CENTRED,
    ),
    _fault(
        "dgamma-uses-y",
        ("dgamma",),
        "dgamma is made with the output, where gamma and beta are in already.",
        "Multiply dy by the normalized input, before gamma and beta.",
        "dgamma = sum(dy * y)",
        {"dgamma_factor": instead(lambda p: p.y)},
    ),
    _fault(
        "dgamma-times-gamma",
        ("dgamma",),
        "dgamma has a factor gamma too many: d = gamma * dy was used for dy.",
        "Sum dy * xhat, without gamma.",
        "dgamma = sum(gamma * dy * xhat)",
        {"dgamma": lambda p, g: g * p.gamma},
    ),
    _fault(
        "dgamma-mean-not-sum",
        ("dgamma",),
        "dgamma is a mean where it should be a sum.",
        "Sum over all axes but gamma's.",
        "dgamma = mean(dy * xhat)",
        {"dgamma": lambda p, g: g / _terms(p)},
    ),
    _fault(
        "dgamma-divided-by-batch",
        ("dgamma",),
        "dgamma is divided by the batch size; that belongs to a loss that is a mean, and is in dy already.",
        "Do not divide.",
        "dgamma = sum(dy * xhat) / N",
        {"dgamma": lambda p, g: g / p.batch},
    ),
    _fault(
        "dgamma-sign",
        ("dgamma",),
        "dgamma has the wrong sign.",
        "Turn the sign.",
        "dgamma = -sum(dy * xhat)",
        {"dgamma": lambda p, g: -g},
    ),
    _fault(
        "dgamma-without-xhat",
        ("dgamma",),
        "dgamma is the sum of dy alone: xhat is missing.",
        "Multiply dy by the normalized input before summing.",
        "dgamma = sum(dy)",
        {"dgamma_factor": lambda p, f: 0 * f + 1},
    ),
    _fault(
        "dgamma-batch-axis-only",
        ("dgamma",),
        "dgamma is summed over the batch axis only; the other axes are left, and the shape is wrong too.",
        "Sum over all axes but gamma's.",
        "dgamma = sum(dy * xhat, axis=0)",
        _summed_over(_batch_axis, "dgamma"),
    ),
    _fault(
        "dbeta-mean-not-sum",
        ("dbeta",),
        "dbeta is a mean where it should be a sum.",
        "Sum over all axes but beta's.",
        "dbeta = mean(dy)",
        {"dbeta": lambda p, g: g / _terms(p)},
        {"dbeta": lambda p, g: g / p.batch},
        layers=CENTRED,
    ),
    _fault(
        "dbeta-times-gamma",
        ("dbeta",),
        "dbeta has a factor gamma too many: d = gamma * dy was summed.",
        "Sum dy, without gamma.",
        "dbeta = sum(gamma * dy)",
        {"dbeta": lambda p, g: g * p.gamma},
        layers=CENTRED,
    ),
    _fault(
        "dbeta-batch-axis-only",
        ("dbeta",),
        "dbeta is summed over the batch axis only; the other axes are left, and the shape is wrong too.",
        "Sum over all axes but beta's.",
        "dbeta = sum(dy, axis=0)",
        _summed_over(_batch_axis, "dbeta"),
        layers=CENTRED,
    ),
    _fault(
        "dgamma-dbeta-swapped",
        BOTH,
        "The two gradients are given in each other's place.",
        "Swap them.",
        "dgamma = sum(dy), dbeta = sum(dy * xhat)",
        {
            "dgamma": instead(lambda p: p.parameter_sum(p.dy)),
            "dbeta": instead(lambda p: p.parameter_sum(p.dy * p.dgamma_factor)),
        },
        layers=CENTRED,
    ),
    _fault(
        "parameter-gradients-over-normalized-axes",
        BOTH,
        "The sums run over the normalized axes, where gamma lives, instead of over the others.",
        "Sum over all axes but gamma's.",
        "dgamma = sum(dy * xhat, axis=normalized_axes)",
        _summed_over(lambda p: p.view.axes),
        _summed_over(lambda p: p.view.axes, "dgamma"),
        _summed_over(lambda p: p.view.axes, "dbeta"),
        _summed_over(lambda p: -1),
        layers=ROWS,
        seen_in="two public repositories, independently",
    ),
    _fault(
        "parameter-gradients-summed-to-scalar",
        BOTH,
        "The sums run over every axis, so that all of gamma gets one number.",
        "Sum over all axes but gamma's.",
        "dgamma = sum(dy * xhat)  # over all axes",
        _summed_over(lambda p: None),
        _summed_over(lambda p: None, "dgamma"),
        _summed_over(lambda p: None, "dbeta"),
    ),
)
