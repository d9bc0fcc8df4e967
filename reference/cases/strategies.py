"""Random cases as Hypothesis has them: to be drawn in a test, and to be made smaller once one fails.

Knows how a case is made of numbers; must not know how a layer is run or judged.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from unittest import SkipTest

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.database import ExampleDatabase, choices_to_bytes

from reference.cases.case import Case
from reference.cases.random_cases import random_case
from reference.cases.scope import Scope


@st.composite
def cases(draw: st.DrawFn, scope: Scope) -> Case:
    """Whole random cases within `scope`; they shrink to few numbers, float64, unit data, one call."""
    return random_case(scope, lambda count: draw(st.integers(0, count - 1)))


def make_smaller(scope: Scope, numbers: Sequence[int], fails: Callable[[Case], bool]) -> None:
    """Hypothesis's search for smaller cases that fail, from the case that is made of `numbers`; it ends by itself.

    There is none under pytest's --hypothesis-seed, with which Hypothesis asks no database.

    Args:
        fails: whether a case fails; may raise, which ends the search and is passed on.
    """

    class Fails(AssertionError):
        pass

    def try_one(case: Case) -> None:
        if fails(case):
            raise Fails

    settings = hypothesis.settings(
        database=_One(numbers),
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.shrink],
        verbosity=hypothesis.Verbosity.quiet,
    )
    search = settings(hypothesis.seed(0)(hypothesis.given(cases(scope))(try_one)))  # a seed takes the database away
    with contextlib.suppress(Fails, hypothesis.errors.Flaky, SkipTest):  # who is not deterministic is flaky, and wrong
        search()


class _One(ExampleDatabase):
    """A database with one example, not among the failures, which were made smaller already, but where they came from."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self._example = choices_to_bytes(tuple(numbers))

    def fetch(self, key: bytes) -> Iterable[bytes]:
        return [self._example] if key.endswith(b".secondary") else []

    def save(self, key: bytes, value: bytes) -> None:
        """Nothing: what it finds is told to the caller as it is tried."""

    def delete(self, key: bytes, value: bytes) -> None:
        """Nothing: there is no second run."""
