"""Which mutants each blindness hides: the verdict tells, case by case.

Runs edited code, in a child; knows nothing of any test.
"""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from reference.auditing.blindness import Agree, Together
from reference.auditing.changes import Mutant
from reference.auditing.ground import Ground, Stage, is_sound
from reference.cases.case import Case
from reference.repair.bench import Look, Probe, probe_of
from reference.repair.processes import Send, forked, messages
from reference.truth.verdict import judge

CRASHES = 8  # children that may be lost to mutants


# --- which mutants are hidden by what, in the parent ----------------------------------------------------------------------


def hidden_by(
    ground: Ground, mutants: Sequence[Mutant], blindnesses: Sequence[Together], seconds: float
) -> list[frozenset[tuple[str, ...]]]:
    """For each mutant the ids of what hides it, of some blindnesses, each alone or together with others.

    What takes too long, or ends the process, is hidden by nothing that could be told.
    """
    found: list[frozenset[tuple[str, ...]]] = [frozenset()] * len(mutants)
    if not mutants or not blindnesses:
        return found
    first, end = 0, time.monotonic() + seconds
    for _ in range(CRASHES):
        child = forked("reasons", partial(_explain, ground, mutants[first:], blindnesses))
        offset = first
        try:
            for _, message in messages([child], end):
                if message and "mutant" in message:
                    first = offset + int(message["mutant"]) + 1
                    found[first - 1] = frozenset(tuple(ids) for ids in message["hidden"])
        finally:
            child.end()
        if child.finished or time.monotonic() >= end:
            break
        first += 1  # the mutant that ended the process
    return found


# --- and in the child -----------------------------------------------------------------------------------------------------


def _explain(ground: Ground, mutants: Sequence[Mutant], blindnesses: Sequence[Together], send: Send) -> None:
    world = World(ground)
    for number, mutant in enumerate(mutants):
        judged = Judged(world, mutant)
        hidden = [[row.id for row in together] for together in blindnesses if judged.hidden_by(together)]
        send({"mutant": number, "hidden": hidden})


class World:
    """The ordinary cases, and what else a restriction makes of them, each with what must come of it."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.stage = ground, Stage(ground)
        self.known: dict[Case, Probe | None] = {probe.case: probe for probe in ground.probes}
        self._cases: dict[tuple[str, ...], list[Case]] = {}

    def cases(self, together: Together) -> list[Case]:
        """The ordinary cases under all restrictions, each once."""
        restricts = [row for row in together if row.restrict is not None]
        key = tuple(row.id for row in restricts)
        if key not in self._cases:
            found: dict[Case, None] = {}
            for probe in self.ground.probes:
                case: Case | None = probe.case
                for row in restricts:
                    case = row.restrict(case) if case is not None and row.restrict is not None else None
                if case is not None:
                    found[case] = None
            self._cases[key] = list(found)
        return self._cases[key]

    def probe(self, case: Case) -> Probe | None:
        """A case with what must come of it; None where the layer as it is does not give it."""
        if case not in self.known:
            trial = None if self.ground.scope.lacks(case) else judge(self.ground.subject, case, self.ground.convention)
            self.known[case] = probe_of(trial) if trial is not None and is_sound(trial) else None
        return self.known[case]


class Judged:
    """One mutant in all cases that are asked for."""

    def __init__(self, world: World, mutant: Mutant) -> None:
        self.world, self.mutant = world, mutant
        self.looks: dict[Case, Look] = {}

    def hidden_by(self, together: Together) -> bool:
        """Whether the mutant agrees with what is right, compared so, in all cases restricted so; and there are some."""
        agrees = [row.agree for row in together if row.agree is not None]
        share = min(row.share for row in together)
        tried = wrong = failed = 0
        for case in self.world.cases(together):
            probe = self.world.probe(case)
            if probe is None:
                continue
            tried += 1
            look = self._look(probe)
            if look.raised or look.wrong:
                wrong += 1
                failed += look.raised or not self._passes(probe, look, agrees)
                if failed and share == 1.0:
                    return False
        hidden = tried > 0 and failed <= (1 - share) * wrong and (wrong > 0 or not agrees)
        return hidden and (not any(row.shows for row in together) or self._shows(together, agrees))

    def _shows(self, together: Together, agrees: Sequence[Agree]) -> bool:
        """Whether it does not agree, compared so, in an ordinary case that is not restricted so."""
        restricted = set(self.world.cases(together))
        others = (probe for probe in self.world.ground.probes if probe.case not in restricted)
        looks = ((probe, self._look(probe)) for probe in others)
        return any(look.raised or (look.wrong and not self._passes(probe, look, agrees)) for probe, look in looks)

    def _passes(self, probe: Probe, look: Look, agrees: Sequence[Agree]) -> bool:
        """Whether each wrong array passes one of the comparisons; one of another shape passes where it is not compared."""
        for name in look.wrong:
            got = look.outcome.get(name)
            if got is None or got.shape != probe.wanted[name].exact.shape:
                got = np.full(probe.wanted[name].exact.shape, np.nan)
            with np.errstate(all="ignore"):
                if not any(agree(name, got, probe) for agree in agrees):
                    return False
        return True

    def _look(self, probe: Probe) -> Look:
        if probe.case not in self.looks:
            with self.world.stage.playing(self.mutant.change):
                self.looks[probe.case] = self.world.stage.looked(probe)
        return self.looks[probe.case]


__all__ = ["hidden_by"]
