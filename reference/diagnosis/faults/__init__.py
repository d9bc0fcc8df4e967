"""The dictionary of known mistakes: one table, which tests plant, the diagnosis accuses with, and the README lists.

Each entry is a small change to the one shared formula of `reference.truth.exact`, or, where no number is wrong, a thing
that a layer does. The table holds data alone: how an entry is recognised is the business of the modules above it.
"""

from collections.abc import Iterable

from reference.diagnosis.faults import (
    affine,
    axes,
    calls,
    eval_mode,
    input_gradient,
    memory,
    parameter_gradients,
    protocol,
    running_statistics,
    statistics,
)
from reference.diagnosis.faults.entry import Constant, Fault, Variant

# The headings under which a reader finds the entries.
SECTIONS: dict[str, tuple[Fault, ...]] = {
    "Statistics and forward": (*statistics.ENTRIES, *axes.ENTRIES, *affine.ENTRIES),
    "Input gradient": input_gradient.ENTRIES,
    "Parameter gradients": parameter_gradients.ENTRIES,
    "State, memory, dtype": (*running_statistics.ENTRIES, *eval_mode.ENTRIES, *calls.ENTRIES, *memory.ENTRIES),
    "Protocol and defaults": protocol.ENTRIES,
}


def table(entries: Iterable[Fault]) -> dict[str, Fault]:
    """The entries by their ids.

    Raises:
        ValueError: two have the same id, or one covers an id that there is not.
    """
    found: dict[str, Fault] = {}
    for entry in entries:
        if entry.id in found:
            raise ValueError(f"{entry.id}: Expected an id of its own but got one that another entry has")
        found[entry.id] = entry
    for entry in found.values():
        for id in entry.covers:
            if id not in found:
                raise ValueError(f"{entry.id}: Expected to cover an id of the dictionary but got {id!r}")
    return found


FAULTS = table(entry for entries in SECTIONS.values() for entry in entries)

__all__ = ["FAULTS", "SECTIONS", "Constant", "Fault", "Variant", "table"]
