"""Whether a layer that gives 16 bits for 16 bits is made for them: computes wider inside, and rounds its output once.

A NumPy layer computes in whatever it is given, in float16 too, and is right there as far as float16 reaches; it squares
numbers that float16 does not hold, and nobody meant it to be used so. One that widens is meant for 16 bits, and is held
to them in full. Two things tell the second: it rounds once, where the first rounds at every step; or the source of its
forward or backward speaks of widths, though one of its steps may not be wide enough.
"""

from dataclasses import replace

from reference.cases.probes import BASES
from reference.cases.scope import Scope
from reference.subjects.guard import Clock
from reference.subjects.judged import Judged
from reference.truth.compare import compare
from reference.truth.convention import Convention
from reference.truth.verdict import judge

ONCE = 1.05  # units: a single rounding is at most 1, computing in float32 adds little; rounding each step 1.4 to 4
SEEDS = 5  # plain cases of each rank: of three all may happen to be within that, where another step is rounded too
ROUNDING = 16.0  # units that no number of roundings adds up to


def is_made_for(dtype: str, subject: Judged, scope: Scope, convention: Convention, clock: Clock) -> bool:
    """Whether its passes speak of widths, or y is rounded once in plain cases of all ranks, or wrong beyond all rounding.

    A y that is wrong in float64 too does not tell; where none tells it is not held to 16 bits.

    Args:
        dtype: of 16 bits.
    """
    if subject.mentions_widths():
        return True
    errors = []
    for rank in scope.ndims:
        for seed in range(SEEDS):
            case = scope.fit(replace(BASES[scope.kind][rank], dtype=dtype, seed=seed))
            if scope.lacks(case):
                continue
            trial = judge(subject, case, convention, clock)
            if "y" not in trial.comparisons:
                continue
            y, truth = trial.seen.outcome.get("y"), trial.expected.truth
            comparison = compare("y", y, truth.exact["y"], truth.terms["y"], dtype, ROUNDING)
            if comparison.passed:
                errors.append(comparison.error)
            elif "y" not in judge(subject, replace(case, dtype="float64"), convention, clock).wrong:
                return True
    return bool(errors) and max(errors) <= ONCE
