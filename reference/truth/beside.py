"""What torch's own layers give in a case, and how far that is from the exact values: the figures beside a layer's own.

They decide nothing, torch takes a second to import, and its figures do not depend on who is judged: in the cases of an
earlier run they are had without it (`reference.truth.remembered`). Knows cases and truths; must not know subjects, nor what
is wrong with one.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from reference.cases.case import Array, Case
from reference.truth.compare import compare
from reference.truth.exact import QUANTITIES, Truth
from reference.truth.remembered import Errors, memory
from reference.truth.tolerance import tolerance_of


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, if it is there: on arrays this small, handing work to others costs more than the work."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "get_num_threads"):  # not imported, or just being so
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def outcome_of_torch(case: Case) -> dict[str, Array]:
    """The quantities of torch's own layer in the last call of `case`, as NumPy's arrays.

    Of the calls before it those are made that leave something behind: where there are running statistics.
    """
    from reference.truth.torch_layers import LAYERS  # imports torch

    with one_thread():
        layer = LAYERS[case.kind.name](**case.options)
        layer.gamma, layer.beta = case.parameters()
        for call in range(0 if case.tracks else case.calls - 1, case.calls):
            x, dy = case.arrays(call)
            layer.training = case.training_in(call)
            y = layer.forward(x)
        found = {"y": y, "dx": layer.backward(dy), "dgamma": layer.dgamma, "dbeta": layer.dbeta}
        found |= {"running_mean": layer.running_mean, "running_var": layer.running_var}
    return {name: array for name, array in found.items() if array is not None}


def torch_errors(case: Case, truth: Truth) -> Errors:
    """How far torch's quantities are from the exact ones; from memory, where there is one that has them."""
    kept = memory()
    errors = kept.recalled(case) if kept else None
    if errors is None:
        errors = _measured(case, truth)
        if kept:
            kept.keep(case, errors)
    return errors


def _measured(case: Case, truth: Truth) -> Errors:
    errors, torch = {}, outcome_of_torch(case)
    for name in QUANTITIES:
        if name in truth.exact and name in torch:
            tolerance = tolerance_of(name, truth.conditioning, case.dtype)
            errors[name] = compare(name, torch[name], truth.exact[name], truth.scale[name], case.dtype, tolerance).error
    return errors
