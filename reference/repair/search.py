"""From a layer that is wrong to a fix that is proved, or to the sentence that says why there is none.

Directs the children that search and those that prove; decides which of several fixes is shown. Runs no strangers' code.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from reference.cases.case import Case, with_gamma
from reference.repair import proof
from reference.repair.bench import Screen, screen_of
from reference.repair.edits import Edit, decides
from reference.repair.explore import TICKETS, Work
from reference.repair.fix import fix_of
from reference.repair.processes import Tickets, can_fork, forked, is_child, messages
from reference.repair.rounds import Round, whole
from reference.repair.source import NoSource, Source
from reference.repair.units import Located, locate
from reference.reporting.result import Fix
from reference.subjects.discovery import Discovery
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from reference.truth.convention import TORCH, Convention
from reference.truth.exact import QUANTITIES
from reference.truth.verdict import Trial

SECOND = 0.6  # the share of the time left in which a second edit is looked for, before the rest of the first ones
DEPTH = 4  # edits that one fix may have
LEISURE = 2.5  # seconds after which no second fix is proved beside the first
PROOFS = 6  # candidates of one round whose proof is tried


@dataclass(frozen=True)
class Sought:
    """What came of looking for a fix: the fix, or else why there is none, in a sentence."""

    fix: Fix | None = None
    reason: str = ""
    edits: int = 0
    seconds: float = 0.0


def find_fix(
    subject: InProcess,
    trials: Sequence[Trial],
    before: Discovery,
    examine: proof.Examine,
    convention: Convention = TORCH,
    seed: int = 0,
    seconds: float = 10.0,
    named: Sequence[str] = (),
) -> Sought:
    """Look for a change of the layer's own source with which the whole verdict passes.

    Args:
        subject: a layer that is wrong. trials: how it did in the designed cases. before: what it takes.
        examine: the first half of a check, for the proof. convention: what it is held to.
        seed: of the check. seconds: of search, at most.
        named: the ids of the mistakes that the diagnosis found.
    """
    begun = time.monotonic()
    if not can_fork():
        return Sought(reason="fixes are looked for in a process of its own, which this platform cannot fork")
    if is_child():
        return Sought(reason="this is a search for a fix already")
    screen = screen_of(trials)
    if not screen.first:
        return Sought(reason="what is wrong shows in no case that is small enough to try edits on")
    try:
        located = locate(subject, [probe.case for probe in screen.first], Clock(min(seconds, 5.0)))
    except NoSource as error:
        return Sought(reason=str(error))
    sound = frozenset(trial.case for trial in trials if not trial.failed)
    words = frozenset(word for id in named for word in id.split("-"))
    hazards = frozenset(finding.id for trial in trials for finding in trial.hazards)
    search = Search(
        subject, located, screen, before, hazards, sound, examine, seed, convention, begun, begun + seconds, words
    )
    found = search.run()
    taken = time.monotonic() - begun
    if found is not None:
        return Sought(found, "", search.edits, taken)
    return Sought(None, search.reason(), search.edits, taken)


@dataclass
class Search:
    """One search, round after round: each over all edits of a text, the next one over those of a text that is better."""

    subject: InProcess
    located: Located
    screen: Screen
    before: Discovery
    hazards: frozenset[str]
    sound: frozenset[Case]
    examine: proof.Examine
    seed: int
    convention: Convention
    begun: float
    deadline: float
    words: frozenset[str] = frozenset()
    edits: int = 0
    late: bool = False
    unproved: int = 0

    def run(self) -> Fix | None:
        """The fix, or None."""
        return self._from(self.located.source, DEPTH, self.deadline)

    def _from(self, source: Source, depth: int, deadline: float) -> Fix | None:
        """Search all edits of a text; where one makes it better, those of the better text first, then the rest."""
        tried: set[tuple[int, int, str]] = set()
        round_ = Round(Work(self.subject, self.located, source, self.screen, Tickets(TICKETS), deadline, self.words))
        try:
            while not round_.over and time.monotonic() < deadline:
                round_.go_on()
                self.edits += round_.count()
                fix = self._proved(source, round_.right)
                if fix is not None:
                    return fix
                self.late |= time.monotonic() >= self.deadline
                better = [entry for entry in round_.helps if entry[1].places[0] not in tried]
                if better and depth > 1:
                    _, best = min(better, key=lambda entry: (entry[0], entry[1].cost))
                    tried.add(best.places[0])
                    now = time.monotonic()
                    part = deadline if round_.over else now + SECOND * (deadline - now)
                    fix = self._from(source.edited(best.applied(source.text)), depth - 1, part)
                    if fix is not None:
                        return fix
                elif round_.over:
                    return None
        finally:
            round_.close()
        return None

    def reason(self) -> str:
        """Why there is none; without counts, which differ from run to run."""
        if self.unproved:
            return "small edits mend the small cases, but none was proved on all"
        if self.late:
            return "none of the small edits that there was time for makes it right"
        return "none of its small edits makes it right"

    def _proved(self, source: Source, candidates: list[Edit]) -> Fix | None:
        """The plainest of the candidates that passes everything."""
        ranked = sorted(candidates, key=lambda edit: (edit.cost, edit.start))
        candidates.clear()
        for place, edit in enumerate(ranked[:PROOFS]):
            fixed = source.edited(edit.applied(source.text))
            cases = self._cases(source, edit)
            if cases:
                also = self._also(source, edit, ranked[place + 1 :])
                return fix_of(self.located.source, fixed.text, self._mended(), cases, also)
            self.unproved += 1
        return None

    def _also(self, source: Source, chosen: Edit, others: Sequence[Edit]) -> str:
        """Another fix on the same line, if it is about as plain and there is time to prove it too: the line with it."""
        for edit in others:
            near = edit.line == chosen.line and edit.kind != chosen.kind and edit.cost <= chosen.cost + 1
            if near and not edit.more and "\n" not in edit.text and source.text.count("\n", edit.start, edit.end) == 0:
                if time.monotonic() - self.begun > LEISURE or not self._cases(source, edit):
                    return ""
                text = edit.applied(source.text)
                line = re.match(r"[^\r\n]*", text[source.line_start(edit.start) :])
                return line.group().strip() if line else ""
        return ""

    def _cases(self, source: Source, edit: Edit) -> int:
        """How many cases a text with an edit was proved on; 0 if it does not pass."""
        branching = tuple(self._branching()) if decides(source, edit) else ()
        claim = proof.Claim(
            self.subject,
            self.located,
            source.edited(edit.applied(source.text)),
            self.before,
            self.hazards,
            self.sound,
            self.seed,
            self.examine,
            self.convention,
            branching,
        )
        tasks = (proof.designed, proof.at_random)
        children = [forked(task.__name__, partial(task, claim)) for task in tasks]
        passed: dict[str, int] = {}
        try:
            for child, message in messages(children, time.monotonic() + proof.PROOF_SECONDS):
                if message and message.get("passed") is True:
                    passed[child.name] = whole(message.get("cases"), 0)
                elif message and "passed" in message:
                    return 0
        finally:
            for child in children:
                child.end()
        return sum(passed.values()) if len(passed) == len(tasks) else 0

    def _branching(self) -> Iterator[Case]:
        """Cases that show which lines run: those of the screen, and with the options that the layer did not take so far."""
        for probe in self.screen.probes:
            yield probe.case
        for probe in self.screen.first:
            if probe.case.kind.affine_keyword in self.subject.keywords:
                yield with_gamma(probe.case, not probe.case.has_gamma)
            yield replace(probe.case, training=not probe.case.training)

    def _mended(self) -> list[str]:
        wrong = {name for probe in self.screen.probes for name in probe.wrong}
        return [name for name in QUANTITIES if name in wrong]
