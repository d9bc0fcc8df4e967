"""The check of one layer: designed probes, then random cases, then the diagnosis if anything is wrong.

This module puts the parts together; what is right is `truth`'s business, what went wrong `diagnosis`'s, how it looks
`reporting`'s.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reference.diagnosis.consistency import backward_is_derivative
from reference.diagnosis.conventions import conventions_named
from reference.diagnosis.diagnose import diagnose
from reference.diagnosis.observed import hazards_of, refusals, starting_conventions
from reference.dtypes import DTYPES
from reference.fixing import FIX_SECONDS, Advice, Request, advise, begun
from reference.kinds import Kind
from reference.probing import probe
from reference.reporting.counterexample import describe_failure, pictures_of, smallest
from reference.reporting.report import Report
from reference.run import Progress, Run, Tally, Unfinished, behaviour_in, parts_of
from reference.subjects.frameworks import adapted
from reference.subjects.guard import Clock, attribute, seconds_for
from reference.subjects.in_process import InProcess
from reference.subjects.judged import Judged
from reference.subjects.process.isolated import Isolated
from reference.subjects.process.place import place_of
from reference.subjects.reading import Refused, kind_of, name_of
from reference.truth.beside import one_thread
from reference.truth.verdict import Trial


def check(
    layer: Any,
    like: str | None = None,
    *,
    seed: int = 0,
    examples: int = 200,
    minimize: bool = True,
    accept: str | Iterable[str] = (),
    strict: bool = False,
    names: Mapping[str, str] | None = None,
    dtypes: Sequence[str] | None = None,
    channels_last: bool = False,
    device: str = "cpu",
    ndims: Sequence[int] | None = None,
    timeout: float | None = None,
    isolated: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
    fix: bool = False,
    fix_seconds: float = FIX_SECONDS,
    annotate: bool = False,
) -> Report:
    """Hold a layer against torch.nn, and name what is wrong with it.

    The layer runs in this process, behind a shield: what it prints, warns, seeds, sets and raises is kept from the
    caller, and a call that does not return is interrupted where Python can. That does not protect from a layer that ends
    or crashes the process, that changes NumPy or torch for everybody, or that hangs in C: `isolated` does.

    Args:
        layer: a class or factory that takes torch's keywords and gives an object with forward(x) and backward(dy), and
            arrays gamma, beta, dgamma, dbeta (BatchNorm: training, running_mean, running_var); under other names too,
            where only one thing fits. The report says what was read as what.
        like: "GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm" or "InstanceNorm"; by default what its name says.
        seed: of the random cases; the same seed gives the same report.
        examples: how many random cases follow the designed ones.
        minimize: whether to look for the smallest failing case.
        accept: the id of a convention, or several, that are not counted as wrong; the layer is held to them instead.
        strict: whether hazards fail too, and random cases for which there was no time.
        names: what keywords, methods and arrays are called, where they are not found: from our name to theirs, as
            {"gamma": "scale", "dgamma": "grads['scale']", "eps": "epsilon"}.
        dtypes: of x to try, of "float64", "float32", "float16" and "bfloat16"; by default all that it does not refuse.
        channels_last: whether it takes x as (N, *spatial, C).
        device: where a layer of torch's computes, "cpu", "cuda"...
        ndims: the ranks of x to try; by default all that it does not refuse.
        timeout: seconds for this layer, by default 60, or 180 where it is compiled for each shape as JAX' are, and 0.03 for each
            random case. Where they end inside one call that does not return, that is a finding.
        isolated: whether to run the layer in a process of its own, from where it reaches nothing of ours: a class or
            function that can be imported by its module's name, or from its file.
        name: what to call it in the report.
        progress: called with the cases done and the cases to do.
        fix: whether to look for a change of the layer's source with which it passes; the report has it in `fixes`.
        fix_seconds: of search, at most; a fix that is found is then proved, which takes about as long as a check.
        annotate: whether to say what the lines of its source hold in a failing case, also where a fix is found.

    Raises:
        Refused: it cannot be checked; the text says why and what to do about it.
        ValueError, TypeError: an argument is not what it should be.
    """
    name = name or name_of(layer)
    kind = kind_of(name, like or attribute(layer, "like"))
    if not callable(layer):
        raise TypeError(f"Expected layer to be a class or a factory but got {layer!r} (type {type(layer).__name__})")
    if not isolated:
        layer = adapted(layer, kind.name, device)
    if timeout is None:
        timeout = seconds_for(examples, attribute(layer, "compiles") is True)
    accept = validated(kind, examples, accept, ndims, dtypes, timeout)
    if fix_seconds <= 0:
        raise ValueError(f"Expected fix_seconds to be more than 0 but got {fix_seconds}")
    work: dict[str, Any] = {
        "seed": seed,
        "examples": examples,
        "minimize": minimize,
        "accept": accept,
        "strict": strict,
    }
    work |= {"dtypes": dtypes, "ndims": ndims, "timeout": timeout, "progress": progress}
    work |= {"fix_seconds": fix_seconds if fix else 0.0, "annotate": annotate}
    if not isolated:
        return examine(InProcess(layer, kind, name, channels_last, names), **work)
    with Isolated(place_of(layer), kind.name, channels_last, names, name, device) as subject:
        subject.open(Clock(timeout))
        return examine(subject, **work)


def examine(
    subject: Judged,
    *,
    seed: int,
    examples: int,
    minimize: bool,
    accept: tuple[str, ...],
    strict: bool,
    dtypes: Sequence[str] | None,
    ndims: Sequence[int] | None,
    timeout: float,
    progress: Progress | None,
    fix_seconds: float = 0.0,
    annotate: bool = False,
) -> Report:
    """The check of a subject, wherever its code runs; arguments as those of `check`, and valid.

    Args:
        fix_seconds: how long to look for a fix, where it is wrong; 0 for not at all.

    Raises:
        Refused: it cannot be checked.
    """
    with one_thread(), contextlib.ExitStack() as ending:
        name, kind = subject.name, subject.kind
        probed = probe(subject, ndims, accept, timeout, examples, progress, dtypes)
        run, trials, discovery = probed.run, probed.trials, probed.discovery
        failing = [trial for trial in trials if trial.failed]
        if subject.lost and not failing:
            raise Refused(f"{name} cannot be checked: {subject.lost}")
        if run.unfinished and not failing:
            raise Unfinished(
                f"{name} took all of {timeout:g} s for {len(trials)} of {run.total - examples} designed cases, which agree: "
                "give it more with timeout=",
                parts_of(trials, run.untried),
            )
        ranks, widths = tuple(ndims) if ndims else None, tuple(dtypes) if dtypes else None
        request = Request(ranks, accept, widths, timeout, seed, fix_seconds, annotate)
        elsewhere = begun(subject, failing, request)  # beside the random cases and the diagnosis
        if elsewhere:
            ending.callback(elsewhere.close)
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
            reason = subject.lost or f"the time of {timeout:g} s was over"
            first = {"some cases": f"{reason} after {run.tally.trials} of {run.total} cases"}
            discovery = replace(discovery, not_covered=first | discovery.not_covered)
        advice = Advice()
        if failing and (fix_seconds or annotate):
            advice = elsewhere.advice() if elsewhere else advise(subject, probed, failing, faults, request)
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
            parts=parts_of(trials, run.untried),
            behaviour=behaviour_in(trials, strict),
            fixes=(advice.fix,) if advice.fix else (),
            not_fixed=advice.reason,
            notes_on_source=advice.notes,
            annotated_file=advice.file,
        )


def _left_out(run: Run) -> dict[str, str]:
    return {f"x of shape {case.shape}": "it would take too long, by the time of smaller ones" for case in run.skipped}


def _notes(tally: Tally, trials: list[Trial], failing: list[Trial]) -> Iterator[str]:
    """What else a reader should know."""
    for name, (error, case) in tally.torch_is_off.items():
        yield f"{name}: the layer is right where torch is not: torch is off by {error:.3g} u in {case}"
    ranks = {len(trial.case.shape) for trial in failing}
    if failing and 2 not in ranks and any(len(trial.case.shape) == 2 for trial in trials):
        yield "it is right in 2D: ndims 2 holds it to that alone, if it is made for that"


def validated(
    kind: Kind,
    examples: int,
    accept: str | Iterable[str],
    ndims: Sequence[int] | None,
    dtypes: Sequence[str] | None,
    timeout: float,
) -> tuple[str, ...]:
    """Refuse what cannot be meant, before anything runs; the accepted ids as a tuple."""
    if examples < 0:
        raise ValueError(f"Expected examples to be at least 0 but got {examples}")
    if timeout <= 0:
        raise ValueError(f"Expected timeout to be more than 0 seconds but got {timeout}")
    accept = (accept,) if isinstance(accept, str) or not isinstance(accept, Iterable) else tuple(accept)
    for id in accept:
        if not isinstance(id, str):
            raise TypeError(f"Expected accept to be the id of a convention, or several, but got {id!r}")
    unknown = sorted(set(ndims or ()) - set(kind.ranks))
    if unknown:
        raise ValueError(f"Expected ndims to be some of {kind.ranks} for {kind.name} but got {unknown}")
    strange = sorted(set(dtypes or ()) - set(DTYPES))
    if strange or (dtypes is not None and not dtypes):
        raise ValueError(f"Expected dtypes to be some of {DTYPES} but got {strange}")
    conventions_named(accept)  # refuses what is none
    return accept
