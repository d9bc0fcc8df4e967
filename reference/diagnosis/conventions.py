"""The conventions that a user may accept, from their ids to the formula that the layer is then held to."""

from collections.abc import Sequence

import numpy as np

from reference.cases.case import Case
from reference.diagnosis.faults import FAULTS, Constant, Fault, Variant
from reference.subjects.guard import Clock
from reference.subjects.subject import Subject
from reference.truth import exact
from reference.truth.convention import TORCH, Convention
from reference.truth.exact import Changes, merged
from reference.truth.verdict import Trial, judge


def conventions_named(ids: Sequence[str]) -> list[Fault]:
    """The entries of the dictionary that are accepted.

    Raises:
        ValueError: an id is not in the dictionary, or is a mistake and not a convention.
    """
    known = {fault.id: fault for fault in FAULTS.values() if fault.kind == "convention"}
    for id in ids:
        if id not in known:
            raise ValueError(f"Expected the id of a convention but got {id!r}: one of {', '.join(sorted(known))}")
    return [known[id] for id in ids]


def accepted_convention(subject: Subject, ids: Sequence[str], designed: Sequence[Case], clock: Clock) -> Convention:
    """What the subject is held to: torch, or torch with the conventions of these ids.

    A convention with a constant of the layer's own is seen first, in some of the designed cases.
    """
    changes: list[Variant] = []
    for fault in conventions_named(ids):
        if fault.constant:
            small = [judge(subject, case, TORCH, clock) for case in designed if case.data == "small"]
            own = own_constant(fault, small, {})
            changes += [own] if own else []
        elif subject.kind.name in fault.layers:
            changes.append(fault.variants[0])
    return Convention(merged(*changes)) if ids else TORCH


def own_constant(fault: Fault, trials: list[Trial], base: Changes) -> dict[str, Constant] | None:
    """The change of a layer that makes `fault` with a constant of its own, seen in its numbers; None if it has none."""
    eps = fixed_eps_of(trials, base)
    return None if eps is None else {fault.constant: Constant(eps)}


def fixed_eps_of(trials: list[Trial], base: Changes) -> float | None:
    """The eps that a layer's outputs were made with, if it is one and the same whatever was asked for; else None."""
    estimates = []
    for trial in trials:
        case, y = trial.case, trial.seen.outcome.get("y")
        if y is None or case.data != "small" or case.dtype != "float64" or not case.training:
            continue
        last = exact.passes(case, base)[-1]
        if y.size != last.x.size:
            return None
        with np.errstate(all="ignore"):
            xhat = (y.reshape(last.view.shape) - last.beta) / last.gamma
            rstd = np.abs(xhat / last.centred).astype(np.float64)
            per_row = np.median(rstd, axis=last.view.axes, keepdims=True) if last.view.axes else rstd
            estimates.append(float(np.median(1 / per_row**2 - last.var.astype(np.float64))))
    if not estimates or not np.isfinite(estimates).all():
        return None
    eps = float(f"{np.median(estimates):.2g}")
    agree = all(abs(estimate - eps) <= 1e-4 * abs(eps) for estimate in estimates)
    return eps if eps > 1e-16 and agree else None
