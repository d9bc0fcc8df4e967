"""Which half is wrong: a layer's own forward, differenced numerically, against its own backward.

It is evidence, not the verdict: a layer may be consistent in itself and still not be this normalization. It needs
neither torch nor the formula.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.cases.probes import BASES
from reference.cases.scope import Scope
from reference.subjects.guard import Clock, attempt
from reference.subjects.subject import Subject

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
        case = scope.fit(BASES[subject.kind][rank])
        if scope.lacks(case):
            continue
        answers.append(_agrees(subject, case, clock))
        if subject.kind.tracks and False in scope.modes:
            answers.append(_agrees(subject, replace(case, training=False, calls=2), clock))
    if False in answers:
        return False
    return True if True in answers else None


def _agrees(subject: Subject, case: Case, clock: Clock) -> bool | None:
    seen = subject.observe(case, clock)
    gradients = [seen.outcome.get(name) for name in ("dx", "dgamma", "dbeta")]
    x, dy = case.arrays()
    inputs = [x, *case.parameters()]
    answer = attempt(lambda: _holds(subject, case, inputs, gradients, dy), clock)
    return answer.value  # None if it raised: whatever it was, it is not ours


@np.errstate(all="ignore")
def _holds(subject: Subject, case: Case, inputs: list[Array | None], gradients: list[Array | None], dy: Array) -> bool:
    rng = np.random.default_rng(0)
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
