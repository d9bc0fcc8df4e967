"""What a subject is held to: torch's formula, or that with the conventions that a user accepts.

Gives the exact values of a case, and torch's distance from them. Knows changes to the formula, not the names they have.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod
from typing import ClassVar

from reference.cases.case import Case
from reference.kinds import Kind
from reference.subjects.subject import Subject
from reference.truth import exact
from reference.truth.compare import compare
from reference.truth.exact import QUANTITIES, Changes, Truth
from reference.truth.tolerance import tolerance_of

KEPT = 50_000  # numbers of x up to which the truth of a case is kept


@dataclass(frozen=True)
class Expected:
    """What a case must give, and how far torch is from it."""

    truth: Truth
    torch_errors: dict[str, float]


class Convention:
    """What a subject is held to: torch's formula, or that with changes that the user accepted.

    Attributes:
        beside_torch: whether torch runs each case too. It decides nothing, and takes a second to import: a process that
            only looks for what is right does without.
    """

    beside_torch: ClassVar[bool] = True

    def __init__(self, changes: Changes | None = None) -> None:
        self.changes: Changes = changes or {}
        # Probes come again and again, so their truth is kept; the bound keeps the memory flat over random cases.
        self._kept = lru_cache(maxsize=1024)(self._expected)

    def expected(self, case: Case) -> Expected:
        """What a case must give; kept for the next subject, but for the few large ones."""
        is_small = prod(case.shape) * case.calls <= KEPT
        return (self._kept if is_small else self._expected)(case, self.beside_torch)

    def _expected(self, case: Case, beside_torch: bool) -> Expected:
        truth = exact.truth(case, self.changes)
        # torch follows its own conventions: its distance from another one says nothing
        torch = _torch_subject(case.kind).run(case).outcome if beside_torch and not self.changes else {}
        errors = {}
        for name in QUANTITIES:
            if name in truth.exact and name in torch:
                tolerance = tolerance_of(name, truth.conditioning, case.dtype)
                errors[name] = compare(
                    name, torch[name], truth.exact[name], truth.scale[name], case.dtype, tolerance
                ).error
        return Expected(truth, errors)


@cache
def _torch_subject(kind: Kind) -> Subject:
    from reference.truth import torch_layers  # slow to import

    return Subject(torch_layers.LAYERS[kind.name], kind, f"torch {kind.name}")


TORCH = Convention()
