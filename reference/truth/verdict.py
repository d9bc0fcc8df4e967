"""One case, one verdict: what the subject gave, held quantity by quantity against the exact values, torch beside it.

Subject and torch are each within their tolerance of the exact values; so they are within the sum of the two of each
other, which is the direct comparison with torch. Where torch is not within it, the report says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from reference.cases.case import Array, Case
from reference.dtypes import NARROW
from reference.subjects.guard import Clock
from reference.subjects.judged import Judged
from reference.subjects.observation import Finding, Observation
from reference.truth.beside import outcome_of_torch
from reference.truth.compare import Comparison, compare
from reference.truth.convention import Convention, Expected
from reference.truth.exact import QUANTITIES, Truth
from reference.truth.tolerance import DERIVED, tolerance_of


@dataclass(frozen=True, eq=False)
class Trial:
    """A case and how the subject did; a trial is equal to itself alone."""

    case: Case
    seen: Observation
    expected: Expected
    comparisons: dict[str, Comparison]

    @cached_property
    def wrong(self) -> tuple[str, ...]:
        """The quantities that failed."""
        return tuple(name for name, comparison in self.comparisons.items() if not comparison.passed)

    @property
    def findings(self) -> list[Finding]:
        """What the layer does wrong besides its numbers."""
        return [finding for finding in self.seen.findings if not finding.hazard]

    @property
    def hazards(self) -> list[Finding]:
        """What is right here, and not where a caller does something unusual."""
        return [finding for finding in self.seen.findings if finding.hazard]

    @property
    def failed(self) -> bool:
        return bool(self.wrong or self.findings)


def wrong_in(trials: Iterable[Trial]) -> tuple[str, ...]:
    """The quantities that failed in any of the trials, in the order in which a layer computes them."""
    failed = {name for trial in trials for name in trial.wrong}
    return tuple(name for name in QUANTITIES if name in failed)


def judge(subject: Judged, case: Case, convention: Convention, clock: Clock | None = None, once: bool = False) -> Trial:
    """Run the subject on a case and hold it against the truth; one in a process of its own works meanwhile.

    Args:
        once: whether no other subject will be asked for the same case.
    """
    subject.prepare([case])
    expected = convention.expected(case, once)
    return held_against(convention, expected, case, subject.observe(case, clock))


def _beside_torch(comparison: Comparison, got: Array, truth: Truth, case: Case) -> Comparison:
    """In 16 bits torch's own layers round in between, some of them, and may add up in 16 bits: whose layer is one of them, and
    so gives the same to a rounding, is no further off than torch. Not so whose own backward adds up as badly."""
    name = comparison.quantity
    torch = outcome_of_torch(case)[name].astype(truth.exact[name].dtype)
    scale = truth.scale[name] - abs(truth.exact[name]) + abs(torch)  # as if torch's were the exact values
    same = compare(name, got, torch, scale, case.dtype, comparison.tolerance).passed
    return replace(comparison, tolerance=max(comparison.tolerance, comparison.error)) if same else comparison


def held_against(convention: Convention, expected: Expected, case: Case, seen: Observation) -> Trial:
    """What was seen of a case, compared with what must be."""
    truth = expected.truth
    if seen.derived and case.dtype in NARROW:
        truth = truth._replace(scale={**truth.scale, "dx": truth.scale["dx"] + DERIVED * truth.terms["dx"]})
        expected = replace(expected, truth=truth)
    comparisons = {}
    for name, value in truth.exact.items():
        tolerance = tolerance_of(name, truth.conditioning, case.dtype)
        if convention.changes and case.data != "nan" and np.isnan(value.astype(np.float64)).any():
            continue  # the accepted convention has no derivative there, as sqrt(var) has none at 0
        if name in seen.problems:
            comparisons[name] = Comparison(name, float("inf"), tolerance, problem=seen.problems[name])
        elif name in seen.outcome:
            comparison = compare(name, seen.outcome[name], value, truth.scale[name], case.dtype, tolerance)
            if not comparison.passed and seen.derived and name in expected.torch_errors:
                comparison = _beside_torch(comparison, seen.outcome[name], truth, case)
            comparisons[name] = comparison
        # else the layer has no such quantity, or refused to give it: not covered, never counted as agreement
    # a shape is what is wrong with a gradient only where its numbers are right
    wrong = {name for name, comparison in comparisons.items() if not comparison.passed}
    kept = [f for f in seen.findings if f.id != "parameter-gradients-misshapen" or f.quantity not in wrong]
    return Trial(case, replace(seen, findings=kept), expected, comparisons)
