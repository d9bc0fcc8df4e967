"""One case, one verdict: what the subject gave, held quantity by quantity against the exact values, torch beside it.

The tolerance of a quantity is `TOLERANCE` times a power of the case's conditioning, 1 + |mean| / sqrt(var + eps): a
layer that subtracts a rounded mean loses that factor once, in y and dgamma, and may lose it twice in dx (as torch's own
closed form for GroupNorm and LayerNorm does). It never grows with the size of the array. Where the conditioning makes a
tolerance so large that it says nothing, it is another probe's turn.

Subject and torch are each within their tolerance of the exact values; so they are within the sum of the two of each
other, which is the direct comparison with torch. Where torch is not within it, the report says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reference import exact, torch_layers
from reference.cases import Case
from reference.compare import Comparison, compare
from reference.exact import QUANTITIES, Changes, Truth
from reference.guard import Clock
from reference.subject import Finding, Observation, Subject

# float16 is less: NumPy adds it up in float32, so that a right layer stays within 3 units of it, while one that adds in
# float16 itself does not stay within 40.
TOLERANCE = {"float64": 64.0, "float32": 64.0, "float16": 16.0}
POWER = {"y": 1, "dx": 2, "dgamma": 1, "dbeta": 0, "running_mean": 1, "running_var": 1}


@dataclass(frozen=True)
class Expected:
    """What a case must give, and how far torch is from it."""

    truth: Truth
    torch_errors: dict[str, float]


@dataclass(frozen=True)
class Trial:
    """A case and how the subject did."""

    case: Case
    seen: Observation
    expected: Expected
    comparisons: dict[str, Comparison]

    @property
    def wrong(self) -> tuple[str, ...]:
        """The quantities that failed."""
        return tuple(name for name, comparison in self.comparisons.items() if not comparison.passed)

    @property
    def findings(self) -> list[Finding]:
        return self.seen.findings

    @property
    def failed(self) -> bool:
        return bool(self.wrong or self.findings)


def wrong_in(trials: Iterable[Trial]) -> tuple[str, ...]:
    """The quantities that failed in any of the trials, in the order in which a layer computes them."""
    failed = {name for trial in trials for name in trial.wrong}
    return tuple(name for name in QUANTITIES if name in failed)


def tolerance_of(quantity: str, conditioning: float, dtype: str = "float64") -> float:
    """The largest error, in units, that a right layer may have."""
    return float(TOLERANCE[dtype] * conditioning ** POWER[quantity])


def judge(subject: Subject, case: Case, convention: "Convention", clock: Clock | None = None) -> Trial:
    """Run the subject on a case and hold it against the truth."""
    return held_against(convention, case, subject.observe(case, clock))


def held_against(convention: "Convention", case: Case, seen: Observation) -> Trial:
    """What was seen of a case, compared with what must be."""
    expected = convention.expected(case)
    truth = expected.truth
    comparisons = {}
    for name, value in truth.exact.items():
        tolerance = tolerance_of(name, truth.conditioning, case.dtype)
        if convention.changes and case.data != "nan" and np.isnan(value.astype(np.float64)).any():
            continue  # the accepted convention has no derivative there, as sqrt(var) has none at 0
        if name in seen.problems:
            comparisons[name] = Comparison(name, float("inf"), tolerance, problem=seen.problems[name])
        elif name in seen.outcome:
            comparisons[name] = compare(name, seen.outcome[name], value, truth.scale[name], case.dtype, tolerance)
        # else the layer has no such quantity: not covered, never counted as agreement
    return Trial(case, seen, expected, comparisons)


class Convention:
    """What a subject is held to: torch's formula, or that with changes that the user accepted."""

    def __init__(self, changes: Changes | None = None) -> None:
        self.changes: Changes = changes or {}
        # Probes come again and again, so their truth is kept; the bound keeps the memory flat over random cases.
        self.expected = lru_cache(maxsize=1024)(self._expected)

    def _expected(self, case: Case) -> Expected:
        truth = exact.truth(case, self.changes)
        torch = _torch_subject(case.like).run(case).outcome
        errors = {}
        for name in QUANTITIES:
            if name in truth.exact and name in torch and not self.changes:
                tolerance = tolerance_of(name, truth.conditioning, case.dtype)
                errors[name] = compare(
                    name, torch[name], truth.exact[name], truth.scale[name], case.dtype, tolerance
                ).error
        return Expected(truth, errors)


@lru_cache
def _torch_subject(like: str) -> Subject:
    return Subject(torch_layers.LAYERS[like], like, f"torch {like}")


TORCH = Convention()
