"""From what hides each mutant, and which were noticed, to the fewest sentences that account for those that were not.

A noticed mutant that a blindness would have hidden proves that the tests do not have it. Runs nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VAGUE = 1.5  # sentences that a vague one counts as
Hidden = frozenset[tuple[str, ...]]


def refuted(
    survivors: Sequence[Hidden], noticed: Sequence[Hidden], vague: frozenset[tuple[str, ...]]
) -> frozenset[tuple[str, ...]]:
    """What the tests are not blind to: a mutant that it would hide was noticed.

    Args:
        survivors, noticed: what would hide each mutant. vague: what hides one in most cases only, which may then be noticed
            all the same: it is refuted where as many of those that it would hide are noticed as are not.
    """
    caught = Counter(ids for hidden in noticed for ids in hidden)
    missed = Counter(ids for hidden in survivors for ids in hidden)
    return frozenset(ids for ids, count in caught.items() if ids not in vague or count >= missed[ids])


@dataclass(frozen=True)
class Chosen:
    """What accounts for some survivors: `ids`; and what does for the same ones just as well, so that they need that too."""

    ids: tuple[str, ...]
    also: tuple[tuple[str, ...], ...]

    def accounts_for(self, hidden: Hidden) -> bool:
        """Whether it does for what is hidden by all these."""
        return self.ids in hidden or (len(self.ids) == 1 and _is_of_pairs(hidden, self.ids[0]))


def cover(
    survivors: Mapping[int, Hidden],
    order: Mapping[tuple[str, ...], int],
    restrictions: frozenset[tuple[str, ...]],
    vague: frozenset[tuple[str, ...]],
) -> list[Chosen]:
    """The fewest ids, greedily, such that each survivor that can be explained is; of equals the likelier first.

    A pair counts as two sentences: it is chosen where it accounts for twice as many as one alone. What only a pair hides shows
    without either: where one of the two is chosen alone, that accounts for it too.

    Args:
        vague: what hides a mutant in most cases only, which is less of a reason.
        survivors: what hides each. order: of likelihood, of single ids. restrictions: those ids that restrict the cases: a
            survivor that is hidden by two of them shows only where neither holds.
    """
    hides: dict[tuple[str, ...], set[int]] = {}
    for number, hidden in survivors.items():
        for ids in hidden:
            hides.setdefault(ids, set()).add(number)
    left = {number for number, hidden in survivors.items() if hidden}
    chosen: list[Chosen] = []
    while left:
        gains = {ids: len(hides[ids] & left) / (VAGUE if ids in vague else len(ids)) for ids in hides}
        best = max(hides, key=lambda ids: (gains[ids], -order.get(ids, len(order)), ids))
        same = [ids for ids in restrictions & hides.keys() if hides[ids] == hides[best] and ids != best]
        also = sorted(same, key=lambda ids: order[ids]) if best in restrictions else []
        chosen.append(Chosen(best, tuple(also)))
        left -= hides[best]
        if len(best) == 1:
            left -= {number for number in left if _is_of_pairs(survivors[number], best[0])}
    return chosen


def _is_of_pairs(hidden: Hidden, id: str) -> bool:
    """Whether nothing hides it alone, but this one together with others."""
    return all(len(ids) > 1 for ids in hidden) and any(id in ids for ids in hidden)
