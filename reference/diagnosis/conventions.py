"""The conventions that a user may accept, from their ids to the formula that the layer is then held to."""

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from reference.cases.case import Case
from reference.diagnosis.faults import FAULTS, Constant, Fault, Variant
from reference.diagnosis.named import told_by
from reference.subjects.guard import Clock
from reference.subjects.judged import Judged
from reference.truth import exact
from reference.truth.convention import TORCH, Convention
from reference.truth.exact import Changes, merged
from reference.truth.verdict import Trial, judge

IN_BETWEEN = 4.0  # roundings of the terms, at most, of a layer that rounds in between in 16 bits and is right otherwise
SMALL = 1500  # numbers of x in all calls, of the cases that tell which way a convention is followed


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


def accepted_convention(subject: Judged, ids: Sequence[str], designed: Sequence[Case], clock: Clock) -> Convention:
    """What the subject is held to: torch, or torch with the conventions of these ids.

    A convention with a constant of the layer's own is seen first, in some of the designed cases; and so is which way
    the layer goes, of one that can be followed in several.
    """
    asked = {fault.id for fault in conventions_named(ids)}
    # in the dictionary's order, whatever the order of the ids: a later change starts from what an earlier one made
    faults = [fault for fault in FAULTS.values() if fault.id in asked and subject.kind.name in fault.layers]
    changes: dict[str, Variant] = {fault.id: fault.variants[0] for fault in faults if fault.variants}
    for fault in faults:
        if fault.constant:
            telling = [judge(subject, case, TORCH, clock) for case in designed if _tells_eps(fault, case)]
            own = own_constant(fault, telling, merged(*changes.values()))
            changes |= {fault.id: own} if own else {}
    for fault in faults:
        if fault.ways > 1:
            ways = [changes | {fault.id: variant} for variant in fault.variants[: fault.ways]]
            changes = min(ways, key=lambda way: _disagreements(subject, designed, way.values(), clock))
    roundings = IN_BETWEEN if told_by("rounding").id in asked else 0.0
    return Convention(merged(*changes.values()), roundings) if ids else TORCH


def _disagreements(subject: Judged, designed: Sequence[Case], changes: Iterable[Variant], clock: Clock) -> int:
    """How many quantities are wrong in a few plain cases of each mode, of a subject held to these changes."""
    convention = Convention(merged(*changes))
    plain = [c for c in designed if c.dtype == "float64" and c.data == "unit" and prod(c.shape) * c.calls <= SMALL]
    modes = {(case.training, case.calls, case.options.get("momentum")): case for case in reversed(plain)}
    return sum(len(judge(subject, case, convention, clock).wrong) for case in modes.values())


def own_constant(fault: Fault, trials: list[Trial], base: Changes) -> dict[str, Constant] | None:
    """The change of a layer that makes `fault` with a constant of its own, seen in its numbers; None if it has none."""
    eps = fixed_eps_of(fault, trials, base)
    return None if eps is None else {fault.constant: Constant(eps, fault.where)}


def _tells_eps(fault: Fault, case: Case) -> bool:
    """Whether an eps of the layer's own shows in its output here: where it is used, beside a variance not too large."""
    if case.dtype != "float64" or not case.training:
        return False
    # one that is used in few cases is looked for in all of them
    return case.data == "small" if fault.where is None else fault.where(case) and case.data in ("small", "unit")


def fixed_eps_of(fault: Fault, trials: list[Trial], base: Changes) -> float | None:
    """The eps that a layer's outputs were made with, if it is one and the same wherever `fault` applies; else None."""
    estimates = []
    for trial in trials:
        case, y = trial.case, trial.seen.outcome.get("y")
        if y is None or not _tells_eps(fault, case):
            continue
        last = exact.passes(case, base)[-1]
        if y.size != last.x.size:
            return None
        with np.errstate(all="ignore"):
            xhat = (y.reshape(last.view.shape) - last.beta) / last.gamma
            rstd = np.abs(xhat / last.centred).astype(np.float64)
            per_row = np.median(rstd, axis=last.view.axes, keepdims=True) if last.view.axes else rstd
            if "rstd" in base:
                estimates.append(_eps_that_gives(float(np.median(per_row)), case, base))
            else:
                estimates.append(float(np.median(1 / per_row**2 - last.var.astype(np.float64))))
    if not estimates or not np.isfinite(estimates).all():
        return None
    eps = float(f"{np.median(estimates):.2g}")
    agree = all(abs(estimate - eps) <= 1e-4 * abs(eps) for estimate in estimates)
    return eps if eps > 1e-16 and agree else None


def _eps_that_gives(rstd: float, case: Case, base: Changes) -> float:
    """The eps with which the formula has this rstd, in the median, whatever its formula is; by bisection."""
    low, high = -18.0, 1.0  # powers of ten
    for _ in range(60):
        middle = (low + high) / 2
        found = exact.passes(case, merged(base, {"eps": Constant(10**middle)}))[-1].rstd
        low, high = (middle, high) if float(np.median(found.astype(np.float64))) > rstd else (low, middle)
    return float(10 ** ((low + high) / 2))
