"""Mistakes in the gradients of gamma and beta, dgamma = sum(dy * xhat) and dbeta = sum(dy)."""

from collections.abc import Callable
from math import prod

from reference.cases.case import Array
from reference.diagnosis.faults.entry import CENTRED, ROWS, Fault, Variant, instead
from reference.diagnosis.faults.formulas import DBETA, DGAMMA, DGAMMA_DBETA
from reference.truth.exact import Change, Pass

_TERMS: dict[str, Callable[[Pass], Array]] = {"dgamma": lambda p: p.dy * p.dgamma_factor, "dbeta": lambda p: p.dy}


def _terms(p: Pass) -> int:
    """How many terms a sum of the parameters' gradients has."""
    return prod(p.view.shape[axis] for axis in p.view.gamma_axes)


def _summed_over(axes: Callable[[Pass], int | tuple[int, ...] | None], *names: str) -> Variant:
    """dgamma, dbeta or both with their sums over other axes."""

    def summed(name: str) -> Change:
        return instead(lambda p: _TERMS[name](p).sum(axes(p)))

    return {name: summed(name) for name in names or ("dgamma", "dbeta")}


def _batch_axis(p: Pass) -> int:
    return 0


ENTRIES = (
    Fault(
        id="dgamma-uses-x",
        summary="dgamma is made with x where it should be xhat.",
        fix="Multiply dy by the normalized input.",
        wrong="dgamma = sum(dy * x)",
        right=DGAMMA,
        quantities=("dgamma",),
        variants=({"dgamma_factor": instead(lambda p: p.x)},),
    ),
    Fault(
        id="dgamma-uses-centred-x",
        summary="dgamma is made with x - mean: it is not divided by the deviation.",
        fix="Multiply dy by the normalized input.",
        wrong="dgamma = sum(dy * (x - mean))",
        right=DGAMMA,
        quantities=("dgamma",),
        layers=CENTRED,
        variants=({"dgamma_factor": instead(lambda p: p.centred)},),
    ),
    Fault(
        id="dgamma-uses-y",
        summary="dgamma is made with the output, where gamma and beta are in already.",
        fix="Multiply dy by the normalized input, before gamma and beta.",
        wrong="dgamma = sum(dy * y)",
        right=DGAMMA,
        quantities=("dgamma",),
        variants=({"dgamma_factor": instead(lambda p: p.y)},),
    ),
    Fault(
        id="dgamma-times-gamma",
        summary="dgamma has a factor gamma too many: d = gamma * dy was used for dy.",
        fix="Sum dy * xhat, without gamma.",
        wrong="dgamma = sum(gamma * dy * xhat)",
        right=DGAMMA,
        quantities=("dgamma",),
        variants=({"dgamma": lambda p, g: g * p.gamma},),
    ),
    Fault(
        id="dgamma-mean-not-sum",
        summary="dgamma is a mean where it should be a sum.",
        fix="Sum over all axes but gamma's.",
        wrong="dgamma = mean(dy * xhat)",
        right=DGAMMA,
        quantities=("dgamma",),
        variants=({"dgamma": lambda p, g: g / _terms(p)},),
    ),
    Fault(
        id="dgamma-divided-by-batch",
        summary="dgamma is divided by the batch size; that belongs to a loss that is a mean, and is in dy already.",
        fix="Do not divide.",
        wrong="dgamma = sum(dy * xhat) / N",
        right=DGAMMA,
        quantities=("dgamma",),
        variants=({"dgamma": lambda p, g: g / p.batch},),
    ),
    Fault(
        id="dgamma-sign",
        summary="dgamma has the wrong sign.",
        fix="Turn the sign.",
        wrong="dgamma = -sum(dy * xhat)",
        right=DGAMMA,
        quantities=("dgamma",),
        variants=({"dgamma": lambda p, g: -g},),
    ),
    Fault(
        id="dgamma-without-xhat",
        summary="dgamma is the sum of dy alone: xhat is missing.",
        fix="Multiply dy by the normalized input before summing.",
        wrong="dgamma = sum(dy)",
        right=DGAMMA,
        quantities=("dgamma",),
        variants=({"dgamma_factor": lambda p, f: 0 * f + 1},),
    ),
    Fault(
        id="dgamma-batch-axis-only",
        summary="dgamma is summed over the batch axis only; the other axes are left, and the shape is wrong too.",
        fix="Sum over all axes but gamma's.",
        wrong="dgamma = sum(dy * xhat, axis=0)",
        right=DGAMMA,
        quantities=("dgamma",),
        variants=(_summed_over(_batch_axis, "dgamma"),),
        covers=("parameter-gradients-misshapen",),
    ),
    Fault(
        id="dbeta-mean-not-sum",
        summary="dbeta is a mean where it should be a sum.",
        fix="Sum over all axes but beta's.",
        wrong="dbeta = mean(dy)",
        right=DBETA,
        quantities=("dbeta",),
        layers=CENTRED,
        variants=(
            {"dbeta": lambda p, g: g / _terms(p)},
            {"dbeta": lambda p, g: g / p.batch},
        ),
    ),
    Fault(
        id="dbeta-times-gamma",
        summary="dbeta has a factor gamma too many: d = gamma * dy was summed.",
        fix="Sum dy, without gamma.",
        wrong="dbeta = sum(gamma * dy)",
        right=DBETA,
        quantities=("dbeta",),
        layers=CENTRED,
        variants=({"dbeta": lambda p, g: g * p.gamma},),
    ),
    Fault(
        id="dbeta-batch-axis-only",
        summary="dbeta is summed over the batch axis only; the other axes are left, and the shape is wrong too.",
        fix="Sum over all axes but beta's.",
        wrong="dbeta = sum(dy, axis=0)",
        right=DBETA,
        quantities=("dbeta",),
        layers=CENTRED,
        variants=(_summed_over(_batch_axis, "dbeta"),),
        covers=("parameter-gradients-misshapen",),
    ),
    Fault(
        id="dgamma-dbeta-swapped",
        summary="The two gradients are given in each other's place.",
        fix="Swap them.",
        wrong="dgamma = sum(dy), dbeta = sum(dy * xhat)",
        right=DGAMMA_DBETA,
        quantities=("dgamma", "dbeta"),
        layers=CENTRED,
        variants=(
            {
                "dgamma": instead(lambda p: p.parameter_sum(p.dy)),
                "dbeta": instead(lambda p: p.parameter_sum(p.dy * p.dgamma_factor)),
            },
        ),
        seen_in="oneflow PR#6149",
    ),
    Fault(
        id="parameter-gradients-over-normalized-axes",
        summary="The sums run over the normalized axes, where gamma lives, instead of over the others.",
        fix="Sum over all axes but gamma's.",
        wrong="dgamma = sum(dy * xhat, axis=normalized_axes)",
        right=DGAMMA_DBETA,
        quantities=("dgamma", "dbeta"),
        layers=ROWS,
        variants=(
            _summed_over(lambda p: p.view.axes),
            _summed_over(lambda p: p.view.axes, "dgamma"),
            _summed_over(lambda p: p.view.axes, "dbeta"),
            _summed_over(lambda p: -1),
        ),
        seen_in="two public repositories, independently",
    ),
    Fault(
        id="parameter-gradients-summed-to-scalar",
        summary="The sums run over every axis, so that all of gamma gets one number.",
        fix="Sum over all axes but gamma's.",
        wrong="dgamma = sum(dy * xhat)  # over all axes",
        right=DGAMMA_DBETA,
        quantities=("dgamma", "dbeta"),
        variants=(
            _summed_over(lambda p: None),
            _summed_over(lambda p: None, "dgamma"),
            _summed_over(lambda p: None, "dbeta"),
        ),
    ),
    Fault(
        id="parameter-gradients-misshapen",
        summary="dgamma or dbeta has the right numbers in another shape than gamma's.",
        fix="Give each gradient the shape of its parameter, dgamma.reshape(gamma.shape).",
        wrong="dgamma of shape (gamma.size,)  # or another",
        right="dgamma of gamma's shape",
        quantities=("dgamma", "dbeta"),
        seen_in="pytorch PR#192016",
    ),
)
