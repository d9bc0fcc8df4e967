"""The cases of one check going by: the designed ones, then random ones, and the figures they leave.

Decides in which order cases are tried and when to stop; what is right is `truth`'s, and what it means `diagnosis`'s.
"""

import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from typing import NamedTuple

from reference.cases.case import Case
from reference.cases.random_cases import Chosen, random_case
from reference.cases.scope import Scope
from reference.dtypes import NARROW
from reference.reporting.counterexample import MOST_OBSCURE, obscurity
from reference.reporting.result import Figures, Part
from reference.subjects.guard import Clock
from reference.subjects.judged import Judged
from reference.subjects.reading import Refused
from reference.truth.convention import Convention
from reference.truth.exact import QUANTITIES
from reference.truth.tolerance import tolerance_of
from reference.truth.verdict import Trial, judge

SAID = 3  # failing cases of one quantity, dtype and rank that are kept in words
SHRINKING = 120  # how many cases may be tried to make a failing one smaller
LARGE = 100_000  # numbers from which a case is one of the few that may be left out
TELLING = 4_000  # numbers from which the time of a case tells what a larger one takes
STEEP = 8  # times a longer row by which a number's time grows where it takes the square of the row
SHARE = 0.25  # of a subject's time that one case may take
AHEAD = 8  # cases that the subject is told of before they are judged
WITHOUT_LUCK = 60  # how many random ones to find one that fails, when a probe has failed

Progress = Callable[[int, int], None]


class _Worst(NamedTuple):
    """One case's error in one quantity."""

    failed: bool
    error: float
    tolerance: float
    torch_error: float | None
    wide: bool

    @property
    def rank(self) -> tuple[bool, bool, bool, float, float]:
        """By how much of its tolerance it takes, but for infinities, which tell less; of equals the least tolerance.

        Right 16 bits come last: the one rounding that each result has there is all of the tolerance, and tells nothing.
        """
        wide = self.wide or self.failed
        return self.failed, isfinite(self.error), wide, self.error / self.tolerance, -self.tolerance


@dataclass
class Tally:
    """The figures of each quantity while the cases go by."""

    trials: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    worst: dict[str, _Worst] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    torch: dict[str, float] = field(default_factory=dict)  # torch's largest errors
    torch_is_off: dict[str, tuple[float, Case]] = field(default_factory=dict)

    def add(self, trial: Trial) -> None:
        self.trials += 1
        wide = trial.case.dtype not in NARROW
        for name, comparison in trial.comparisons.items():
            self.counts[name] += 1
            self.failures[name] += not comparison.passed
            torch_error = trial.expected.torch_errors.get(name)
            here = _Worst(not comparison.passed, comparison.error, comparison.tolerance, torch_error, wide)
            if name not in self.worst or here.rank > self.worst[name].rank:
                self.worst[name] = here
            self.largest[name] = max(self.largest.get(name, 0.0), comparison.error)
            # in 16 bits its own layers round in between, on each machine in its way
            error = (torch_error or 0.0) if wide else 0.0
            self.torch[name] = max(self.torch.get(name, 0.0), error)
            limit = tolerance_of(name, trial.expected.truth.conditioning, trial.case.dtype)
            if name in self.torch_is_off:
                limit = max(limit, self.torch_is_off[name][0])
            if comparison.passed and error > limit:
                self.torch_is_off[name] = (error, trial.case)

    def figures(self) -> dict[str, Figures]:
        return {
            name: Figures(
                passed=not self.failures[name],
                worst_error=self.worst[name].error,
                tolerance=self.worst[name].tolerance,
                torch_error=self.worst[name].torch_error,
                cases=self.counts[name],
                failed=self.failures[name],
                largest_error=self.largest[name],
                largest_torch_error=self.torch[name],
            )
            for name in QUANTITIES
            if self.counts[name]
        }


class Unfinished(Refused):
    """The time was over before the last designed case, and all before it agree: no verdict; `parts` as in a report."""

    def __init__(self, text: str, parts: tuple[Part, ...] = ()) -> None:  # with a default it can be pickled
        super().__init__(text)
        self.parts = parts


class _Enough(BaseException):
    """Ends Hypothesis's search; not an Exception, which it would take for a failure."""


@dataclass
class Run:
    """The cases of one check going by."""

    subject: Judged
    convention: Convention
    clock: Clock
    total: int
    progress: Progress | None
    tally: Tally = field(default_factory=Tally)
    refusals: list[Trial] = field(default_factory=list)  # what the layer refused, whole or in part
    hazardous: list[Trial] = field(default_factory=list)  # in which a hazard was seen
    skipped: list[Case] = field(default_factory=list)  # large ones that this layer would take too long for
    untried: list[Case] = field(default_factory=list)  # all designed ones that were not run
    drawn: int = 0  # how many random cases were tried
    _seconds: dict[Case, float] = field(default_factory=dict)
    unfinished: bool = False  # whether the time was over before the last case

    def judged(self, case: Case, once: bool = False) -> Trial | None:
        """The verdict on a case; None once the time is over, or the subject lost, which `unfinished` then says.

        A call in which the time ends is one that does not return only if it had most of the time; else the layer is
        slow, and nothing is known of the case.
        """
        left = self.clock.left
        trial = None
        if left > 0 and not self.subject.lost:
            trial = judge(self.subject, case, self.convention, self.clock, once)
        if trial is None or (trial.seen.has("never-returns") and left < self.clock.seconds / 2):
            self.unfinished = True
            return None
        return trial

    def count(self, trial: Trial) -> None:
        if trial.seen.refused:
            self.refusals.append(trial)
        if trial.hazards and not (self.drawn and self._is_known(trial)):
            self.hazardous.append(trial)
        if trial.comparisons:
            self.tally.add(trial)
        if self.progress:
            self.progress(self.tally.trials, self.total)

    def _is_known(self, trial: Trial) -> bool:
        """Whether all its hazards were seen before: of a hundred thousand random trials not each one is kept."""
        seen = {(hazard.id, hazard.quantity) for other in self.hazardous for hazard in other.hazards}
        return seen >= {(hazard.id, hazard.quantity) for hazard in trial.hazards}

    def designed(self, designed: list[Case]) -> list[Trial]:
        """The trials of the designed cases, as many as there is time for."""
        trials: list[Trial] = []
        for place, case in enumerate(designed):
            if self.unfinished:
                self.untried.append(case)
                continue
            self.subject.prepare([c for c in designed[place : place + AHEAD] if prod(c.shape) * c.calls < LARGE])
            if prod(case.shape) * case.calls >= LARGE:
                if any(trial.failed for trial in trials):
                    self.untried.append(case)  # the large ones are for a layer with which all else agrees
                    continue
                if self._would_take_too_long(case):
                    self.skipped.append(case)
                    self.untried.append(case)
                    continue
            trial = self.judged(case)
            if trial is None:
                self.untried.append(case)
                continue
            self.count(trial)
            self._seconds[case] = trial.seen.seconds
            if trial.comparisons:
                trials.append(trial)
        return trials

    def _would_take_too_long(self, case: Case) -> bool:
        """Whether a large case would take a good part of the time, by what smaller ones took.

        Some layers take a time that grows with the square of a row, which a large case must not turn into a mistake.
        """
        rates = {
            done: seconds / (prod(done.shape) * done.calls)
            for done, seconds in self._seconds.items()
            if prod(done.shape) * done.calls >= TELLING
        }
        if not rates:
            return False
        longest = max(rates, key=lambda done: done.sharing)
        shorter = [rate for done, rate in rates.items() if STEEP * done.sharing <= longest.sharing]
        grows = not shorter or rates[longest] > STEEP * min(shorter)
        growth = max(1.0, case.sharing / longest.sharing) if grows else 1.0
        return rates[longest] * prod(case.shape) * case.calls * growth > SHARE * self.clock.seconds

    def only(self, trials: list[Trial]) -> list[Trial]:
        """Take back all trials but these."""
        self.tally = Tally()
        self.refusals = [trial for trial in self.refusals if trial in trials or not trial.comparisons]
        self.hazardous = [trial for trial in self.hazardous if trial in trials]
        for trial in trials:
            self.tally.add(trial)
        return trials

    def at_random(self, scope: Scope, known: list[Trial], seed: int, examples: int) -> list[Trial]:
        """Random cases until one fails, which Hypothesis then makes smaller. Returns those that fail, each smaller.

        Where a probe has failed already, this only looks for a smaller case: one that fails in the same quantities.
        """
        if any(trial.case.dtype not in NARROW for trial in known):
            # in 16 bits, with their eps, it would get no smaller
            scope = replace(scope, dtypes=tuple(dtype for dtype in scope.dtypes if dtype not in NARROW))
        smaller = _Smaller(known)
        for case, numbers in self._drawn(scope, seed, min(examples, WITHOUT_LUCK) if known else examples):
            trial = self.judged(case, once=True)
            if trial is None:
                break
            self.drawn += 1
            self.count(trial)
            if smaller.than_before(trial):
                self._shrink(scope, numbers, smaller)
                break
        return smaller.found

    def _drawn(self, scope: Scope, seed: int, count: int) -> Iterator[tuple[Case, list[int]]]:
        """Random cases with the numbers that each is made of; the subject is told of them ahead."""
        generator = random.Random(seed)
        ahead: deque[tuple[Case, list[int]]] = deque()
        for _ in range(count):
            chosen = Chosen(generator)
            ahead.append((random_case(scope, chosen), chosen.numbers))
            self.subject.prepare([ahead[-1][0]])
            if len(ahead) == AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _shrink(self, scope: Scope, numbers: list[int], smaller: "_Smaller") -> None:
        """Smaller cases than the one made of `numbers`, that fail as it does; not counted among the figures."""
        from reference.cases.strategies import make_smaller  # imports Hypothesis, which takes a while

        tried = 0

        def fails(case: Case) -> bool:
            nonlocal tried
            tried += 1
            trial = self.judged(case, once=True) if tried <= SHRINKING else None
            if trial is None:
                raise _Enough
            return smaller.than_before(trial)

        with contextlib.suppress(_Enough):
            make_smaller(scope, numbers, fails)


class _Smaller:
    """The failing trials found so far, each no more obscure than the one before it.

    Args:
        known: what failed before: only what is wrong in the same quantities is looked for, if it is not empty.
    """

    def __init__(self, known: list[Trial]) -> None:
        self.found: list[Trial] = []
        self._wanted = _signature(known)
        self._obscure = min(map(obscurity, known), default=MOST_OBSCURE)

    def than_before(self, trial: Trial) -> bool:
        """Whether a trial fails in what is looked for, and shows it no worse: a smaller case that shows less is no better."""
        alike = trial.failed and (not self._wanted or self._wanted & _signature([trial]))
        if not alike or obscurity(trial) > self._obscure:
            return False
        self._obscure = obscurity(trial)
        self.found.append(trial)
        return True


def _signature(trials: list[Trial]) -> set[str]:
    """What is wrong in some cases: quantities and findings."""
    return {name for trial in trials for name in (*trial.wrong, *(finding.id for finding in trial.findings))}


def parts_of(trials: Sequence[Trial], untried: Sequence[Case]) -> tuple[Part, ...]:
    """The designed cases, apart by quantity, dtype and rank."""
    apart: dict[tuple[str, str, int], list[Trial]] = {}
    for trial in trials:
        for name in trial.comparisons:
            apart.setdefault((name, trial.case.dtype, len(trial.case.shape)), []).append(trial)
    left = Counter((case.dtype, len(case.shape)) for case in untried)
    found = []
    for (name, dtype, rank), alike in apart.items():
        wrong = [f"{trial.comparisons[name]}, in {trial.case}" for trial in alike if name in trial.wrong]
        found.append(Part(name, dtype, rank, len(alike), len(wrong), tuple(wrong[:SAID]), left[dtype, rank]))
    return tuple(found)


def behaviour_in(trials: Sequence[Trial], strict: bool) -> tuple[str, ...]:
    """What a layer did besides its numbers, each kind once, with the first case in which it was seen."""
    seen: dict[tuple[str, str], str] = {}
    for trial in trials:
        for finding in (*trial.findings, *(trial.hazards if strict else ())):
            text = f"{finding.id}: {finding.quantity}: {finding.detail}, in {trial.case}"
            seen.setdefault((finding.id, finding.quantity), text)
    return tuple(seen.values())
