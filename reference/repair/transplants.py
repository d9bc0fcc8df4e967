"""Edits whose text is taken from elsewhere in the same function: what is missing is often written there, for another name.

A row of `RULES` as in `expressions`. Runs nothing.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from reference.repair.site import (
    ATOM,
    POWER,
    PRODUCT,
    SUM,
    Site,
    binds,
    combine,
    is_array,
    is_axes,
    is_number,
    is_numeric,
)
from reference.repair.source import FUNCTIONS, Source
from reference.repair.values import Seen
from reference.repair.vocabulary import Change, Rule, computed, numpy_word, speaks_torch

LONG = 70  # letters of what is transplanted
SMALL = 0.5  # an eps is less
MANY = 60  # expressions that are looked at
_WIDE = ("float32", "float64")


def elsewhere(site: Site) -> Iterator[Change]:
    """Another expression of the function, of the same shape, or as a term more."""
    if not is_numeric(site.value) or isinstance(site.parent, ast.Compare):
        return
    for node, value in _others(site):
        text, level = site.text(node), binds(node)
        if np.shape(value) == np.shape(site.value):
            yield text, level, 2.6 + 0.03 * len(text)
        if computed(site) and is_array(value) and combine(value, site.value) == np.shape(site.value):
            if not (isinstance(site.parent, ast.BinOp) and isinstance(site.parent.op, (ast.Add, ast.Sub))):
                own, term = site.text(site.node, SUM), site.text(node, PRODUCT)
                yield f"{own} - {term}", SUM, 3.4 + 0.03 * len(text)
                yield f"{own} + {term}", SUM, 3.4 + 0.03 * len(text)
            if not (isinstance(site.parent, ast.BinOp) and isinstance(site.parent.op, (ast.Mult, ast.Div))):
                own, other = site.text(site.node, PRODUCT), site.text(node, ATOM)
                yield f"{own} * {other}", PRODUCT, 3.2 + 0.03 * len(text)
                yield f"{own} / {other}", PRODUCT, 3.3 + 0.03 * len(text)


def whole_numbers(site: Site) -> Iterator[Change]:
    """An index or a size by another quotient, or a number more or less."""
    node = site.node
    if isinstance(site.value, (int, np.integer)) and not isinstance(site.value, bool) and not computed(site):
        own = site.text(node, SUM)
        for text, value in site.names.items():
            if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
                yield f"{own} - {text}", SUM, 2.4
                yield f"{own} + {text}", SUM, 2.5
        yield f"{own} - 1", SUM, 2.3
        yield f"{own} + 1", SUM, 2.3
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, (ast.Mod, ast.FloorDiv)):
        return
    left = site.text(node.left, PRODUCT)
    for other, _ in _others(site, whole=True):
        text = site.text(other)
        text = f"({text})" if binds(other) < ATOM else text
        for symbol in ("//", "%"):
            yield f"{left} {symbol} {text}", PRODUCT, 2.2 + 0.03 * len(text)


def products(site: Site) -> Iterator[Change]:
    """A product of matrices for a product with a sum."""
    node = site.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for one, other in ((node.left, node.right), (node.right, node.left)):
            if (
                isinstance(other, ast.Call)
                and isinstance(other.func, ast.Attribute)
                and other.func.attr in ("sum", "mean")
            ):
                method = is_array(site.seen.value(other.func.value))
                if not method and not other.args:
                    continue
                matrix = other.func.value if method else other.args[0]
                yield f"{site.text(matrix, PRODUCT)} @ {site.text(one, ATOM)}", PRODUCT, 3.5
                yield f"{site.text(one, PRODUCT)} @ {site.text(matrix, ATOM)}", PRODUCT, 3.5


def one_pass(site: Site) -> Iterator[Change]:
    """`mean(x**2) - mean**2`, which loses all digits at a large mean, as the variance that it is."""
    node = site.node
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Sub) or not isinstance(node.left, ast.Call):
        return
    call = node.left
    squared = [inner for inner in ast.walk(call) if isinstance(inner, ast.BinOp) and _is_square(inner)]
    if not squared or not isinstance(call.func, ast.Attribute):
        return
    start, end = site.source.span(call)
    first, last = site.source.span(squared[0])
    text = site.source.text
    base = site.text(squared[0].left, ATOM)
    inside = text[start:first] + base + text[last:end]
    inside = re.sub(r"\((" + re.escape(base) + r")\)\.", r"\1.", inside)
    variance = re.sub(r"\.mean\(", ".var(", inside, count=1)
    if speaks_torch(site.source):  # whose var divides by n - 1
        variance = f"{variance[:-1]}, unbiased=False)"
    yield variance, ATOM, 3.0


def mean_of_squares(site: Site) -> Iterator[Change]:
    """A variance as the mean of the squares, whose mean stays in."""
    node = site.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "var":
        return
    method = is_array(site.seen.value(node.func.value))
    inner = node.func.value if method else node.args[0]
    start, end = site.source.span(node)
    first, last = site.source.span(inner)
    text, square = site.source.text, f"{site.text(inner, ATOM)}**2"
    if method:
        yield f"({square}).mean{text[site.source.span(node.func)[1] : end]}", ATOM, 2.2
    else:
        yield (text[start:first] + square + text[last:end]).replace(".var(", ".mean(", 1), ATOM, 2.2


def inside_root(site: Site) -> Iterator[Change]:
    """A small number added to a root, which belongs under it."""
    node = site.node
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add) or not is_numeric(site.value):
        return
    small = site.seen.value(node.right)
    if not is_number(small) or not 0 < small < SMALL:
        return
    left, eps, word = node.left, site.text(node.right, SUM), numpy_word(site)
    if isinstance(left, ast.Call) and isinstance(left.func, ast.Attribute) and left.func.attr == "sqrt":
        yield f"{site.text(left.func)}({site.text(left.args[0], SUM)} + {eps})", ATOM, 1.6
    elif isinstance(left, ast.BinOp) and isinstance(left.op, ast.Pow) and site.seen.value(left.right) == 0.5:
        yield f"({site.text(left.left, SUM)} + {eps})**0.5", POWER, 1.6
    yield f"{word}.sqrt({site.text(left, ATOM)}**2 + {eps})", ATOM, 2.8


def _is_square(node: ast.BinOp) -> bool:
    if isinstance(node.op, ast.Pow):
        return isinstance(node.right, ast.Constant) and node.right.value == 2
    return isinstance(node.op, ast.Mult) and ast.dump(node.left) == ast.dump(node.right)


def cast(site: Site) -> Iterator[Change]:
    """Calculated in a wider dtype, or given back in that of another array."""
    if not is_array(site.value) or not isinstance(site.node, (ast.Name, ast.Attribute, ast.BinOp, ast.Call)):
        return
    atom = site.text(site.node, ATOM)
    if speaks_torch(site.source):
        yield f"{atom}.float()", ATOM, 2.4
        yield from ((f"{atom}.to({text}.dtype)", ATOM, 2.8) for text, value in site.names.items() if is_array(value))
        return
    for text, value in site.names.items():
        if is_array(value) and value.dtype.kind == "f":
            yield f"{atom}.astype({text}.dtype)", ATOM, 2.8
        elif isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.floating)):
            yield f"{atom}.astype({text})", ATOM, 2.4
    for word in _WIDE:
        yield f"{atom}.astype(np.{word})", ATOM, 3.0


RULES: tuple[tuple[str, Rule], ...] = (
    ("an expression from elsewhere", elsewhere),
    ("another quotient", whole_numbers),
    ("a product of matrices", products),
    ("another variance", one_pass),
    ("a mean of squares", mean_of_squares),
    ("inside the root", inside_root),
    ("another dtype", cast),
)


@dataclass(frozen=True, eq=False)
class Written:
    """An expression that stands somewhere in the file.

    Attributes:
        node: of the tree. value: what it held. text: of it. names: the variables that it needs. home: its function's node.
    """

    node: ast.expr
    value: Any
    text: str
    names: frozenset[str]
    home: ast.AST


@lru_cache(maxsize=4)
def _written(source: Source, seen: Seen) -> tuple[Written, ...]:
    """The computed expressions of the file that ran, in the order of the text; once for all sites."""
    found = []
    for node, values in seen.values.items():
        if not isinstance(node, (ast.BinOp, ast.Call, ast.Subscript)) or not is_numeric(values[0]):
            continue
        inner = list(ast.walk(node))
        text = source.text_of(node)
        if (
            len(text) > LONG
            or "\n" in text
            or any(isinstance(n, (ast.Lambda, ast.ListComp, ast.GeneratorExp)) for n in inner)
        ):
            continue
        variables = [n for n in inner if isinstance(n, ast.Name)]
        names = {n.id for n in variables if is_numeric(seen.value(n)) or is_axes(seen.value(n))}
        home = next(above for above in source.ancestors(node) if isinstance(above, FUNCTIONS))
        found.append(Written(node, values[0], text, frozenset(names), home))
    return tuple(found)


def _others(site: Site, whole: bool = False) -> Iterator[tuple[ast.expr, Any]]:
    """The computed expressions of the file whose names are all in scope here, each text once, the function's own first."""
    known: set[str] = {site.own}
    own = site.source.functions[site.key]
    entries = _written(site.source, site.seen)
    for entry in (*(e for e in entries if e.home is own), *(e for e in entries if e.home is not own)):
        if whole and not (is_number(entry.value) and isinstance(entry.value, (int, np.integer))):
            continue
        if entry.text in known or not all(name in site.names for name in entry.names):
            continue
        known.add(entry.text)
        if len(known) > MANY:
            return
        yield entry.node, entry.value
