"""The dictionary of known mistakes: one table, which tests plant, the diagnosis accuses with, and the README lists.

Each entry is a small change to the one shared formula of `reference.exact`, or, where no number is wrong, a thing that
a layer does. The table holds data alone: how an entry is recognised is `reference.diagnose`'s business.
"""

from reference.diagnosis.faults import forward, input_gradient, parameter_gradients, state
from reference.diagnosis.faults.entry import Constant, Fault, Variant

FAULTS: dict[str, Fault] = {
    entry.id: entry for module in (forward, input_gradient, parameter_gradients, state) for entry in module.ENTRIES
}

__all__ = ["FAULTS", "Constant", "Fault", "Variant"]
