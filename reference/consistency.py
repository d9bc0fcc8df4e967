"""Which half is wrong: a layer's own forward, differenced numerically, against its own backward.

It is evidence, not the verdict: a layer may be consistent in itself and still not be this normalization. It needs
neither torch nor the formula.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from reference.cases import Array, Case, Scope
from reference.coverage import fit
from reference.guard import Clock, shielded
from reference.probes import BASES
from reference.subject import Subject

STEP = 1e-3
# (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h, whose error is of the order of h**4
STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
AGREES = 1e-6  # h**4, with a margin for the fifth derivative
DIRECTIONS = 3


def backward_is_derivative(subject: Subject, scope: Scope, clock: Clock) -> bool | None:
    """Whether its backward is the derivative of its forward, in random directions; None if that cannot be told."""
    if "float64" not in scope.dtypes:
        return None
    answers = []
    for rank in [rank for rank in (2, 4, 3) if rank in scope.ndims][:2]:
        case = fit(BASES[subject.like][rank], scope)
        if scope.lacks(case):
            continue
        answers.append(_agrees(subject, case, clock))
        if subject.like == "BatchNorm" and False in scope.modes:
            answers.append(_agrees(subject, replace(case, training=False, calls=2), clock))
    if False in answers:
        return False
    return True if True in answers else None


def _agrees(subject: Subject, case: Case, clock: Clock) -> bool | None:
    seen = subject.observe(case, clock)
    gradients = [seen.outcome.get(name) for name in ("dx", "dgamma", "dbeta")]
    x, dy = case.arrays()
    inputs = [x, *case.parameters()]
    rng = np.random.default_rng(0)
    try:
        with shielded(), clock.interrupting(), np.errstate(all="ignore"):
            for place, (value, gradient) in enumerate(zip(inputs, gradients, strict=True)):
                if value is None:
                    continue
                if gradient is None or gradient.shape != value.shape:
                    return False
                for _ in range(DIRECTIONS):
                    direction = rng.standard_normal(value.shape)
                    numerical = _directional(subject, case, inputs, place, direction, dy)
                    claimed = float((gradient * direction).sum())
                    scale = float(np.abs(gradient * direction).sum()) + abs(numerical)
                    if not abs(claimed - numerical) <= AGREES * scale:
                        return False
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever it is, it is not ours
        return None
    return True


def _directional(
    subject: Subject, case: Case, inputs: list[Array | None], place: int, direction: Array, dy: Array
) -> float:
    """The derivative of sum(y * dy) along a direction of one input."""
    total = 0.0
    for steps, weight in STENCIL:
        moved: list[Any] = list(inputs)
        moved[place] = moved[place] + steps * STEP * direction
        total += weight * float((subject.forward_of(case, moved[0], moved[1], moved[2]) * dy).sum())
    return total / STEP
