"""The check of one layer: designed probes, then random cases, then the diagnosis if anything is wrong.

This module puts the parts together; what is right is `truth`'s business, what went wrong `diagnosis`'s, how it looks
`reporting`'s.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reference.cases.case import DTYPES
from reference.cases.probes import designed_for
from reference.diagnosis.consistency import backward_is_derivative
from reference.diagnosis.conventions import accepted_convention, conventions_named
from reference.diagnosis.diagnose import diagnose
from reference.diagnosis.observed import hazards_of, refusals, starting_conventions
from reference.kinds import Kind, kind_in, kind_named, untold
from reference.repair import annotation
from reference.repair.search import Sought, find_fix
from reference.reporting.counterexample import describe_failure, pictures_of, smallest
from reference.reporting.report import Report
from reference.reporting.result import Note
from reference.run import Progress, Run, Tally
from reference.subjects.discovery import Discovery, discover
from reference.subjects.guard import Clock
from reference.subjects.reading import Refused
from reference.subjects.subject import Subject
from reference.truth import torch_layers
from reference.truth.half import is_made_for_float16
from reference.truth.meant import not_meant, without
from reference.truth.verdict import Trial


def check(
    layer: Any,
    like: str | None = None,
    *,
    seed: int = 0,
    examples: int = 200,
    minimize: bool = True,
    accept: Iterable[str] = (),
    strict: bool = False,
    names: Mapping[str, str] | None = None,
    dtypes: Sequence[str] | None = None,
    channels_last: bool = False,
    ndims: Sequence[int] | None = None,
    timeout: float | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    fix: bool = False,
    fix_seconds: float = 10.0,
    annotate: bool = False,
) -> Report:
    """Hold a layer against torch.nn, and name what is wrong with it.

    Args:
        layer: a class or factory that takes torch's keywords and gives an object with forward(x) and backward(dy), and
            arrays gamma, beta, dgamma, dbeta (BatchNorm: training, running_mean, running_var); under other names too,
            where only one thing fits. The report says what was read as what.
        like: "GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm" or "InstanceNorm"; by default what its name says.
        seed: of the random cases; the same seed gives the same report.
        examples: how many random cases follow the designed ones.
        minimize: whether to look for the smallest failing case.
        accept: ids of conventions that are not counted as wrong; the layer is held to them instead.
        strict: whether hazards fail too, and random cases for which there was no time.
        names: what keywords, methods and arrays are called, where they are not found: from our name to theirs, as
            {"gamma": "scale", "dgamma": "grads['scale']", "eps": "epsilon"}.
        dtypes: of x to try, of "float64", "float32" and "float16"; by default all that it does not refuse.
        channels_last: whether it takes x as (N, *spatial, C).
        ndims: the ranks of x to try; by default all that it does not refuse.
        timeout: seconds for this layer, by default 60 and 0.03 for each random case. Where they end inside one call
            that does not return, that is a finding.
        name: what to call it in the report.
        progress: called with the cases done and the cases to do.
        fix: whether to look for a change of the layer's source with which it passes; the report has it in `fixes`.
        fix_seconds: of search, at most; a fix that is found is then proved, which takes about as long as a check.
        annotate: whether to say what the lines of its source hold in a failing case, also where a fix is found.

    Raises:
        Refused: it cannot be checked; the text says why and what to do about it.
        ValueError, TypeError: an argument is not what it should be.
    """
    name = name or str(getattr(layer, "__name__", type(layer).__name__))
    kind = kind_of(name, like or getattr(layer, "like", None))
    timeout = 60 + 0.03 * examples if timeout is None else timeout
    accept = validated(layer, kind, examples, accept, ndims, dtypes, timeout)
    if fix_seconds <= 0:
        raise ValueError(f"Expected fix_seconds to be more than 0 but got {fix_seconds}")
    subject = Subject(layer, kind, name, channels_last, names)
    probed = probe(subject, ndims, accept, timeout, examples, progress, dtypes)
    run, trials, discovery = probed.run, probed.trials, probed.discovery
    failing = [trial for trial in trials if trial.failed]
    if run.unfinished and not failing:
        raise Refused(
            f"{name} took all of {timeout:g} s for {len(trials)} of {run.total - examples} designed cases, which agree: "
            "give it more with timeout="
        )
    with torch_layers.one_thread():
        if examples and (minimize or not failing):
            failing += run.at_random(discovery.scope, failing, seed, examples)
        consistent = (
            None if run.unfinished else backward_is_derivative(subject, discovery.scope, run.clock, [*trials, *failing])
        )
        faults = diagnose(kind, trials, failing, run.convention) if failing else []
        faults += starting_conventions(discovery.findings, {*accept, *(fault.id for fault in faults)})
        hazards = hazards_of(run.hazardous)
        incomplete = f"{run.drawn} of {examples} random cases in {timeout:g} s" if run.unfinished else ""
        if run.unfinished and failing:
            done = f"{run.tally.trials} of {run.total}"
            discovery.not_covered["some cases"] = f"the time of {timeout:g} s was over after {done} cases"
        sought = Sought()
        if fix and failing:

            def again(other: Subject) -> Probed:
                return probe(other, ndims, accept, timeout, 0, None, dtypes)

            drawn = [trial for trial in failing if all(trial is not other for other in trials)]
            sought = find_fix(
                subject,
                [*trials, *drawn],
                discovery,
                again,
                run.convention,
                seed,
                fix_seconds,
                [fault.id for fault in faults],
            )
        file, lines = "", tuple[Note, ...]()
        if failing and (annotate or (fix and sought.fix is None)):
            file, lines = annotation.annotate(subject, [*trials, *failing], run.convention)
        return Report(
            subject=name,
            like=kind.name,
            passed=not faults and not (strict and (hazards or incomplete)),
            cases=run.tally.trials,
            seed=seed,
            not_covered=discovery.not_covered | refusals(run.refusals, trials) | _left_out(run),
            quantities=run.tally.figures(),
            faults=[*faults, *(hazards if strict else [])],
            backward_is_derivative_of_forward=consistent,
            counterexample=describe_failure(subject, smallest(failing), bool(accept)) if failing else None,
            notes=tuple(_notes(run.tally, trials, failing)),
            accepted=accept,
            pictures=pictures_of(failing),
            hazards=hazards,
            read_as=subject.read_as,
            incomplete=incomplete,
            fixes=(sought.fix,) if sought.fix else (),
            not_fixed=sought.reason,
            notes_on_source=lines,
            annotated_file=file,
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
    dtypes: Sequence[str] | None = None,
) -> Probed:
    """Find out what a subject takes, and run the designed probes of that; the first half of a check.

    Raises:
        Refused: as `check`.
    """
    clock = Clock(timeout)
    with torch_layers.one_thread():
        discovery = discover(subject, ndims, clock, dtypes)
        scope = discovery.scope
        convention = accepted_convention(subject, accept, designed_for(scope), clock)
        if dtypes is None and "float16" in scope.dtypes and not is_made_for_float16(subject, scope, convention, clock):
            discovery = discovery.without_dtype(
                "float16", "it computes in float16 itself: dtypes float16 says how far that goes"
            )
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


def _left_out(run: Run) -> dict[str, str]:
    return {f"x of shape {case.shape}": "it would take too long, by the time of smaller ones" for case in run.skipped}


def _notes(tally: Tally, trials: list[Trial], failing: list[Trial]) -> Iterator[str]:
    """What else a reader should know."""
    for name, (error, case) in tally.torch_is_off.items():
        yield f"{name}: the layer is right where torch is not: torch is off by {error:.3g} u in {case}"
    ranks = {len(trial.case.shape) for trial in failing}
    if failing and 2 not in ranks and any(len(trial.case.shape) == 2 for trial in trials):
        yield "it is right in 2D: ndims 2 holds it to that alone, if it is made for that"


def kind_of(name: str, like: str | None = None) -> Kind:
    """The kind of layer that `like` says, or else the name of a class.

    Raises:
        ValueError: there is no kind of that name. Refused: the name does not tell.
    """
    if like is not None:
        return kind_named(like)
    kind = kind_in(name)
    if kind is None:
        raise Refused(untold("the name", name))
    return kind


def validated(
    layer: Any,
    kind: Kind,
    examples: int,
    accept: Iterable[str],
    ndims: Sequence[int] | None,
    dtypes: Sequence[str] | None,
    timeout: float,
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
    strange = sorted(set(dtypes or ()) - set(DTYPES))
    if strange or (dtypes is not None and not dtypes):
        raise ValueError(f"Expected dtypes to be some of {DTYPES} but got {strange}")
    conventions_named(accept)  # refuses what is none
    return accept
