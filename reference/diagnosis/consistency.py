"""Which half is wrong: a layer's own forward, differenced numerically, against its own backward.

It is evidence, not the verdict: a layer may be consistent in itself and still not be this normalization. The derivative
is taken without torch and without the formula; what is said of it also needs the verdict on the very same cases.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.cases.probes import BASES
from reference.cases.scope import Scope
from reference.subjects.guard import Clock, attempt
from reference.subjects.judged import Judged
from reference.truth.verdict import Trial, wrong_in

STEP = 1e-3
# (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h, whose error is of the order of h**4
STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
AGREES = 1e-6  # h**4, with a margin for the fifth derivative
DIRECTIONS = 3


def backward_is_derivative(subject: Judged, scope: Scope, clock: Clock, trials: Sequence[Trial]) -> bool | None:
    """Whether its backward is the derivative of its forward, in random directions, in every mode and rank that is tried.

    None if that could not be told in one of them; or if the answer would mislead: it is no use to know that the backward
    goes with the forward in cases in which nothing is wrong, if something is wrong in others.
    """
    if "float64" not in scope.dtypes:
        return None
    cases = list(_cases(subject, scope))
    judged = {trial.case: trial for trial in trials}
    if not cases or any(not _forward_is_known(judged.get(case)) for case in cases):
        return None
    answers = [_agrees(subject, case, clock) for case in cases]
    if None in answers:
        return None
    if not all(answers):
        return False
    wrong = wrong_in(judged.values())
    return True if not wrong or "y" in wrong_in(judged[case] for case in cases) else None


def _cases(subject: Judged, scope: Scope) -> Iterator[Case]:
    for rank in [rank for rank in (4, 2, 3) if rank in scope.ndims][:2]:
        case = scope.fit(BASES[subject.kind][rank])
        for tried in (case, replace(case, training=False, calls=3)) if subject.kind.tracks else (case,):
            if not scope.lacks(tried):
                yield tried


def _forward_is_known(trial: Trial | None) -> bool:
    return trial is not None and "y" in trial.comparisons and not trial.comparisons["y"].problem


def _agrees(subject: Judged, case: Case, clock: Clock) -> bool | None:
    seen = subject.observe(case, clock)
    gradients = [seen.outcome.get(name) for name in ("dx", "dgamma", "dbeta")]
    x, dy = case.arrays()
    inputs = [x, *case.parameters()]
    answer = attempt(lambda: _holds(subject, case, inputs, gradients, dy), clock)
    return answer.value  # None if it raised: whatever it was, it is not ours


@np.errstate(all="ignore")
def _holds(
    subject: Judged, case: Case, inputs: list[Array | None], gradients: list[Array | None], dy: Array
) -> bool | None:
    rng = np.random.default_rng(0)
    for place, (value, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        if value is None:
            continue
        if gradient is None or gradient.shape != value.shape:
            return None  # there is nothing to hold against the derivative
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(value.shape)
            numerical = _directional(subject, case, inputs, place, direction, dy)
            claimed = float((gradient * direction).sum())
            scale = float(np.abs(gradient * direction).sum()) + abs(numerical)
            if not abs(claimed - numerical) <= AGREES * scale:
                return False
    return True


def _directional(
    subject: Judged, case: Case, inputs: list[Array | None], place: int, direction: Array, dy: Array
) -> float:
    """The derivative of sum(y * dy) along a direction of one input."""
    total = 0.0
    for steps, weight in STENCIL:
        moved: list[Any] = list(inputs)
        moved[place] = moved[place] + steps * STEP * direction
        total += weight * float((subject.forward_of(case, moved[0], moved[1], moved[2]) * dy).sum())
    return total / STEP
