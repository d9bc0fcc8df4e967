"""The first half of a check: what a subject takes, and how it does in the designed cases of that."""

from collections.abc import Sequence
from dataclasses import dataclass

from reference.cases.probes import designed_for
from reference.diagnosis.conventions import accepted_convention
from reference.dtypes import NARROW
from reference.run import Progress, Run
from reference.subjects.discovery import Discovery
from reference.subjects.guard import Clock
from reference.subjects.judged import Judged
from reference.subjects.reading import Refused
from reference.truth.demoted import computes_in_float32
from reference.truth.meant import not_meant, without
from reference.truth.narrow import is_made_for
from reference.truth.verdict import Trial


@dataclass(frozen=True)
class Probed:
    """A subject after its designed probes."""

    discovery: Discovery
    run: Run
    trials: list[Trial]


def probe(
    subject: Judged,
    ndims: Sequence[int] | None = None,
    accept: Sequence[str] = (),
    timeout: float = 60.0,
    examples: int = 0,
    progress: Progress | None = None,
    dtypes: Sequence[str] | None = None,
) -> Probed:
    """Find out what a subject takes, and run the designed probes of that; the first half of a check.

    Raises:
        Refused: as `check`.
    """
    clock = Clock(timeout)
    discovery = subject.discover(ndims, clock, dtypes)
    scope = discovery.scope
    convention = accepted_convention(subject, accept, designed_for(scope), clock)
    for dtype in (name for name in scope.dtypes if name in NARROW and dtypes is None):
        if not is_made_for(dtype, subject, scope, convention, clock):
            discovery = discovery.without_dtype(
                dtype, f"it computes in {dtype} itself: dtypes {dtype} says how far that goes"
            )
    widths = discovery.scope.dtypes
    may_widen = subject.is_adapted and dtypes is None and {"float64", "float32"} <= {*widths}
    if may_widen and computes_in_float32(subject, scope, clock):
        discovery = discovery.without_dtype("float64", "it computes in float32 inside")
    designed = designed_for(discovery.scope)
    run = Run(subject, convention, clock, len(designed) + examples, progress)
    trials = run.designed(designed)
    parts = not_meant(trials)
    if parts:
        trials = run.only(without(trials, list(parts)))
        discovery = discovery.without_parts(parts)
    if designed and not trials:
        reason = run.refusals[0].seen.refused if run.refusals else ""
        raise Refused(
            f"{subject.name} refuses every case: {reason}"
            if reason
            else f"{subject.name} took all of {timeout:g} s before the first case: give it more with timeout="
        )
    return Probed(discovery, run, trials)
