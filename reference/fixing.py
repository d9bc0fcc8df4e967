"""Where a fix is looked for, and lines are annotated: beside the layer, in the process that has it, or in one more of its own.

A search runs the layer's code thousands of times, changed in as many ways. Where the layer is in this process, that is done
in forks of it; else in a process that loads the layer once more, judges it without torch, and forks in its turn. What
comes back from there is text, as from any process of a subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from reference.cases.case import Case
from reference.probing import Probed, probe
from reference.repair import annotation
from reference.repair.search import Sought, find_fix
from reference.reporting.result import Fix, Note
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from reference.subjects.judged import Judged
from reference.subjects.process import child
from reference.subjects.process.channel import Child, Ended, Silent
from reference.subjects.process.isolated import Isolated
from reference.subjects.reading import Refused
from reference.truth.convention import Convention
from reference.truth.verdict import Trial, judge

FIX_SECONDS = 10.0  # of search, by default
PROVING = 60.0  # seconds that loading, probing and proving may take beside the search
TEXTS = tuple[str, tuple[Any, ...] | None, str, tuple[tuple[Any, ...], ...]]  # an `Advice` as its fields' fields


@dataclass(frozen=True)
class Advice:
    """What can be said of a wrong layer's source.

    Attributes:
        fix: a change that makes it right, proved. reason: why there is none. file: that `notes` are of.
        notes: what its lines hold in a failing case, where there is no fix, or where they were asked for.
    """

    fix: Fix | None = None
    reason: str = ""
    file: str = ""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Look:
    """How a subject is looked at: arguments of `check`."""

    ndims: Sequence[int] | None
    accept: tuple[str, ...]
    dtypes: Sequence[str] | None
    timeout: float

    def at(self, subject: Judged) -> Probed:
        return probe(subject, self.ndims, self.accept, self.timeout, 0, None, self.dtypes)


def advise(
    subject: Judged,
    probed: Probed,
    failing: Sequence[Trial],
    look: Look,
    seed: int,
    seconds: float,
    annotate: bool,
) -> Advice:
    """What can be said of the source of a subject that fails in some trials.

    Args:
        probed: the subject after its designed probes. failing: all trials that fail, random ones too. look: how it was
            looked at. seed: of the check. seconds: of search, at most; 0 for none.
        annotate: whether to say what its lines hold, although a fix is found, or none is sought.
    """
    drawn = [trial for trial in failing if all(trial is not other for other in probed.trials)]
    if isinstance(subject, Isolated):
        return _elsewhere(subject, [trial.case for trial in drawn], look, seed, seconds, annotate)
    assert isinstance(subject, InProcess)
    return _here(subject, probed, [*probed.trials, *drawn], look, seed, seconds, annotate)


def _here(
    subject: InProcess,
    probed: Probed,
    trials: Sequence[Trial],
    look: Look,
    seed: int,
    seconds: float,
    annotate: bool,
) -> Advice:
    convention = probed.run.convention
    sought = Sought()
    if seconds:
        sought = find_fix(subject, trials, probed.discovery, look.at, convention, seed, seconds)
    if not annotate and (sought.fix or not seconds):
        return Advice(sought.fix)
    file, notes = annotation.annotate(subject, trials, convention)
    return Advice(sought.fix, sought.reason, file, notes)


def _elsewhere(
    subject: Isolated, drawn: Sequence[Case], look: Look, seed: int, seconds: float, annotate: bool
) -> Advice:
    """The same in one more process."""
    server, clock = Child("reference.fixing"), Clock(seconds + PROVING)
    try:
        server.send("open", *subject.opening)
        server.answer(tuple[str, str], clock)
        ndims, dtypes = (tuple(which) if which else None for which in (look.ndims, look.dtypes))
        server.send("advise", tuple(drawn), ndims, look.accept, dtypes, look.timeout, seed, seconds, annotate)
        reason, fix, file, notes = server.answer(TEXTS, clock)
        return Advice(Fix(*fix) if fix else None, reason, file, tuple(Note(*note) for note in notes))
    except Refused as refused:
        return Advice(reason=f"the search ended early: {refused}")
    except Ended as ended:
        return Advice(reason=f"the search ended early: its process {ended}")
    except Silent:
        return Advice(reason=f"the search took more than {clock.seconds:g} s")
    finally:
        server.close()


class Adviser(child.Served):
    """What the parent of such a process may ask for."""

    def advise(
        self,
        drawn: Sequence[Case],
        ndims: Sequence[int] | None,
        accept: tuple[str, ...],
        dtypes: Sequence[str] | None,
        timeout: float,
        seed: int,
        seconds: float,
        annotate: bool,
    ) -> TEXTS:
        """An advice about the subject that was opened; `drawn` are random cases in which it fails."""
        look = Look(ndims, accept, dtypes, timeout)
        probed = look.at(self.subject)
        trials = [*probed.trials, *(judge(self.subject, case, probed.run.convention) for case in drawn)]
        found = _here(self.subject, probed, trials, look, seed, seconds, annotate)
        notes = tuple(_values(note) for note in found.notes)
        return found.reason, _values(found.fix) if found.fix else None, found.file, notes


def _values(one: Fix | Note) -> tuple[Any, ...]:
    return tuple(getattr(one, field.name) for field in fields(one))


def serve(stage: int | None) -> NoReturn:
    """Answer the parent's requests until there are no more."""
    Convention.beside_torch = False
    child.serve(stage, Adviser)
