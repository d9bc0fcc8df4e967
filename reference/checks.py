"""The check of one layer: designed probes, then random cases, then the diagnosis if anything is wrong.

This module decides what is run and gathers what came out; what is right is `verdict`'s, what went wrong `diagnose`'s,
how it looks `report`'s.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase

from reference import torch_layers
from reference.cases import LIKES, RANKS, Case, Scope, cases
from reference.consistency import backward_is_derivative
from reference.counterexample import describe_failure, pictures_of, smallest
from reference.coverage import Refused, designed_for, discover
from reference.diagnose import diagnose
from reference.exact import QUANTITIES
from reference.guard import Clock
from reference.result import Figures, Report
from reference.search import accepted_changes, fixed_eps_of
from reference.subject import Subject
from reference.verdict import TORCH, Convention, Trial, judge, tolerance_of

SHRINKING = 120  # how many cases may be tried to make a failing one smaller
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


def check(
    layer: Any,
    like: str | None = None,
    *,
    seed: int = 0,
    examples: int = 200,
    minimize: bool = True,
    accept: Iterable[str] = (),
    channels_last: bool = False,
    ndims: Sequence[int] | None = None,
    timeout: float = 60.0,
    name: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Hold a layer against torch.nn, and name what is wrong with it.

    Args:
        layer: a class or factory that takes torch's keywords and gives an object with forward(x) and backward(dy), and
            arrays gamma, beta, dgamma, dbeta (BatchNorm: training, running_mean, running_var).
        like: "GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm" or "InstanceNorm"; by default what its name says.
        seed: of the random cases; the same seed gives the same report.
        examples: how many random cases follow the designed ones.
        minimize: whether to look for the smallest failing case.
        accept: ids of conventions that are not counted as wrong; the layer is held to them instead.
        channels_last: whether it takes x as (N, *spatial, C).
        ndims: the ranks of x to try; by default all that it does not refuse.
        timeout: seconds for this layer. Where they end inside one call that does not return, that is a finding; where
            they end between cases, the rest is reported as not covered.
        name: what to call it in the report.
        progress: called with the cases done and the cases to do.

    Raises:
        Refused: it cannot be checked at all; the text says why and how to mend it.
        ValueError, TypeError: an argument is not what it should be.
    """
    name = name or str(getattr(layer, "__name__", type(layer).__name__))
    like = like or infer_like(name)
    accept = _validated(layer, like, examples, accept, ndims, timeout)
    accepted_changes(accept, like)  # refuses what is no convention, before anything runs
    subject, clock = Subject(layer, like, name, channels_last), Clock(timeout)
    with torch_layers.one_thread():
        scope, not_covered = discover(subject, ndims, clock)
        designed = designed_for(scope)
        total = len(designed) + examples
        run = _Run(subject, _convention(subject, designed, accept, clock), clock, total, progress)
        trials = run.designed(designed)
        if designed and not trials:
            raise Refused(f"{name} took all of {timeout:g} s before the first case: give it more with timeout=")
        failing = [trial for trial in trials if trial.failed]
        if examples and (minimize or not failing):
            failing += run.at_random(scope, failing, seed, examples)
        if clock.left <= 0:
            done = run.tally.trials
            not_covered["some cases"] = f"the time of {timeout:g} s was over after {done} of {total} cases"
        consistent = None if clock.left <= 0 else backward_is_derivative(subject, scope, clock)
        return Report(
            subject=name,
            like=like,
            passed=not failing,
            cases=run.tally.trials,
            seed=seed,
            not_covered=not_covered,
            quantities=run.tally.figures(),
            faults=diagnose(like, trials, failing, run.convention) if failing else [],
            backward_is_derivative_of_forward=consistent,
            counterexample=describe_failure(subject, smallest(failing), bool(accept)) if failing else None,
            notes=tuple(_notes(run.tally, failing)),
            accepted=accept,
            pictures=pictures_of(failing),
        )


def _notes(tally: Tally, failing: list[Trial]) -> Iterator[str]:
    """What else a reader should know."""
    for name, (error, case) in tally.torch_is_off.items():
        yield f"{name}: the layer is right where torch is not: torch is off by {error:.3g} u in {case}"
    raised = [trial for trial in failing if trial.seen.raised]
    if raised:
        what, where = raised[0].seen.problems["dx"], raised[0].case
        yield f"it raised in {len(raised)} of the cases that failed, first in {where}: {what}"


def _convention(subject: Subject, designed: list[Case], accept: tuple[str, ...], clock: Clock) -> Convention:
    """What the layer is held to: torch, or torch with the conventions that were accepted."""
    if not accept:
        return TORCH
    eps = None
    if "eps-argument-ignored" in accept:  # which one it uses has to be seen first
        small = [judge(subject, case, TORCH, clock) for case in designed if case.data == "small"]
        eps = fixed_eps_of(small, {})
    return Convention(accepted_changes(accept, subject.like, eps))


class _Enough(BaseException):
    """Ends Hypothesis's search; not an Exception, which it would take for a failure."""


class _Mismatch(AssertionError):
    pass


@dataclass
class _Run:
    """The cases of one check going by."""

    subject: Subject
    convention: Convention
    clock: Clock
    total: int
    progress: Progress | None
    tally: Tally = field(default_factory=Tally)

    def judged(self, case: Case) -> Trial | None:
        """The verdict on a case; None once the time is over.

        A call in which the time ends is one that does not return only if it had most of the time; else the layer is
        slow, and nothing is known of the case.
        """
        left = self.clock.left
        if left <= 0:
            return None
        trial = judge(self.subject, case, self.convention, self.clock)
        timed_out = any(finding.id == "timeout" for finding in trial.findings)
        return None if timed_out and left < self.clock.seconds / 2 else trial

    def count(self, trial: Trial) -> None:
        self.tally.add(trial)
        if self.progress:
            self.progress(self.tally.trials, self.total)

    def designed(self, designed: list[Case]) -> list[Trial]:
        """The trials of the designed cases, as many as there is time for."""
        trials = []
        for case in designed:
            trial = self.judged(case)
            if trial is None:
                break
            self.count(trial)
            trials.append(trial)
        return trials

    def at_random(self, scope: Scope, known: list[Trial], seed: int, examples: int) -> list[Trial]:
        """Random cases by Hypothesis, which makes a failing one smaller itself. Returns those that fail.

        Where a probe has failed already, this only looks for a smaller case: one that fails in the same quantities.
        """
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


def infer_like(name: str) -> str:
    """The layer that a class's name says it is: "MyGroupNorm2d", "group_norm" -> "GroupNorm"."""
    flat = name.replace("_", "").lower()
    hits = [like for like in LIKES if like.lower() in flat]
    if len(hits) != 1:
        raise Refused(
            f"Expected the name to tell which layer it is but got {name!r}: say which with like=, one of {LIKES}"
        )
    return hits[0]


def _validated(
    layer: Any, like: str, examples: int, accept: Iterable[str], ndims: Sequence[int] | None, timeout: float
) -> tuple[str, ...]:
    """Refuse what cannot be meant, before anything runs; the accepted ids as a tuple."""
    if not callable(layer):
        raise TypeError(f"Expected layer to be a class or a factory but got {layer!r} (type {type(layer).__name__})")
    if like not in LIKES:
        raise ValueError(f"Expected like to be one of {LIKES} but got {like!r}")
    if examples < 0:
        raise ValueError(f"Expected examples to be at least 0 but got {examples}")
    if timeout <= 0:
        raise ValueError(f"Expected timeout to be more than 0 seconds but got {timeout}")
    if isinstance(accept, str):
        raise TypeError(f"Expected accept to be a list of ids but got the string {accept!r}")
    unknown = sorted(set(ndims or ()) - set(RANKS[like]))
    if unknown:
        raise ValueError(f"Expected ndims to be some of {RANKS[like]} for {like} but got {unknown}")
    return tuple(accept)
