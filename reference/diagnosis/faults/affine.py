"""Mistakes with gamma and beta in the forward pass."""

from collections.abc import Callable

import numpy as np

from reference.cases.case import Array
from reference.diagnosis.faults.entry import CENTRED, GROUP, Fault, instead
from reference.diagnosis.faults.formulas import Y
from reference.truth.exact import Change, Pass

Pick = Callable[[Array], Array]


def _first_of_group(values: Array) -> Array:
    return np.asarray(values[:, :, :1])


def _entry_of_group(values: Array) -> Array:
    """values[g] for all of group g: the first G of the C entries."""
    groups = values.shape[1]
    return np.asarray(values.reshape(-1)[:groups].reshape(1, groups, 1, *values.shape[3:]))


def _mean_of_group(values: Array) -> Array:
    return np.asarray(values.mean(2, keepdims=True))


def _a_group(pick: Pick) -> Change:
    """Parameters with the one value in all of a group that pick(values) takes from it."""

    def change(p: Pass, values: Array) -> Array:
        return np.asarray(pick(values) + 0 * values)

    return change


_PER_GROUP = (_entry_of_group, _first_of_group, _mean_of_group)

ENTRIES = (
    Fault(
        id="gamma-not-applied",
        summary="The output is not multiplied by gamma.",
        fix="y = gamma * xhat + beta.",
        wrong="y = xhat + beta",
        right=Y,
        quantities=("y",),
        variants=({"gamma": lambda p, gamma: 0 * gamma + 1}, {"y": instead(lambda p: p.xhat + p.beta)}),
        forward=True,
    ),
    Fault(
        id="gamma-per-group",
        summary="gamma is one number a group; it is one a channel.",
        fix="Give gamma (and beta) the shape (C,), and apply it to channels.",
        wrong="y = gamma[group] * xhat + beta",
        right="y = gamma[channel] * xhat + beta[channel]",
        quantities=("y",),
        layers=GROUP,
        variants=tuple(
            variant
            for pick in _PER_GROUP
            for variant in (
                {
                    "gamma": _a_group(pick),
                    "beta": _a_group(pick),
                    "dgamma": lambda p, gradient: gradient.sum(2),
                    "dbeta": lambda p, gradient: gradient.sum(2),
                },
                {"gamma": _a_group(pick)},
                {
                    "gamma": _a_group(pick),
                    "beta": _a_group(pick),
                },
            )
        ),
        forward=True,
        seen_in="onnx#5466, mxnet#17139",
    ),
    Fault(
        id="beta-not-applied",
        summary="beta is not added to the output.",
        fix="y = gamma * xhat + beta.",
        wrong="y = gamma * xhat",
        right=Y,
        quantities=("y",),
        layers=CENTRED,
        variants=({"beta": lambda p, beta: 0 * beta},),
        forward=True,
    ),
    Fault(
        id="beta-before-gamma",
        summary="beta is added before gamma multiplies, so that gamma multiplies it too.",
        fix="y = gamma * xhat + beta.",
        wrong="y = gamma * (xhat + beta)",
        right=Y,
        quantities=("y",),
        layers=CENTRED,
        variants=({"y": instead(lambda p: p.gamma * (p.xhat + p.beta))},),
        forward=True,
    ),
    Fault(
        id="gamma-plus-one",
        kind="convention",
        summary="gamma is kept as its distance from 1: the output is multiplied by 1 + gamma.",
        fix="Multiply by gamma itself, and start it at 1; or accept this convention.",
        wrong="y = (1 + gamma) * xhat + beta",
        right=Y,
        quantities=("y",),
        variants=({"gamma": lambda p, gamma: gamma + 1 if p.case.has_gamma else gamma},),
        forward=True,
        seen_in="Gemma, Megatron-LM",
    ),
)
