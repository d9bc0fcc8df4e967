"""Layers written the way strangers write them, with the truth about each: `ROWS`, and `BY_FAULT`, an index of them.

The right ones are in `right/`, and among them those that are right in ordinary use alone. Those with a mistake or a
convention that the dictionary holds, or two of them, are in `wrong/`, in a folder for each layer that they are meant to
be; `unknown/` has those whose mistake it does not hold. The judge is judged with them, so none of it shares code with
`reference` or `npnorm`.
"""

import importlib
import pkgutil

from tests.planted.row import Planted

NAMES = sorted(
    module.name
    for module in pkgutil.walk_packages(__path__, f"{__name__}.")
    if not module.ispkg and module.name not in (Planted.__module__, f"{__name__}.wrong.bases")
)
MODULES = tuple(importlib.import_module(name) for name in NAMES)  # each has its own ROWS
ROWS: tuple[Planted, ...] = tuple(row for module in MODULES for row in module.ROWS)


def _index() -> dict[str, tuple[Planted, ...]]:
    """By each id that is expected of a row, "unknown" too, or is a hazard of it: the rows."""
    ids = sorted({id for row in ROWS for id in row.expected | row.hazards})
    return {id: tuple(row for row in ROWS if id in row.expected | row.hazards) for id in ids}


BY_FAULT = _index()
