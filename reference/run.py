"""The cases of one check going by: the designed ones, then random ones by Hypothesis, and the figures they leave.

Decides in which order cases are tried and when to stop; what is right is `truth`'s, and what it means `diagnosis`'s.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from reference.cases.case import Case
from reference.cases.scope import Scope
from reference.reporting.result import Figures
from reference.subjects.guard import Clock
from reference.subjects.judged import Judged
from reference.truth.convention import Convention
from reference.truth.exact import QUANTITIES
from reference.truth.tolerance import tolerance_of
from reference.truth.verdict import Trial, judge

SHRINKING = 120  # how many cases may be tried to make a failing one smaller
LARGE = 100_000  # numbers from which a case is one of the few that may be left out
TELLING = 4_000  # numbers from which the time of a case tells what a larger one takes
STEEP = 8  # times a longer row by which a number's time grows where it takes the square of the row
SHARE = 0.25  # of a subject's time that one case may take
AHEAD = 8  # designed cases that the subject is told of before they are judged
WITHOUT_LUCK = 60  # how many random ones to find one that fails, when a probe has failed

Progress = Callable[[int, int], None]


@dataclass
class Tally:
    """The figures of each quantity while the cases go by."""

    trials: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    worst: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # error / tolerance, error, tolerance
    torch: dict[str, float] = field(default_factory=dict)
    torch_is_off: dict[str, tuple[float, Case]] = field(default_factory=dict)

    def add(self, trial: Trial) -> None:
        self.trials += 1
        for name, comparison in trial.comparisons.items():
            self.counts[name] += 1
            self.failures[name] += not comparison.passed
            ratio = comparison.error / comparison.tolerance
            # of the cases that pass the one with the largest error, of those that fail the one farthest off
            rank = (ratio, comparison.error) if not comparison.passed else (0.0, comparison.error)
            if name not in self.worst or rank > self.worst[name][:2]:
                self.worst[name] = (*rank, comparison.tolerance)
            error = trial.expected.torch_errors.get(name, 0.0)
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
                worst_error=self.worst[name][1],
                tolerance=self.worst[name][2],
                torch_error=self.torch[name],
                cases=self.counts[name],
                failed=self.failures[name],
            )
            for name in QUANTITIES
            if self.counts[name]
        }


class _Enough(BaseException):
    """Ends Hypothesis's search; not an Exception, which it would take for a failure."""


class _Mismatch(AssertionError):
    pass


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
    drawn: int = 0  # how many random cases were tried
    _seconds: dict[Case, float] = field(default_factory=dict)
    unfinished: bool = False  # whether the time was over before the last case

    def judged(self, case: Case) -> Trial | None:
        """The verdict on a case; None once the time is over, or the subject lost, which `unfinished` then says.

        A call in which the time ends is one that does not return only if it had most of the time; else the layer is
        slow, and nothing is known of the case.
        """
        left = self.clock.left
        trial = None
        if left > 0 and not self.subject.lost:
            trial = judge(self.subject, case, self.convention, self.clock)
        if trial is None or (trial.seen.has("never-returns") and left < self.clock.seconds / 2):
            self.unfinished = True
            return None
        return trial

    def count(self, trial: Trial) -> None:
        if trial.seen.refused:
            self.refusals.append(trial)
        if trial.hazards:
            self.hazardous.append(trial)
        if trial.comparisons:
            self.tally.add(trial)
        if self.progress:
            self.progress(self.tally.trials, self.total)

    def designed(self, designed: list[Case]) -> list[Trial]:
        """The trials of the designed cases, as many as there is time for."""
        trials: list[Trial] = []
        for place, case in enumerate(designed):
            self.subject.prepare([c for c in designed[place : place + AHEAD] if prod(c.shape) * c.calls < LARGE])
            if prod(case.shape) * case.calls >= LARGE:
                if any(trial.failed for trial in trials):
                    continue  # the large ones are for a layer with which all else agrees
                if self._would_take_too_long(case):
                    self.skipped.append(case)
                    continue
            trial = self.judged(case)
            if trial is None:
                break
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
        """Random cases by Hypothesis, which makes a failing one smaller itself. Returns those that fail.

        Where a probe has failed already, this only looks for a smaller case: one that fails in the same quantities.
        """
        import hypothesis  # slow to import, and only needed here
        from hypothesis import HealthCheck, Phase

        from reference.cases.strategies import cases

        failing: list[Trial] = []
        wanted = _signature(known)
        shrunk = 0
        state = random.getstate()  # Hypothesis draws from the global generator, before it starts too

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=min(examples, WITHOUT_LUCK) if known else examples,
            database=None,
            deadline=None,
            derandomize=False,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            verbosity=hypothesis.Verbosity.quiet,
        )
        @hypothesis.given(cases(scope))
        def try_one(case: Case) -> None:
            nonlocal shrunk
            trial = self.judged(case) if shrunk <= SHRINKING else None
            if trial is None:
                raise _Enough
            if failing:
                shrunk += 1  # Hypothesis is making it smaller: such a case is not counted among the figures
            else:
                self.drawn += 1
                self.count(trial)
            if trial.failed and (not wanted or wanted & _signature([trial])):
                failing.append(trial)
                raise _Mismatch

        try:
            try_one()
        except (_Enough, _Mismatch, hypothesis.errors.Flaky):
            pass  # a layer that is not deterministic is flaky, and wrong
        finally:
            random.setstate(state)
        return failing


def _signature(trials: list[Trial]) -> set[str]:
    """What is wrong in some cases: quantities and findings."""
    return {name for trial in trials for name in (*trial.wrong, *(finding.id for finding in trial.findings))}
