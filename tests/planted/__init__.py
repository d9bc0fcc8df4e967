"""Layers written the way strangers write them, right and wrong, with the truth about each: `ROWS`.

The judge is judged with them, so none of it shares code with `reference` or `npnorm`.
"""

import importlib
import pkgutil

from tests.planted.row import Planted


def _collected() -> tuple[tuple[str, Planted], ...]:
    """(module, row) of every row, in the order of the modules' names."""
    names = sorted(module.name for module in pkgutil.walk_packages(__path__, f"{__name__}.") if not module.ispkg)
    modules = {name: importlib.import_module(name) for name in names}
    return tuple((name, row) for name, module in modules.items() for row in getattr(module, "ROWS", ()))


ROWS = _collected()
