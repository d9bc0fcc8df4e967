"""The check of one layer: designed probes, then random cases, then the diagnosis if anything is wrong.

This module puts the parts together; what is right is `truth`'s business, what went wrong `diagnosis`'s, how it looks
`reporting`'s.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reference.cases.probes import designed_for
from reference.diagnosis.consistency import backward_is_derivative
from reference.diagnosis.conventions import accepted_convention, conventions_named
from reference.diagnosis.diagnose import diagnose
from reference.kinds import KINDS, Kind, kind_in, kind_named
from reference.reporting.counterexample import describe_failure, pictures_of, smallest
from reference.reporting.report import Report
from reference.run import Progress, Run, Tally
from reference.subjects.discovery import Discovery, Refused, discover
from reference.subjects.guard import Clock
from reference.subjects.subject import Subject
from reference.truth import torch_layers
from reference.truth.verdict import Trial


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
        Refused: it cannot be checked at all; the text says why and what to do about it.
        ValueError, TypeError: an argument is not what it should be.
    """
    name = name or str(getattr(layer, "__name__", type(layer).__name__))
    kind = kind_of(name, like)
    accept = _validated(layer, kind, examples, accept, ndims, timeout)
    probed = probe(Subject(layer, kind, name, channels_last), ndims, accept, timeout, examples, progress)
    run, trials, clock = probed.run, probed.trials, probed.run.clock
    scope, not_covered = probed.discovery.scope, probed.discovery.not_covered
    failing = [trial for trial in trials if trial.failed]
    with torch_layers.one_thread():
        if examples and (minimize or not failing):
            failing += run.at_random(scope, failing, seed, examples)
        if clock.left <= 0:
            done = run.tally.trials
            not_covered["some cases"] = f"the time of {timeout:g} s was over after {done} of {run.total} cases"
        consistent = None if clock.left <= 0 else backward_is_derivative(run.subject, scope, clock, [*trials, *failing])
        return Report(
            subject=name,
            like=kind.name,
            passed=not failing,
            cases=run.tally.trials,
            seed=seed,
            not_covered=not_covered,
            quantities=run.tally.figures(),
            faults=diagnose(kind, trials, failing, run.convention) if failing else [],
            backward_is_derivative_of_forward=consistent,
            counterexample=describe_failure(run.subject, smallest(failing), bool(accept)) if failing else None,
            notes=tuple(_notes(run.tally, failing)),
            accepted=accept,
            pictures=pictures_of(failing),
        )


@dataclass(frozen=True)
class Probed:
    """A subject after its designed probes."""

    discovery: Discovery
    run: Run
    trials: list[Trial]


def probe(
    subject: Subject,
    ndims: Sequence[int] | None = None,
    accept: Sequence[str] = (),
    timeout: float = 60.0,
    examples: int = 0,
    progress: Progress | None = None,
) -> Probed:
    """Find out what a subject takes, and run the designed probes of that; the first half of a check.

    Raises:
        Refused: as `check`.
    """
    clock = Clock(timeout)
    with torch_layers.one_thread():
        discovery = discover(subject, ndims, clock)
        designed = designed_for(discovery.scope)
        convention = accepted_convention(subject, accept, designed, clock)
        run = Run(subject, convention, clock, len(designed) + examples, progress)
        trials = run.designed(designed)
    if designed and not trials:
        raise Refused(f"{subject.name} took all of {timeout:g} s before the first case: give it more with timeout=")
    return Probed(discovery, run, trials)


def _notes(tally: Tally, failing: list[Trial]) -> Iterator[str]:
    """What else a reader should know."""
    for name, (error, case) in tally.torch_is_off.items():
        yield f"{name}: the layer is right where torch is not: torch is off by {error:.3g} u in {case}"
    raised = [trial for trial in failing if trial.seen.raised]
    if raised:
        what, where = raised[0].seen.problems["dx"], raised[0].case
        yield f"it raised in {len(raised)} of the cases that failed, first in {where}: {what}"


def kind_of(name: str, like: str | None = None) -> Kind:
    """The kind of layer that `like` says, or else the name of a class.

    Raises:
        ValueError: there is no kind of that name. Refused: the name does not tell.
    """
    if like is not None:
        return kind_named(like)
    kind = kind_in(name)
    if kind is None:
        raise Refused(
            f"Expected the name to tell which layer it is but got {name!r}: say which with like=, one of {tuple(KINDS)}"
        )
    return kind


def _validated(
    layer: Any, kind: Kind, examples: int, accept: Iterable[str], ndims: Sequence[int] | None, timeout: float
) -> tuple[str, ...]:
    """Refuse what cannot be meant, before anything runs; the accepted ids as a tuple."""
    if not callable(layer):
        raise TypeError(f"Expected layer to be a class or a factory but got {layer!r} (type {type(layer).__name__})")
    if examples < 0:
        raise ValueError(f"Expected examples to be at least 0 but got {examples}")
    if timeout <= 0:
        raise ValueError(f"Expected timeout to be more than 0 seconds but got {timeout}")
    if isinstance(accept, str):
        raise TypeError(f"Expected accept to be a list of ids but got the string {accept!r}")
    accept = tuple(accept)
    unknown = sorted(set(ndims or ()) - set(kind.ranks))
    if unknown:
        raise ValueError(f"Expected ndims to be some of {kind.ranks} for {kind.name} but got {unknown}")
    conventions_named(accept)  # refuses what is none
    return accept
