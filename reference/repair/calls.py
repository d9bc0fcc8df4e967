"""Edits of a call, an index or an axis: a row of `RULES` for each way in which one is written wrong, as in `expressions`.

Knows the names of NumPy's functions and their arguments; runs nothing.
"""

import ast
from collections.abc import Iterator
from typing import Any

import numpy as np

from reference.repair.site import (
    ATOM,
    PRODUCT,
    Site,
    is_array,
    is_axes,
    is_number,
)
from reference.repair.values import MISSING
from reference.repair.vocabulary import AXES, KEPT, REDUCTIONS, Change, Rule, axis_texts, counts, is_axis, speaks_torch

_FUNCTIONS: dict[str, tuple[str, ...]] = {  # by the name of a function or method, others with such arguments
    "mean": ("sum", "var", "prod", "max", "std"),
    "sum": ("mean", "prod", "max", "var"),
    "nansum": ("sum",),
    "nanmean": ("mean",),
    "median": ("mean", "sum"),
    "average": ("mean", "sum"),
    "prod": ("sum", "mean"),
    "var": ("std", "mean"),
    "std": ("var", "mean"),
    "max": ("min", "mean", "sum"),
    "min": ("max", "mean"),
    "amax": ("mean",),
    "maximum": ("minimum", "add"),
    "minimum": ("maximum",),
    "sqrt": ("square", "abs", "reciprocal", "rsqrt"),
    "rsqrt": ("sqrt", "reciprocal"),
    "square": ("sqrt", "abs"),
    "abs": ("square", "sqrt"),
    "cbrt": ("sqrt",),
    "exp": ("sqrt", "square"),
    "log": ("sqrt",),
    "reciprocal": ("sqrt",),
    "zeros": ("ones",),
    "ones": ("zeros",),
    "zeros_like": ("ones_like",),
    "ones_like": ("zeros_like",),
    "add": ("subtract", "multiply"),
    "subtract": ("add",),
    "multiply": ("divide", "add"),
    "divide": ("multiply",),
    "true_divide": ("multiply",),
    "cumsum": ("sum",),
    "swapaxes": ("reshape",),
    "repeat": ("tile",),
    "tile": ("repeat",),
    "float16": ("float32", "float64"),
    "float32": ("float64",),
}

_NUMPYS = ("keepdims", "axis", "ddof=1")
_DIVISORS = ("ddof", "unbiased", "correction")


def function(site: Site) -> Iterator[Change]:
    """Another function for one with such arguments."""
    node = site.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    start, end = site.source.span(node)
    name_end = site.source.span(node.func)[1]
    name_start = name_end - len(node.func.attr)
    for other in _FUNCTIONS.get(node.func.attr, ()):
        text = site.source.text[start:name_start] + other + site.source.text[name_end:end]
        yield text, ATOM, 1.0 + 0.1 * _FUNCTIONS[node.func.attr].index(other)


def axes(site: Site) -> Iterator[Change]:
    """Other axes for those of a reduction, other numbers for those of a tuple."""
    if not is_axis(site):
        return
    held = site.value
    for text, value in axis_texts(site):
        if value is MISSING or not _same(value, held):
            yield text, ATOM, 1.6 + 0.15 * text.count(",") + 0.3 * ("(" in text and "range" in text)


def arguments(site: Site) -> Iterator[Change]:
    """keepdims, ddof, axis added, changed or left out; arguments swapped."""
    node = site.node
    if not isinstance(node, ast.Call):
        return
    start, end = site.source.span(node)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    reduces = name in REDUCTIONS
    for keyword in node.keywords:
        if keyword.arg and keyword.arg in (*KEPT, *AXES, *_DIVISORS, "dtype", "out"):
            yield _without_argument(site, keyword), ATOM, 1.3 + 0.4 * (keyword.arg in AXES)
            if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool):
                first, last = site.source.span(keyword.value)
                text = site.source.text[start:first] + str(not keyword.value.value) + site.source.text[last:end]
                yield text, ATOM, 1.0
    given = {keyword.arg for keyword in node.keywords}
    inside = site.source.text[start : end - 1].rstrip().rstrip(",")
    comma = "" if inside.endswith("(") else ", "
    if reduces:
        keep, axis, divisor = ("keepdim", "dim", "unbiased=False") if speaks_torch(site.source) else _NUMPYS
        if not given & {*KEPT}:
            yield f"{inside}{comma}{keep}=True)", ATOM, 1.4
        if not given & {*_DIVISORS} and name in ("var", "std"):
            yield f"{inside}{comma}{divisor})", ATOM, 1.5
        positional = 1 if isinstance(node.func, ast.Attribute) and is_array(site.seen.value(node.func.value)) else 2
        if not given & {*AXES} and len(node.args) < positional:
            for text, _ in axis_texts(site):
                yield f"{inside}{comma}{axis}={text})", ATOM, 1.8 + 0.1 * text.count(",")
                yield f"{inside}{comma}{axis}={text}, {keep}=True)", ATOM, 2.3 + 0.1 * text.count(",")
    if len(node.args) == 2 and not any(isinstance(arg, ast.Starred) for arg in node.args):
        (a, b), (c, d) = map(site.source.span, node.args)
        text = site.source.text
        yield text[start:a] + text[c:d] + text[b:c] + text[a:b] + text[d:end], ATOM, 1.8


def index(site: Site) -> Iterator[Change]:
    """Other places of a shape, other shapes of an array."""
    node = site.node
    if isinstance(node, ast.Subscript) and is_axes(site.seen.value(node.value)) and is_number(site.value):
        base = site.text(node.value)
        for at in ("0", "1", "2", "3", "-1"):
            yield f"{base}[{at}]", ATOM, 1.1
    if is_number(site.value) and isinstance(node, (ast.Subscript, ast.Attribute, ast.Call)):
        for text in counts(site):
            yield text, ATOM if "/" not in text else PRODUCT, 1.8 + 0.3 * ("/" in text)
    if is_array(site.value) and site.value.ndim:
        yield from _reshaped(site)


def _reshaped(site: Site) -> Iterator[Change]:
    """An array with an axis of one more, or in the shape of another."""
    atom, held = site.text(site.node, ATOM), site.value
    for inserted in ("[:, None]", "[..., None]", "[None, :]", "[None]")[: {1: 4, 2: 2, 3: 2}.get(held.ndim, 0)]:
        yield atom + inserted, ATOM, 2.2
    handed_on = isinstance(site.parent, (ast.Return, ast.Assign, ast.Tuple, ast.keyword, ast.Call))
    for text, value in site.names.items():
        if is_axes(value) and (int(np.prod(value)) == held.size or -1 in value):
            yield f"{atom}.reshape({text})", ATOM, 2.6
        elif is_array(value) and value.size == held.size and (value.shape != held.shape or handed_on):
            yield f"{atom}.reshape({text}.shape)", ATOM, 2.6 + 0.2 * (value.shape == held.shape)
    yield f"{atom}.T", ATOM, 2.8


def _without_argument(site: Site, keyword: ast.keyword) -> str:
    """A call without one of its keyword arguments."""
    text = site.source.text
    start, end = site.source.span(site.node)
    first, last = site.source.span(keyword)
    before, after = text[start:first].rstrip(), text[last:end]
    if before.endswith(","):
        return before[:-1].rstrip() + after
    return before + after.lstrip().removeprefix(",").lstrip()


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other) and type(one) is type(other)
    except ValueError:
        return False


RULES: tuple[tuple[str, Rule], ...] = (
    ("another function", function),
    ("other axes", axes),
    ("other arguments", arguments),
    ("another index", index),
)
