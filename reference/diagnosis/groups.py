"""Explanations group by group: a mistake that is made in training mode alone, beside something unknown in eval mode.

Where one explanation for all trials is not found, the trials are divided: by mode, by call, by option. Then each part is
explained for itself, and a mistake is named for the largest part in which it gives every number. This module knows how
trials are divided; `search` explains, and `diagnose` puts it into words.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from reference.cases.case import Case
from reference.diagnosis.evidence import statistics_given
from reference.diagnosis.search import RUNNING, Search
from reference.diagnosis.suspects import EVAL, FIRST, LATER, TRAINING, Explanation, Limit, Suspect
from reference.truth.verdict import wrong_in

FEWEST = 2  # wrong trials of a part from which a mistake is named: in one, more than one formula may give the numbers
ALIKE = 0.25  # of the wrong arrays of the other part; a few, as those of tiny numbers, many formulas give


@dataclass(frozen=True)
class Group:
    """Some cases.

    Attributes:
        words: "in training mode"; "" for all cases.
        holds: whether a case belongs to it.
        limit: the passes that belong to it, where the passes of one case need not all do.
    """

    words: str
    holds: Callable[[Case], bool]
    limit: Limit | None = None


ALL = Group("", lambda case: True)
NARROW = Group("in float32", lambda case: case.dtype == "float32")

# Each divides all cases into two groups.
DIVISIONS: tuple[tuple[Group, Group], ...] = (
    (
        Group(TRAINING.words, lambda c: not statistics_given(c), TRAINING),
        Group(EVAL.words, statistics_given, EVAL),
    ),
    (
        Group(FIRST.words, lambda c: c.calls == 1, FIRST),
        Group(LATER.words, lambda c: c.calls > 1, LATER),
    ),
    (
        Group("with track_running_stats=True", lambda c: bool(c.options.get("track_running_stats", True))),
        Group("with track_running_stats=False", lambda c: not c.options.get("track_running_stats", True)),
    ),
    (
        Group("with a momentum that is a number", lambda c: c.options.get("momentum", 0.1) is not None),
        Group("with momentum=None", lambda c: c.options.get("momentum", 0.1) is None),
    ),
    (
        Group("with one normalized axis", lambda c: not c.kind.normalizes_features or len(c.parameter_shape) == 1),
        Group("with several normalized axes", lambda c: c.kind.normalizes_features and len(c.parameter_shape) > 1),
    ),
)


@dataclass(frozen=True)
class Part:
    """A group of cases and what explains the numbers in it: the shortest explanations, of equal length.

    `search` is among its trials alone. `before` are mistakes that another part has named, made in its passes alone.
    """

    group: Group
    search: Search
    explanations: list[Explanation]
    before: frozenset[Suspect] = frozenset()

    @property
    def first(self) -> Explanation:
        return self.explanations[0]


def explained(search: Search) -> list[Part]:
    """All trials in one part, or, where that leaves something unknown, divided so that most of it is explained."""
    best = [Part(ALL, search, search.explain())]
    most = _explained_numbers(search, best)
    if not best[0].first.unknown:
        return best
    for division in DIVISIONS:
        cells = [[t for t in search.trials if group.holds(t.case)] for group in division]
        if not all(cells) or not any(t.wrong for t in search.trials):
            continue
        parts = _believable(search, _parts(search, division))
        numbers = _explained_numbers(search, parts)
        if numbers > most:
            best, most = parts, numbers
    return best


def _parts(search: Search, division: tuple[Group, Group]) -> list[Part]:
    """The two groups of a division, each explained for itself; the second with what the first has found, if that fits."""
    one, other = division
    first = _explained(search, one, [Explanation()])
    if other.limit is None:
        return [first, _explained(search, other, [Explanation()])]
    # What the first group does wrong may be done in its passes alone, and yet be felt in the second: by the state.
    known = Explanation(first.first.suspects)
    start = [known, *(known.limited(one.limit) if one.limit else [])]
    second = _explained(search, other, start)
    before = frozenset(s for s in second.first.suspects if s.limit is not None and s.limit == one.limit)
    return [first, replace(second, before=before)]


def _explained(search: Search, group: Group, start: list[Explanation]) -> Part:
    within = search.within(group.holds, group.limit if group.limit in (EVAL, LATER) else None, pairs=False)
    if group.limit == FIRST:  # one update does not tell how the running statistics are averaged
        within.suspects = [s for s in within.suspects if set(s.fault.quantities).isdisjoint(RUNNING)]
    if sum(bool(trial.wrong) for trial in within.trials) < FEWEST:
        within.suspects = []  # but what is known already may explain it
    return Part(group, within, within.explain(start))


def _believable(search: Search, parts: list[Part]) -> list[Part]:
    """The parts, without what the smaller one names if it is no matter of the division.

    If the same mistake also gives many numbers of the larger part that are unknown there, the smaller part has only too
    few kinds of probes to rule it out.
    """
    small, large = sorted(parts, key=lambda part: len(part.search.trials))
    if not small.first.suspects or not large.first.unknown:
        return parts
    everywhere = {(s.id, s.variant): s for s in search.suspects}
    whole = tuple(everywhere.get((s.id, s.variant), s) for s in small.first.suspects)
    name = large.first.unknown[0]  # what is computed later may be unknown for its sake alone
    wrong = [t for t in large.search.trials if name in t.wrong]
    if sum(search.reproduces(whole, [t], name) for t in wrong) <= ALIKE * len(wrong):
        return parts
    nothing = Explanation(unknown=wrong_in(small.search.trials))
    return [replace(part, explanations=[nothing]) if part is small else part for part in parts]


def _explained_numbers(search: Search, parts: list[Part]) -> int:
    """How many wrong arrays the parts explain."""
    return sum(
        name not in part.first.unknown
        for part in parts
        for trial in search.trials
        if part.group.holds(trial.case)
        for name in trial.wrong
    )
