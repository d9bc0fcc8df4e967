"""Whether a layer of another framework that takes float64 computes in float32 inside, and so was not made for float64.

Frameworks compute in float32, and their layers widen to it: x.float() is no mistake there, as x.astype(np.float32) is in a
NumPy layer that is handed float64. One that does is not held to float64, and what is wrong with it is told from float32,
where no rounding hides it.
"""

from dataclasses import replace

import numpy as np

from reference.cases.case import Case
from reference.cases.probes import BASES
from reference.cases.scope import Scope
from reference.subjects.guard import Clock, attempt
from reference.subjects.judged import Judged
from reference.truth.compare import compare
from reference.truth.convention import Convention
from reference.truth.tolerance import tolerance_of
from reference.truth.verdict import judge


def computes_in_float32(subject: Judged, scope: Scope, convention: Convention, clock: Clock) -> bool:
    """Whether y in float64 has float32's precision in plain cases of all ranks, right or wrong.

    Right: it is within float32's tolerance and beyond float64's. Wrong: it is the same, to the bit, for x rounded to float32.
    """
    seen = False
    for rank in scope.ndims:
        case = scope.fit(replace(BASES[scope.kind][rank], data="shifted"))
        if scope.lacks(case):
            continue
        trial = judge(subject, case, convention, clock)
        truth, y = trial.expected.truth, trial.seen.outcome.get("y")
        tolerance = tolerance_of("y", truth.conditioning, "float32")
        right = compare("y", y, truth.exact["y"], truth.scale["y"], "float32", tolerance).passed
        if "y" not in trial.wrong or not (right or _forgets_digits(subject, replace(case, calls=1), clock)):
            return False
        seen = True
    return seen


def _forgets_digits(subject: Judged, case: Case, clock: Clock) -> bool:
    """Whether y is the same for x and for x rounded to float32."""
    x, (gamma, beta) = case.arrays().x, case.parameters()
    rounded = x.astype(np.float32).astype(x.dtype)
    ys = [attempt(lambda x=x: subject.forward_of(case, x, gamma, beta), clock).value for x in (x, rounded)]  # type: ignore[misc]
    one, other = ys
    return one is not None and other is not None and np.array_equal(one, other)
