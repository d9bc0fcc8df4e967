"""A mistake by its name: what the diagnosis returns and a report shows. Plain data, and how it is made of an entry."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from reference.diagnosis.faults import FAULTS, Fault
from reference.kinds import Kind


@dataclass(frozen=True)
class NamedFault:
    """A mistake by its name, or an honest "unknown".

    Attributes:
        id: as in the dictionary, or "unknown".
        kind: "mistake", "convention" or "hazard".
        quantities: those that it spoils here.
        summary, fix: what is wrong and what to do about it, one sentence each. wrong, right: the two formulas.
        evidence: what makes us say so.
        alternatives: what would give the same numbers just as well, and is no other mistake beside this one: an id, or
            several that do so together, as "id with id".
    """

    id: str
    kind: str
    quantities: tuple[str, ...]
    summary: str
    fix: str
    evidence: str
    wrong: str = ""
    right: str = ""
    alternatives: tuple[str, ...] = ()


def entry(fault: Fault, quantities: Iterable[str], evidence: str, alternatives: tuple[str, ...] = ()) -> NamedFault:
    """An entry of the dictionary, found in a layer."""
    return NamedFault(
        fault.id,
        fault.kind,
        tuple(quantities),
        fault.summary,
        fault.fix,
        evidence,
        fault.wrong,
        fault.right,
        alternatives,
    )


def unknown(quantities: tuple[str, ...], evidence: str, summary: str = "") -> NamedFault:
    """An honest "unknown"."""
    summary = summary or f"No known mistake gives these numbers: {', '.join(quantities)} wrong."
    return NamedFault("unknown", "mistake", quantities, summary, "", evidence)


def in_formulas_of(kind: Kind, cause: NamedFault) -> NamedFault:
    """The same with the formulas as they are for this kind of layer."""
    if cause.id not in FAULTS:
        return cause
    fault = FAULTS[cause.id]
    return replace(cause, wrong=fault.wrong_for(kind), right=fault.right_for(kind), fix=fault.fix_for(kind))


def told_by(experiment: str) -> Fault:
    """The entry that an experiment tells, one of `faults.entry.EXPERIMENTS`."""
    (fault,) = (fault for fault in FAULTS.values() if fault.told_by == experiment)
    return fault
