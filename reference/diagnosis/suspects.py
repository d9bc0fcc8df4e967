"""Suspects, and what they explain: the plain data that the search for an explanation moves about.

A suspect is one way of making one mistake of the dictionary, an explanation the suspects that together give a layer's
numbers, and the quantities that none gives. Runs no formula and compares no numbers.
"""

from dataclasses import dataclass, field, replace
from itertools import combinations

from reference.diagnosis.conventions import fixed_eps, fixed_eps_of
from reference.diagnosis.faults import FAULTS, Fault, Variant
from reference.kinds import Kind
from reference.truth.exact import Change, Changes
from reference.truth.verdict import Trial


@dataclass(frozen=True)
class Suspect:
    """One way of making one mistake.

    Attributes:
        id: of the entry in the dictionary.
        variant: which of the entry's ways; two suspects are the same if these and `training_only` are.
        changes: to the formula. fault: the entry itself.
        training_only: whether the mistake is made in training mode alone, as in a layer with two separate formulas.
        constant: the layer's own constant that was seen in its numbers, of an entry that has one.
    """

    id: str
    variant: int
    changes: Variant = field(compare=False, repr=False)
    fault: Fault = field(compare=False, repr=False)
    training_only: bool = False
    constant: float | None = None

    @property
    def forward(self) -> bool:
        """Whether it changes the forward steps."""
        return self.fault.forward

    def in_training_only(self) -> "Suspect":
        """The same mistake, made in training mode alone."""

        def limited(change: Change) -> Change:
            return lambda p, value: value if p.tracks and not p.training else change(p, value)

        changes = {step: limited(change) for step, change in self.changes.items()}
        return replace(self, changes=changes, training_only=True)


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

    def in_training_only(self) -> list["Explanation"]:
        """The same with some of its mistakes made in training mode alone: for each choice of them one, few first."""
        suspects = self.suspects
        chosen = (some for size in range(1, len(suspects) + 1) for some in combinations(suspects, size))
        return [
            replace(self, suspects=tuple(s.in_training_only() if s in some else s for s in suspects)) for some in chosen
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
        eps = fixed_eps_of(trials, base) if fault.constant else None
        if eps is not None:
            found.append(Suspect(fault.id, 0, fixed_eps(eps), fault, constant=eps))
    return found
