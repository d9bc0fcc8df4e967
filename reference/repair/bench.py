"""What a layer with another code gives, held against what is right: the quick look, thousands of times.

The exact values of a probe come once, from its trial; this module only runs and compares. It protects nobody: it is used
in a process of its own, which its parent ends.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from types import FrameType
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.dtypes import roundoff, smallest_normal
from reference.subjects.frameworks import one_backward
from reference.subjects.guard import OutOfTime
from reference.subjects.subject import Subject
from reference.truth.compare import compare
from reference.truth.convention import Convention
from reference.truth.tolerance import tolerance_of
from reference.truth.verdict import Trial


@dataclass(frozen=True, eq=False)
class Wanted:
    """One array that must come: its exact value, how far off each entry may be, and what the comparison needs."""

    exact: Array
    bound: Array
    finite: bool
    scale: Array
    tolerance: float


@dataclass(frozen=True, eq=False)
class Probe:
    """A case with all that must come of it.

    Attributes:
        case: the case. wanted: by quantity. hazards: the ids that the layer has as it is.
        wrong: the quantities that are wrong in it as it is; findings: ids of what else is. seconds: that it took.
    """

    case: Case
    wanted: dict[str, Wanted]
    hazards: frozenset[str]
    wrong: frozenset[str]
    findings: frozenset[str]
    seconds: float

    @property
    def size(self) -> int:
        return prod(self.case.shape) * self.case.calls

    @property
    def faults(self) -> frozenset[str]:
        return self.wrong | self.findings


def probe_of(trial: Trial) -> Probe:
    """A trial as a probe."""
    truth, case, wanted = trial.expected.truth, trial.case, {}
    for name in trial.comparisons:
        exact, scale = truth.exact[name], truth.scale[name]
        tolerance = tolerance_of(name, truth.conditioning, case.dtype)
        with np.errstate(all="ignore"):
            value = exact.astype(np.float64)
            floored = np.maximum(scale.astype(np.float64), smallest_normal(case.dtype))
            bound = tolerance * roundoff(case.dtype) * floored + roundoff("float64") * np.abs(value)
        finite = bool(np.isfinite(value).all() and np.isfinite(bound).all())
        wanted[name] = Wanted(value if finite else exact, bound, finite, scale, tolerance)
    return Probe(
        case,
        wanted,
        frozenset(finding.id for finding in trial.hazards),
        frozenset(trial.wrong),
        frozenset(f"{finding.id} of {finding.quantity}" for finding in trial.findings),
        trial.seen.seconds,
    )


@dataclass(frozen=True, eq=False)
class Look:
    """What came of one run: the quantities that are wrong, and ids of what else is; `raised` if nothing came."""

    wrong: frozenset[str]
    findings: frozenset[str]
    outcome: dict[str, Array]
    raised: bool = False

    @property
    def faults(self) -> frozenset[str]:
        return self.wrong | self.findings


def look(subject: Subject, probe: Probe) -> Look:
    """Run the subject as it is now on a probe."""
    try:
        seen = subject.run(probe.case)
    except OutOfTime:
        raise
    except Exception:
        return Look(frozenset(probe.wanted), frozenset(), {}, True)
    wrong = frozenset(
        name for name, wanted in probe.wanted.items() if not _is_right(name, seen.outcome.get(name), wanted, probe.case)
    )
    mistakes = {f"{finding.id} of {finding.quantity}" for finding in seen.findings if not finding.hazard}
    hazards = {finding.id for finding in seen.findings if finding.hazard} - probe.hazards
    # what is wrong may be so before any hazard shows
    return Look(wrong, frozenset(mistakes if probe.wrong else mistakes | hazards), seen.outcome)


def _is_right(name: str, got: Array | None, wanted: Wanted, case: Case) -> bool:
    if got is None or got.shape != wanted.exact.shape:
        return False
    if not wanted.finite:
        return compare(name, got, wanted.exact, wanted.scale, case.dtype, wanted.tolerance).passed
    return bool((np.abs(got - wanted.exact) <= wanted.bound).all())


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block when it has used so many seconds, again and again until it is out of it.

    Seconds of the processor: on a busy machine a right candidate must not look like one that loops. What only waits is
    seen by the parent, which hears nothing.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.02)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _ring(signum: int, frame: FrameType | None) -> None:
    raise OutOfTime


def prepared() -> None:
    """Make this process ready to run what it is given: silent, without warnings, to be stopped by a timer."""
    import warnings

    Convention.beside_torch = False
    one_backward()
    np.seterr(all="ignore")
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _ring)


@dataclass(frozen=True, eq=False)
class Screen:
    """The probes in the order in which a candidate has to pass them.

    Attributes:
        first: the few that it is screened on, small and telling. rest: all others that are not large.
    """

    first: tuple[Probe, ...]
    rest: tuple[Probe, ...]

    @property
    def probes(self) -> tuple[Probe, ...]:
        return (*self.first, *self.rest)


SMALL = 6_000  # numbers of x that a probe of the screen has at most
FEW = 3


def screen_of(trials: Sequence[Trial]) -> Screen:
    """Which probes to try candidates on: small failing ones that show all that is wrong, then one that is right, then all."""
    usable = [t for t in trials if not t.seen.refused and not t.case.overwrite and not t.seen.has("never-returns")]
    small = [t for t in usable if prod(t.case.shape) * t.case.calls <= SMALL]
    if not any(t.failed for t in small):  # only large ones show it
        small += sorted((t for t in usable if t.failed), key=lambda t: prod(t.case.shape) * t.case.calls)[:1]
    probes = [probe_of(t) for t in small]
    failing = sorted((p for p in probes if p.faults), key=_plainness)
    first: list[Probe] = []
    shown: set[tuple[str, bool]] = set()
    for probe in failing:
        shows = {(fault, probe.case.training) for fault in probe.faults}
        if shows - shown and len(first) < 2 * FEW:
            first.append(probe)
            shown |= shows
    for probe in failing:  # of another shape: what fits one by chance does not fit the next
        if len(first) >= FEW:
            break
        if all(probe.case.shape != other.case.shape for other in first):
            first.append(probe)
    right = sorted((p for p in probes if not p.faults), key=_plainness)
    rest = [p for p in [*failing, *right] if p not in first]
    return Screen(tuple(first), tuple(rest))


def _plainness(probe: Probe) -> tuple[Any, ...]:
    case = probe.case
    plain = (
        case.data in ("unit", "shifted"),
        case.affine_values == "random",
        case.contiguous,
        case.dtype == "float64",
        case.dtype != "bfloat16",  # of which NumPy's own functions know least
    )
    telling = min(case.shape) > 1 and len(set(case.shape)) == len(case.shape)  # no axis can stand in for another
    pairs = case.kind.over_batch and case.shape[0] < 3  # normalized, two numbers are 1 and -1
    return (-len(probe.wrong), case.calls, not telling or pairs, plain.count(False), not case.training, probe.size)


def timed(work: Callable[[], Any]) -> float:
    """The seconds that something takes."""
    import time

    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
