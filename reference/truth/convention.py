"""What a subject is held to: torch's formula, or that with the conventions that a user accepts.

Gives the exact values of a case, and torch's distance from them. Knows changes to the formula, not the names they have.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import ClassVar

from reference.cases.case import Case
from reference.dtypes import NARROW
from reference.truth import exact
from reference.truth.beside import torch_errors
from reference.truth.exact import Changes, Truth
from reference.truth.remembered import Errors

KEPT = 50_000  # numbers of x up to which the truth of a case is one of many that are kept
LARGE_ONES = 10  # of more numbers that are kept, some 15 MB each: the two of each kind of layer


@dataclass(frozen=True)
class Expected:
    """What a case must give, and how far torch is from it: of no quantity, where nobody asked torch."""

    truth: Truth
    torch_errors: Errors


class Convention:
    """What a subject is held to: torch's formula, or that with changes that the user accepted.

    Attributes:
        roundings: of the terms, that are accepted in between in 16 bits.
        beside_torch: whether torch runs each case too. It decides nothing, and takes a second to import: a process that
            only looks for what is right does without.
    """

    beside_torch: ClassVar[bool] = True

    def __init__(self, changes: Changes | None = None, roundings: float = 0.0) -> None:
        self.changes: Changes = changes or {}
        self.roundings = roundings
        # Probes come again and again, so their truth is kept; the bound keeps the memory flat.
        self._kept = lru_cache(maxsize=1024)(self._expected)
        self._kept_large = lru_cache(maxsize=LARGE_ONES)(self._expected)

    def expected(self, case: Case, once: bool = False) -> Expected:
        """What a case must give; kept for the next subject, but of a case that comes only once."""
        if once:
            return self._expected(case, self.beside_torch)
        is_small = prod(case.shape) * case.calls <= KEPT
        return (self._kept if is_small else self._kept_large)(case, self.beside_torch)

    def _expected(self, case: Case, beside_torch: bool) -> Expected:
        truth = exact.truth(case, self.changes)
        if self.roundings and case.dtype in NARROW:
            scale = {name: truth.scale[name] + self.roundings * terms for name, terms in truth.terms.items()}
            truth = truth._replace(scale=scale)
        # torch follows its own conventions: its distance from another one says nothing
        return Expected(truth, torch_errors(case, truth) if beside_torch and not self.changes else {})


TORCH = Convention()
