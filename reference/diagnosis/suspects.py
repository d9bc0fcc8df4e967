"""Suspects, and what they explain: the plain data that the search for an explanation moves about.

A suspect is one way of making one mistake of the dictionary, an explanation the suspects that together give a layer's
numbers, and the quantities that none gives. Runs no formula and compares no numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import NamedTuple

from reference.diagnosis.conventions import own_constant
from reference.diagnosis.faults import FAULTS, Constant, Fault, Variant
from reference.kinds import Kind
from reference.truth.exact import Change, Changes, Pass
from reference.truth.verdict import Trial


class Limit(NamedTuple):
    """The passes in which a layer makes a mistake, if not in all: in words, and as a condition."""

    words: str
    holds: Callable[[Pass], bool]


# In training mode a BatchNorm is also one without running statistics, unless it goes by its flag alone.
TRAINING = Limit("in training mode", lambda p: p.training or not p.tracks)
TRAINING_BY_FLAG = Limit("in training mode", lambda p: p.training)
EVAL = Limit("in eval mode", lambda p: p.tracks and not p.training)
FIRST = Limit("in the first call", lambda p: p.previous is None)
LATER = Limit("from the second call on", lambda p: p.previous is not None)


@dataclass(frozen=True)
class Suspect:
    """One way of making one mistake.

    Attributes:
        id: of the entry in the dictionary.
        variant: which of the entry's ways; two suspects are the same if these, `limit` and `constant` are.
        changes: to the formula. fault: the entry itself.
        limit: in which passes alone the mistake is made, as in a layer with two separate formulas; None if in all.
        constant: the layer's own constant that was seen in its numbers, of an entry that has one.
    """

    id: str
    variant: int
    changes: Variant = field(compare=False, repr=False)
    fault: Fault = field(compare=False, repr=False)
    limit: Limit | None = None
    constant: float | None = None

    @property
    def forward(self) -> bool:
        """Whether it changes the forward steps."""
        return self.fault.forward

    def limited(self, limit: Limit | None) -> "Suspect":
        """The same mistake, made in some passes alone; one that is limited already stays as it is."""
        if limit is None or self.limit is not None:
            return self

        def only(change: Change) -> Change:
            return lambda p, value: change(p, value) if limit.holds(p) else value

        return replace(self, changes={step: only(change) for step, change in self.changes.items()}, limit=limit)


@dataclass(frozen=True)
class Explanation:
    """The mistakes found so far, and the quantities that none explains."""

    suspects: tuple[Suspect, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(suspect.id for suspect in self.suspects)

    def with_unknown(self, name: str) -> "Explanation":
        """The same, with one more quantity that it does not explain."""
        return replace(self, unknown=(*self.unknown, name))

    def with_suspects(self, more: tuple[Suspect, ...]) -> "Explanation":
        """The same, with more mistakes."""
        return replace(self, suspects=self.suspects + more)

    def without(self, suspect: Suspect) -> "Explanation":
        """The same, with one mistake less."""
        return replace(self, suspects=tuple(s for s in self.suspects if s is not suspect))

    def limited(self, limit: Limit) -> list["Explanation"]:
        """The same with some of its mistakes made in these passes alone: for each choice of them one, few first."""
        suspects = self.suspects
        chosen = (some for size in range(1, len(suspects) + 1) for some in combinations(suspects, size))
        return [
            replace(self, suspects=tuple(s.limited(limit) if s in some else s for s in suspects)) for some in chosen
        ]


def suspects_of(kind: Kind, trials: list[Trial], base: Changes) -> list[Suspect]:
    """Every way of making every mistake of the dictionary in a layer of this kind.

    An entry with a constant of the layer's own has no ways of its own to be listed: the constant is measured in the
    trials first, and where there is one, it makes the way.
    """
    found = []
    for fault in FAULTS.values():
        if kind.name not in fault.layers:
            continue
        found += [Suspect(fault.id, number, variant, fault) for number, variant in enumerate(fault.variants)]
        own = own_constant(fault, trials, base) if fault.constant else None
        if own:
            found.append(with_constant(fault, own))
    return found


def with_constant(fault: Fault, own: dict[str, Constant]) -> Suspect:
    """An entry with the constant that was measured."""
    return Suspect(fault.id, 0, own, fault, constant=own[fault.constant].value)
