"""Whether a layer of another framework that takes float64 computes in float32 inside, and so was not made for float64.

Frameworks compute in float32, and their layers widen to it: x.float() is no mistake there, as x.astype(np.float32) is in a
NumPy layer that is handed float64. One that does is not held to float64, and what is wrong with it is told from float32,
where no rounding hides it.
"""

import numpy as np

from reference.cases.case import Case
from reference.cases.probes import BASES
from reference.cases.scope import Scope
from reference.subjects.guard import Clock, attempt
from reference.subjects.judged import Judged

STEP = 1e-6  # along a line on which y is looked at: many roundings of float32, and too short for y to bend
SMOOTH, WILD = 1e-10, 1e-4  # by how much three points of y may miss a line, and of the largest y


def computes_in_float32(subject: Judged, scope: Scope, clock: Clock) -> bool:
    """Whether y of float64 is as rough as float32 in a plain case of each rank, right or wrong.

    Three steps along a line give three outputs on a line, but for 1e-12 that it bends, and for what the computation rounds:
    1e-16 or 1e-7.
    """
    found = [_roughness(subject, case, clock) for rank in scope.ndims if (case := _plain(scope, rank)) is not None]
    return bool(found) and all(SMOOTH < roughness < WILD for roughness in found)


def _plain(scope: Scope, rank: int) -> Case | None:
    case = scope.fit(BASES[scope.kind][rank])
    return None if scope.lacks(case) or case.dtype != "float64" else case


def _roughness(subject: Judged, case: Case, clock: Clock) -> float:
    """By how much three outputs miss a line, of the largest; 0 where there are none."""
    (x, direction), (gamma, beta) = case.arrays(), case.parameters()
    steps = (x, x + STEP * direction, x + 2 * STEP * direction)
    ys = [attempt(lambda x=x: subject.forward_of(case, x, gamma, beta), clock).value for x in steps]  # type: ignore[misc]
    if any(y is None or y.shape != x.shape for y in ys):
        return 0.0
    first, middle, last = (y.astype(np.float64) for y in ys if y is not None)
    with np.errstate(all="ignore"):
        miss = np.max(np.abs(first - 2 * middle + last), initial=0.0) / np.max(np.abs(first), initial=1e-300)
    return float(miss) if np.isfinite(miss) else 0.0
