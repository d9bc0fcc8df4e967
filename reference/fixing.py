"""Where a fix is looked for: beside the layer, in the process that has it, or in one more of its own.

A search runs the layer's code thousands of times, changed in as many ways. Where the layer is in this process, that is done
in forks of it; else in a process that loads the layer once more, judges it without torch, and forks in its turn. What
comes back from there is text, as from any process of a subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from reference.cases.case import Case
from reference.probing import Probed, probe
from reference.repair.search import Sought, find_fix
from reference.reporting.result import Fix
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
TEXTS = tuple[str, float, tuple[Any, ...] | None]  # why there is none, how long it took, the fields of the fix


@dataclass(frozen=True)
class Look:
    """How a subject is looked at: arguments of `check`."""

    ndims: Sequence[int] | None
    accept: tuple[str, ...]
    dtypes: Sequence[str] | None
    timeout: float

    def at(self, subject: Judged) -> Probed:
        return probe(subject, self.ndims, self.accept, self.timeout, 0, None, self.dtypes)


def seek(subject: Judged, probed: Probed, failing: Sequence[Trial], look: Look, seed: int, seconds: float) -> Sought:
    """A fix of a subject that fails in some trials, or why there is none."""
    drawn = [trial for trial in failing if all(trial is not other for other in probed.trials)]
    if isinstance(subject, Isolated):
        return _elsewhere(subject, [trial.case for trial in drawn], look, seed, seconds)
    assert isinstance(subject, InProcess)
    trials = [*probed.trials, *drawn]
    return find_fix(subject, trials, probed.discovery, look.at, probed.run.convention, seed, seconds)


def _elsewhere(subject: Isolated, drawn: Sequence[Case], look: Look, seed: int, seconds: float) -> Sought:
    """The same in one more process."""
    server, clock = Child("reference.fixing"), Clock(seconds + PROVING)
    try:
        server.send("open", *subject.opening)
        server.answer(tuple[str, str], clock)
        server.send("seek", tuple(drawn), *_plain(look), seed, seconds)
        reason, taken, values = server.answer(TEXTS, clock)
    except Refused as refused:
        return Sought(reason=f"the search ended early: {refused}")
    except Ended as ended:
        return Sought(reason=f"the search ended early: its process {ended}")
    except Silent:
        return Sought(reason=f"the search took more than {clock.seconds:g} s")
    finally:
        server.close()
    return Sought(Fix(*values) if values else None, reason, seconds=taken)


def _plain(look: Look) -> tuple[Any, ...]:
    ndims = tuple(look.ndims) if look.ndims else None
    return ndims, look.accept, tuple(look.dtypes) if look.dtypes else None, look.timeout


class Fixer(child.Served):
    """What the parent of such a process may ask for."""

    def seek(
        self,
        drawn: Sequence[Case],
        ndims: Sequence[int] | None,
        accept: tuple[str, ...],
        dtypes: Sequence[str] | None,
        timeout: float,
        seed: int,
        seconds: float,
    ) -> TEXTS:
        """A fix of the subject that was opened; `drawn` are random cases in which it fails."""
        look = Look(ndims, accept, dtypes, timeout)
        probed = look.at(self.subject)
        trials = [*probed.trials, *(judge(self.subject, case, probed.run.convention) for case in drawn)]
        found = find_fix(self.subject, trials, probed.discovery, look.at, probed.run.convention, seed, seconds)
        fix = found.fix
        return (
            found.reason,
            found.seconds,
            None if fix is None else tuple(getattr(fix, field.name) for field in fields(Fix)),
        )


def serve(stage: int | None) -> NoReturn:
    """Answer the parent's requests until there are no more."""
    Convention.beside_torch = False
    child.serve(stage, Fixer)
