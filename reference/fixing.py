"""Where a fix is looked for, and lines are annotated: beside the layer, in the process that has it, or in one more of its own.

A search runs the layer's code thousands of times, changed in as many ways. Where the layer is in this process, that is done
in forks of it; else in a process that loads the layer once more, judges it without torch, and forks in its turn. What
comes back from there is text, as from any process of a subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from reference.cases.case import Case
from reference.diagnosis.diagnose import diagnose
from reference.diagnosis.named import NamedFault, told_by
from reference.dtypes import NARROW
from reference.probing import Probed, probe
from reference.repair import annotation
from reference.repair.search import Sought, find_fix
from reference.reporting.result import Fix, Note
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from reference.subjects.judged import Judged
from reference.subjects.process import child
from reference.subjects.process.channel import Child, Ended, Silent
from reference.subjects.process.isolated import OPENED, Isolated
from reference.subjects.reading import Refused
from reference.truth.convention import Convention
from reference.truth.verdict import Trial, judge

FIX_SECONDS = 10.0  # of search, by default
PROVING = 60.0  # seconds that loading, probing and proving may take beside the search
ENDLESS = ("never-returns", "process-ended")  # findings about a layer that is not run thousands of times
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
class Request:
    """What is asked for, with the arguments of `check` under which the layer was looked at.

    Attributes:
        seconds: of search for a fix, at most; 0 for none.
        annotate: whether to say what lines hold although a fix is found, or none is sought.
    """

    ndims: tuple[int, ...] | None
    accept: tuple[str, ...]
    dtypes: tuple[str, ...] | None
    timeout: float
    seed: int
    seconds: float
    annotate: bool

    def probed(self, subject: Judged) -> Probed:
        """A subject after its designed probes."""
        return probe(subject, self.ndims, self.accept, self.timeout, 0, None, self.dtypes)


class Elsewhere:
    """An advice that another process works on, from now on; to be closed.

    Args:
        subject: the layer, which that process loads once more. drawn: random cases in which it fails.
    """

    def __init__(self, subject: Isolated, drawn: Sequence[Case], request: Request) -> None:
        self._server, self._clock = Child("reference.fixing"), Clock(request.seconds + PROVING)
        self._early: Advice | None = None
        try:
            self._server.send("open", *subject.opening)
            self._server.send("advise", tuple(drawn), *_values(request))
        except Ended as ended:
            self._early = Advice(reason=f"the search ended early: its process {ended}")

    def advice(self) -> Advice:
        """What came of it; waits for that."""
        if self._early:
            return self._early
        try:
            self._server.answer(OPENED, self._clock)
            reason, fix, file, notes = self._server.answer(TEXTS, self._clock)
            return Advice(Fix(*fix) if fix else None, reason, file, tuple(Note(*note) for note in notes))
        except Refused as refused:
            return Advice(reason=f"the search ended early: {refused}")
        except Ended as ended:
            return Advice(reason=f"the search ended early: its process {ended}")
        except Silent:
            return Advice(reason=f"the search took more than {self._clock.seconds:g} s")

    def close(self) -> None:
        """End the process."""
        self._server.close()


def begun(subject: Judged, failing: Sequence[Trial], request: Request) -> Elsewhere | None:
    """The work on an advice, where it can be begun now: in another process, beside what is still to be done here."""
    wanted = failing and not _endless(failing) and (request.seconds or request.annotate)
    return Elsewhere(subject, (), request) if wanted and isinstance(subject, Isolated) else None


def advise(
    subject: Judged, probed: Probed, failing: Sequence[Trial], faults: Sequence[NamedFault], request: Request
) -> Advice:
    """What can be said of the source of a subject that fails in some trials, random ones among them; and has faults."""
    if _endless(failing):
        return Advice(reason="none is looked for, since some of its calls do not come back")
    drawn = [trial for trial in failing if all(trial is not other for other in probed.trials)]
    if isinstance(subject, Isolated):
        elsewhere = Elsewhere(subject, [trial.case for trial in drawn], request)
        try:
            return elsewhere.advice()
        finally:
            elsewhere.close()
    assert isinstance(subject, InProcess)
    return _here(subject, probed, [*probed.trials, *drawn], faults, request)


def _endless(trials: Sequence[Trial]) -> bool:
    return any(trial.seen.has(id) for trial in trials for id in ENDLESS)


def _here(
    subject: InProcess, probed: Probed, trials: Sequence[Trial], faults: Sequence[NamedFault], request: Request
) -> Advice:
    if subject.is_adapted and any(trial.failed and trial.case.dtype not in NARROW for trial in trials):
        probed, trials, request = _in_wide(probed, trials, request)
    kept = tuple(fault.id for fault in faults if fault.kind == "convention" and fault.id != told_by("rounding").id)
    mistakes = [fault.id for fault in faults if fault.id not in kept]
    if kept and mistakes:  # what is only another choice than torch's stays as it is
        request = replace(request, accept=(*request.accept, *kept))
        held = request.probed(subject)
        drawn = [trial.case for trial in trials if all(trial is not other for other in probed.trials)]
        again = [*held.trials, *(judge(subject, case, held.run.convention) for case in drawn)]
        if any(trial.failed for trial in again):
            probed, trials = held, again
    convention, sought = probed.run.convention, Sought()
    if request.seconds:
        named = mistakes or kept
        sought = find_fix(
            subject, trials, probed.discovery, request.probed, convention, request.seed, request.seconds, named
        )
    fix = sought.fix and replace(sought.fix, conventions=kept if mistakes else ())
    if not request.annotate and (fix or not request.seconds):
        return Advice(fix)
    file, notes = annotation.annotate(subject, trials, convention)
    return Advice(fix, sought.reason, file, notes)


def _in_wide(probed: Probed, trials: Sequence[Trial], request: Request) -> tuple[Probed, Sequence[Trial], Request]:
    """The same without 16 bits, where autograd rounds as often as a layer widens x: a fix is none of that."""
    discovery = probed.discovery
    for dtype in (name for name in discovery.scope.dtypes if name in NARROW):
        discovery = discovery.without_dtype(dtype, "not asked for")
    kept = [trial for trial in trials if trial.case.dtype not in NARROW]
    designed = [trial for trial in probed.trials if trial.case.dtype not in NARROW]
    wide = discovery.scope.dtypes
    return replace(probed, discovery=discovery, trials=designed), kept, replace(request, dtypes=wide)


class Adviser(child.Served):
    """What the parent of such a process may ask for."""

    def advise(self, drawn: Sequence[Case], *values: Any) -> TEXTS:
        """An advice about the subject that was opened; `values` are those of a `Request`."""
        request = Request(*values)
        probed = request.probed(self.subject)
        trials = [*probed.trials, *(judge(self.subject, case, probed.run.convention) for case in drawn)]
        failing = [trial for trial in trials if trial.failed]
        faults = diagnose(self.subject.kind, probed.trials, failing, probed.run.convention)
        found = _here(self.subject, probed, trials, faults, request)
        notes = tuple(_values(note) for note in found.notes)
        return found.reason, _values(found.fix) if found.fix else None, found.file, notes


def _values(one: Fix | Note | Request) -> tuple[Any, ...]:
    return tuple(getattr(one, field.name) for field in fields(one))


def serve(stage: int | None) -> NoReturn:
    """Answer the parent's requests until there are no more."""
    Convention.beside_torch = False
    child.serve(stage, Adviser)
