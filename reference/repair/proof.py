"""The proof of a fix: the layer made anew from the fixed text, and the whole verdict on it once more.

Runs in a child. What it has to pass is what any right layer has: all designed cases, random ones of another seed; and it
must not refuse what the layer took before, nor be risky where it was not.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any, Protocol

from reference.cases.case import Case
from reference.repair.bench import limited, prepared
from reference.repair.processes import Send
from reference.repair.source import Source
from reference.repair.units import Located, Patch
from reference.run import Run
from reference.subjects.discovery import Discovery
from reference.subjects.frameworks import adapted
from reference.subjects.guard import Clock, OutOfTime, attempt
from reference.subjects.in_process import InProcess
from reference.truth.convention import Convention
from reference.truth.verdict import Trial

RANDOM = 500  # cases
PROOF_SECONDS = 20.0  # that the random ones may take
SLOW = 1.0  # seconds that one case may take while its lines are watched
OTHER_SEED = 104_729  # added to the check's own: what was not seen by the search


class Examined(Protocol):
    """A subject after its designed probes."""

    @property
    def discovery(self) -> Discovery: ...
    @property
    def run(self) -> Run: ...
    @property
    def trials(self) -> list[Trial]: ...


Examine = Callable[[InProcess], Examined]


@dataclass(frozen=True, eq=False)
class Claim:
    """A text that is said to be a fix.

    Attributes:
        subject: the layer as it is. located: its live functions. source: the fixed text. before: what was found out about
            the layer as it is. hazards: the ids that it had. sound: the cases in which it was right, where
            a hazard would be a new one. seed: of the check. examine: the first half of a check.
        convention: what it is held to. branching: where a condition was changed, cases that show which lines run: a
            line that ran must run still, or else the mistake is only never reached.
    """

    subject: InProcess
    located: Located
    source: Source
    before: Discovery
    hazards: frozenset[str]
    sound: frozenset[Case]
    seed: int
    examine: Examine
    convention: Convention
    branching: tuple[Case, ...] = ()


def remade(claim: Claim) -> InProcess:
    """The subject made from the fixed text: its module once more, where the class is to be found in it by name.

    A class that a function makes, a pair of functions: the live ones get the code of the fixed text.
    """
    subject = claim.subject
    Patch(claim.located, claim.source)
    factory = _again(claim) or subject.factory
    return InProcess(factory, subject.kind, subject.name, subject.channels_last, subject.names)


def _again(claim: Claim) -> Any:
    factory = getattr(claim.subject.factory, "adapts", claim.subject.factory)
    name, qualname = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "<")
    old = sys.modules.get(name or "")
    if old is None or name == "__main__" or "<" in qualname or getattr(old, "__file__", None) != claim.source.filename:
        return None
    if _named(old, qualname) is not factory:
        return None
    module = ModuleType(old.__name__)
    for attribute in ("__file__", "__package__", "__spec__", "__loader__", "__path__"):
        if hasattr(old, attribute):
            setattr(module, attribute, getattr(old, attribute))
    sys.modules[old.__name__] = module
    code = compile(claim.source.text, claim.source.filename, "exec", 0, True)
    executed = attempt(lambda: exec(code, module.__dict__))  # the user's own file, as it was imported before
    if executed.error is not None:
        return None
    device = getattr(claim.subject.factory, "device", "cpu")
    return adapted(_named(module, qualname), claim.subject.kind.name, device)


def _named(module: ModuleType, qualname: str) -> Any:
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def designed(claim: Claim, send: Send) -> None:
    """Whether the fixed layer passes every designed case, and takes all that the layer as it is takes."""
    prepared()
    ran = _lines(claim, claim.subject)
    subject = remade(claim)
    if not ran <= _lines(claim, claim.subject):
        send({"passed": False})
        return
    examined = claim.examine(subject)
    failed = [trial for trial in examined.trials if trial.failed]
    risky = {(trial.case, finding.id) for trial in examined.trials for finding in trial.hazards}
    covered = _is_within(claim.before, examined.discovery) and not any(
        id not in claim.hazards and case in claim.sound for case, id in risky
    )
    complete = not examined.run.unfinished
    send({"passed": not failed and covered and complete, "cases": len(examined.trials)})


def at_random(claim: Claim, send: Send) -> None:
    """Whether the fixed layer passes random cases that nobody has seen yet."""
    prepared()
    subject = remade(claim)
    subject.form = claim.subject.form  # which is read anew beside this, for the designed cases
    run = Run(
        subject, Convention(claim.convention.changes, claim.convention.roundings), Clock(PROOF_SECONDS), RANDOM, None
    )
    failing = run.at_random(claim.before.scope, [], claim.seed + OTHER_SEED, RANDOM)
    send({"passed": not failing and not run.unfinished, "cases": run.drawn})


def _lines(claim: Claim, subject: InProcess) -> set[tuple[str, int]]:
    """The lines of the layer's file that run in the cases that a changed condition is tried on, by function."""
    found: set[tuple[str, int]] = set()
    files = {claim.source.filename}

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            found.add((frame.f_code.co_qualname, frame.f_lineno - frame.f_code.co_firstlineno))
        return trace

    for case in claim.branching:
        sys.settrace(trace)
        try:
            with limited(SLOW):
                subject.run(case)
        except (Exception, OutOfTime):
            continue
        finally:
            sys.settrace(None)
    return found


def _is_within(before: Discovery, after: Discovery) -> bool:
    """Whether all that could be tried before can be tried after, and it starts from nothing stranger than before."""
    new, old = after.scope, before.scope
    wide = all(
        set(getattr(old, name)) <= set(getattr(new, name))
        for name in ("ndims", "dtypes", "gammas", "betas", "keywords", "modes")
    )
    several = (new.several_axes or not old.several_axes) and (new.no_eps or not old.no_eps)
    known = {finding.id for finding in before.findings}
    strange = {finding.id for finding in after.findings} - known
    return wide and several and (new.averages or not old.averages) and not strange and _covers(before, after)


def _covers(before: Discovery, after: Discovery) -> bool:
    return set(after.not_covered) <= set(before.not_covered)


__all__ = ["Claim", "Examine", "at_random", "designed", "remade"]
