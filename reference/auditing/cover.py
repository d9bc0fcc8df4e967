"""From what hides each mutant, and which were noticed, to the fewest sentences that account for those that were not.

A noticed mutant that a blindness would have hidden proves that the tests do not have it. Runs nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

Hidden = frozenset[tuple[str, ...]]


def refuted(
    survivors: Sequence[Hidden], noticed: Sequence[Hidden], vague: frozenset[tuple[str, ...]]
) -> frozenset[tuple[str, ...]]:
    """What the tests are not blind to: a mutant that it would hide was noticed.

    Args:
        survivors, noticed: what would hide each mutant. vague: what hides one in most cases only, which may then be noticed
            all the same: it is refuted where more of those that it would hide are noticed than are not.
    """
    caught = Counter(ids for hidden in noticed for ids in hidden)
    missed = Counter(ids for hidden in survivors for ids in hidden)
    return frozenset(ids for ids, count in caught.items() if ids not in vague or count > missed[ids])


def cover(survivors: Mapping[int, Hidden], order: Mapping[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    """The fewest ids, greedily, such that each survivor that can be explained is; of equals the likelier first."""
    left = {number for number, ids in survivors.items() if ids}
    chosen: list[tuple[str, ...]] = []
    while left:
        candidates = {ids for number in left for ids in survivors[number]}
        best = max(
            candidates,
            key=lambda ids: (sum(ids in survivors[number] for number in left), -order.get(ids, 1 << 20), ids),
        )
        chosen.append(best)
        left = {number for number in left if best not in survivors[number]}
    return chosen
