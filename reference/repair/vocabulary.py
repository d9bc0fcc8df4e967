"""The words of the formula, and what may be written at a place for a count, an axis, an array.

Knows names and what they hold; no edits.
"""

import ast
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from reference.repair.site import (
    Site,
    is_array,
    is_axes,
    is_number,
    is_numeric,
)
from reference.repair.source import Source
from reference.repair.values import MISSING

Change = tuple[str, int, float]  # a text, how tightly it binds, what it costs
Rule = Callable[[Site], Iterator[Change]]
VOCABULARY = {  # words of the formula, plainer than other names
    "gamma", "weight", "beta", "bias", "std", "inv_std", "rstd", "istd", "ivar", "inv_var", "var", "eps", "mean", "mu",
    "n", "m", "N", "M", "D", "x_hat", "xhat", "x_norm", "x_mu", "xmu", "centred", "dxhat", "momentum", "count", "size",
}  # fmt: skip
REDUCTIONS = {
    "mean",
    "sum",
    "var",
    "std",
    "prod",
    "max",
    "min",
    "average",
    "median",
    "amax",
    "nansum",
    "nanmean",
    "any",
}
_NO_CALL = {"reshape", "astype", "range", "tuple", "len", "int", "print", "isinstance", "append", "zip", "enumerate"}


AXES = ("axis", "axes", "dim")  # what an argument of axes is called, in NumPy and in torch
KEPT = ("keepdims", "keepdim")


def word_cost(text: str) -> float:
    """What a name costs: a word of the formula less than another."""
    return 0.0 if text.removeprefix("self.") in VOCABULARY else 0.3


def computed(site: Site) -> bool:
    """Whether an expression is a number or an array that is calculated with, and not a size, an index or an argument."""
    if not is_numeric(site.value):
        return False
    parent = site.parent
    if isinstance(parent, (ast.Subscript, ast.Slice, ast.Tuple)) and not is_array(site.value):
        return False
    if isinstance(parent, ast.Attribute) and is_array(site.value):
        return parent.attr in REDUCTIONS or parent.attr in ("reshape", "astype", "copy", "dot", "transpose")
    if isinstance(parent, ast.Call) and isinstance(site.value, int):
        name = parent.func.attr if isinstance(parent.func, ast.Attribute) else getattr(parent.func, "id", "")
        return name not in _NO_CALL
    return not is_axis(site)


def is_axis(site: Site) -> bool:
    if isinstance(site.parent, ast.keyword):
        return site.parent.arg in AXES
    if isinstance(site.parent, ast.Call) and isinstance(site.parent.func, ast.Attribute):
        called = site.parent.func
        if called.attr not in REDUCTIONS or site.node not in site.parent.args:
            return False
        return site.parent.args.index(site.node) == (0 if is_array(site.seen.value(called.value)) else 1)
    if isinstance(site.parent, ast.Assign) and isinstance(site.value, (tuple, int)):
        target = site.parent.targets[0]
        word = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        return any(part in word.lower() for part in ("ax", "dim"))
    return is_axes(site.value) and isinstance(site.node, (ast.Tuple, ast.Call)) and isinstance(site.parent, ast.Return)


def axis_texts(site: Site) -> Iterator[tuple[str, Any]]:
    """Axes as they may be written here, the plain ones first, with what they hold where that is known."""
    plain: list[Any] = [
        0,
        1,
        -1,
        (0, 1),
        (0, 2),
        (1, 2),
        (0, 2, 3),
        (1, 2, 3),
        (2, 3),
        (-2, -1),
        2,
        (0, 1, 2),
        (2, 3, 4),
        (3, 4),
        None,
    ]
    yield from ((str(value), value) for value in plain)
    for text, value in site.names.items():
        if is_axes(value):
            yield text, value
    for array in main_arrays(site):
        for inner in (
            f"tuple(range(1, {array}.ndim))",
            f"tuple(range(2, {array}.ndim))",
            f"(0, *range(2, {array}.ndim))",
        ):
            yield inner, MISSING
        yield f"tuple(range({array}.ndim - 1))", MISSING
        for name in site.names:
            if name.removeprefix("self.") in ("gamma", "weight", "g") and is_array(site.names[name]):
                yield f"tuple(range({array}.ndim - {name}.ndim))", MISSING
                yield f"tuple(range(-{name}.ndim, 0))", MISSING
            if "shape" in name and isinstance(site.names[name], tuple):
                yield f"tuple(range({array}.ndim - len({name})))", MISSING
                yield f"tuple(range(-len({name}), 0))", MISSING
    seen: set[str] = set()
    for node in ast.walk(site.source.functions[site.key]):
        if isinstance(node, ast.keyword) and node.arg in AXES:
            text = site.source.text_of(node.value)
            if text not in seen and text != site.own:
                seen.add(text)
                yield text, site.seen.value(node.value)


def main_arrays(site: Site) -> list[str]:
    """The arrays of the largest size that have a plain name here, at most two: x, dy."""
    arrays = {text: value for text, value in site.names.items() if is_array(value) and "." not in text}
    most = max((value.size for value in arrays.values()), default=0)
    return [text for text, value in arrays.items() if value.size == most and value.ndim > 1][:2]


def counts(site: Site) -> list[str]:
    """How many numbers there are, as it may be written here."""
    found = []
    for array in main_arrays(site)[:1]:
        ndim = site.names[array].ndim
        size = "numel()" if speaks_torch(site.source) else "size"
        found += [f"{array}.shape[0]", f"{array}.shape[1]", f"{array}.shape[-1]", f"{array}.{size}"]
        found += [f"{array}.{size} // {array}.shape[1]", f"{array}[0].{size}"] if ndim > 1 else []
    return found


def entries(site: Site) -> list[str]:
    """In a loop, the entry of each parameter or statistic that belongs to it, as it may be written here."""
    loops = [above for above in site.source.ancestors(site.node) if isinstance(above, (ast.For, ast.comprehension))]
    indices = {
        name.id
        for loop in loops
        for name in ast.walk(loop.target)
        if isinstance(name, ast.Name) and is_number(site.names.get(name.id))
    }
    arrays = [text for text, value in site.names.items() if is_array(value) and value.ndim == 1]
    return [f"{array}[{index}]" for array in arrays for index in sorted(indices)]


@lru_cache(maxsize=4)
def speaks_torch(source: Source) -> bool:
    """Whether the file's arrays are torch's tensors: it imports torch, and no NumPy."""
    imported = {alias.name for node in ast.walk(source.tree) if isinstance(node, ast.Import) for alias in node.names}
    return "torch" in imported and "numpy" not in imported


def numpy_word(site: Site) -> str:
    """What the file calls NumPy, or torch, whose functions and methods take NumPy's words for their arguments too."""
    if speaks_torch(site.source):
        return "torch"
    for node in ast.walk(site.source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "numpy":
                    return alias.asname or alias.name
    return "np"
