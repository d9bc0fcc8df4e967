"""What is missing at an expression, read off from values: what it would have to be, over what it is.

Where the result depends on an expression in a straight line, two runs tell the line, and so the factor or the term that
would make the result right. If that is a product of powers of what is known there, it can be written down. Each such text
is only a candidate like any other: it still has to pass everything.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.cases.case import Array
from reference.repair.site import ATOM, PRODUCT, SUM, Site, binds, is_array, is_number, is_numeric
from reference.repair.source import FUNCTIONS
from reference.repair.vocabulary import counts, speaks_torch, word_cost
from reference.subjects.frameworks import in_torch, plain

POWERS = (1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5)
CONSTANTS = {1.0: "", 2.0: "2", 0.5: "0.5", 3.0: "3", 4.0: "4", 0.25: "0.25", 1.5: "1.5", -0.0: ""}
CLOSE = 1e-6  # relative distance at which two values are taken for one: the runs lose some digits
POINTS = 24  # entries of an array that are compared
BEST = 12  # texts for one expression at most


@dataclass(frozen=True, eq=False)
class Known:
    """Something that can be written at an expression: its text, how tightly it binds, its cost, and its value."""

    text: str
    tightly: int
    cost: float
    value: Array


@dataclass(frozen=True)
class Formed:
    """A product of powers of known things, up to a small number: what to write above and below the line."""

    constant: float
    parts: tuple[tuple[Known, float], ...]

    @property
    def cost(self) -> float:
        powers = sum(0.4 * (abs(power) != 1) for _, power in self.parts)
        return sum(1.0 + known.cost for known, _ in self.parts) + powers + 0.6 * (abs(self.constant) != 1)


Run = Callable[[Callable[[Any], Any]], "Array | None"]


def factors_and_terms(
    site: Site, run: Run, now: Array, wanted: Array, scope: dict[str, Any]
) -> Iterator[tuple[str, int, float]]:
    """Texts to stand in the place of an expression, from values.

    Args:
        site: the expression. run: gives the wrong quantity with the expression's value changed. now: the quantity as it
            is. wanted: as it must be. scope: the names of the module, to calculate what could be written.
    """
    known = known_at(site, scope)
    parent = site.parent.op if isinstance(site.parent, ast.BinOp) else None
    above = isinstance(parent, ast.Mult) or (isinstance(parent, ast.Div) and site.node is site.parent.left)  # type: ignore[attr-defined]
    doubled = tripled = None
    if not above and not isinstance(site.parent, ast.UnaryOp):  # a factor is missing from the whole product as well
        doubled, tripled = run(lambda value: value + value), run(lambda value: value + value + value)
    if doubled is not None and tripled is not None and _straight(now, doubled, tripled):
        factor = _solved(1 + _over(wanted - now, doubled - now), site.value, now)
        for formed in _formed(factor, known):
            yield from _as_factor(site, formed)
    if isinstance(parent, (ast.Add, ast.Sub)) or isinstance(site.parent, ast.UnaryOp):
        return  # a term is missing from the whole sum as well
    one, two = run(lambda value: value + 1), run(lambda value: value + 2)
    if one is not None and two is not None and _straight(now, one, two):
        term = _solved(_over(wanted - now, one - now), site.value, now)
        for formed in _formed(term, known):
            yield from _as_term(site, formed)


def _straight(now: Array, one: Array, two: Array) -> bool:
    """Whether two steps change the result twice as much as one."""
    if not now.shape == one.shape == two.shape or not np.isfinite(two).all():
        return False
    size = np.abs(one - now).max(initial=0.0)
    return bool(size > 0 and np.abs(two - 2 * one + now).max() <= CLOSE * size)


def _over(top: Array, bottom: Array) -> Array:
    """A quotient; nan where nothing can be told."""
    small = np.abs(bottom) <= 1e-9 * np.abs(bottom).max()
    return np.where(small, np.nan, top / np.where(small, 1.0, bottom))


def _solved(values: Array, held: Any, result: Array) -> list[Array]:
    """What solves the equation in the shapes in which it can be understood: the expression's own, and the result's."""
    found = []
    shape = np.shape(held)
    if shape != values.shape:
        for view in _views(values, shape):
            own = _constant_over(view, shape)
            if own is not None:
                found.append(own)
                break
    if np.prod(shape, dtype=int) == values.size and shape != values.shape:
        found.append(values.reshape(shape))
    found.append(values)
    return found


def _views(values: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """The values in shapes over which `shape` can be spread."""
    yield values
    if len(shape) == 1 and shape[0] in values.shape:
        yield np.moveaxis(values, values.shape.index(shape[0]), -1)
    if len(shape) == 2 and values.size % max(shape[0], 1) == 0:
        yield values.reshape(shape[0], -1)
        if values.ndim > 1 and shape[0] == values.shape[1]:
            yield np.moveaxis(values, 1, 0).reshape(shape[0], -1)
    if len(shape) == 3 and values.size % max(shape[0] * shape[1], 1) == 0:
        yield values.reshape(shape[0], shape[1], -1)


def _constant_over(values: Array, shape: tuple[int, ...]) -> Array | None:
    """The values of a smaller shape, if they are the same wherever it is spread to; else None."""
    padded = (1,) * (values.ndim - len(shape)) + shape
    if len(padded) != values.ndim or any(s not in (1, v) for s, v in zip(padded, values.shape, strict=True)):
        return None
    axes = tuple(axis for axis, (s, v) in enumerate(zip(padded, values.shape, strict=True)) if s != v)
    with np.errstate(all="ignore"):
        middle = np.nanmedian(values, axis=axes, keepdims=True)
        off = np.nanmax(np.abs(values - middle))
    if not off <= CLOSE * max(float(np.nanmax(np.abs(middle))), 1e-30) or not np.isfinite(middle).all():
        return None
    return middle.reshape(shape)


# --- recognizing a value ----------------------------------------------------------------------------------------------


def _formed(targets: list[Array], known: list[Known]) -> Iterator[Formed]:
    """The plainest products that give one of the targets."""
    found: list[Formed] = []
    for target in targets:
        found += products(target, known)
    yield from sorted(found, key=lambda formed: formed.cost)[:BEST]


def products(target: Array, known: list[Known]) -> list[Formed]:
    """Products of at most two arrays' powers, a number's and a small constant that are `target` wherever it is told."""
    flat = np.ravel(target)
    at = np.flatnonzero(np.isfinite(flat) & (flat != 0))
    if not at.size or np.count_nonzero(np.isfinite(flat)) > at.size + at.size // 4:
        return []
    at = at[:: max(1, at.size // POINTS)][:POINTS]
    goal = np.log(np.abs(flat[at]))
    arrays: list[tuple[Known, Array]] = []
    numbers: list[tuple[Known, float]] = []
    for entry in known:
        try:
            values = np.broadcast_to(entry.value, target.shape).ravel()[at]
        except ValueError:
            continue
        if not np.isfinite(values).all() or (values == 0).any():
            continue
        logs = np.log(np.abs(values))
        if np.ptp(logs) <= CLOSE:
            if abs(logs[0]) > CLOSE:
                numbers.append((entry, float(logs[0])))
        else:
            arrays.append((entry, logs))
    forms = [((entry, power),) for entry, _ in arrays for power in POWERS]
    rows = [power * logs for _, logs in arrays for power in POWERS]
    found: list[Formed] = []
    if np.ptp(goal) <= CLOSE:
        found += _with_number((), float(goal[0]), numbers)
    if rows:
        table = np.array(rows)
        shapes = table - table[:, :1]
        shape = goal - goal[0]
        for index in np.flatnonzero(np.abs(shapes - shape).max(axis=1) <= CLOSE * 10):
            found += _with_number(forms[index], float(goal[0] - table[index, 0]), numbers)
        for one in range(len(rows)):
            left = shape - shapes[one]
            fits = np.flatnonzero(np.abs(shapes[one + 1 :] - left).max(axis=1) <= CLOSE * 10)
            for other in fits[:4] + one + 1:
                if forms[one][0][0] is not forms[other][0][0]:
                    rest = float(goal[0] - table[one, 0] - table[other, 0])
                    found += _with_number((*forms[one], *forms[other]), rest, numbers)
    return [signed for formed in found if (signed := _signed(formed, target, flat, at)) is not None]


def _with_number(
    parts: tuple[tuple[Known, float], ...], rest: float, numbers: list[tuple[Known, float]]
) -> Iterator[Formed]:
    """The product completed by a small constant and a power of a number, if that is all that is missing."""
    for constant in CONSTANTS:
        if constant and abs(rest - np.log(constant)) <= CLOSE:
            yield Formed(constant, parts)
            return
    for entry, log in numbers:
        for power in (1.0, -1.0, 0.5, -0.5, 2.0, -2.0):
            for constant in (1.0, 2.0, 0.5):
                if abs(rest - power * log - np.log(constant)) <= CLOSE:
                    yield Formed(constant, (*parts, (entry, power)))


def _signed(formed: Formed, target: Array, flat: Array, at: Array) -> Formed | None:
    """The product with its sign; None if the signs do not agree everywhere."""
    value = np.full(target.shape, formed.constant)
    with np.errstate(all="ignore"):
        for known, power in formed.parts:
            if power != int(power) and (known.value < 0).any():
                return None
            value = value * np.broadcast_to(known.value, target.shape) ** power
    ratio = np.ravel(value)[at] / flat[at]
    if np.abs(ratio - 1).max() <= CLOSE * 100:
        return formed
    if np.abs(ratio + 1).max() <= CLOSE * 100:
        return Formed(-formed.constant, formed.parts)
    return None


# --- what is known at a place -----------------------------------------------------------------------------------------


def known_at(site: Site, scope: dict[str, Any]) -> list[Known]:
    """What can be written there: names, counts, other expressions of the function, and its sums and means of other things."""
    found: dict[str, Known] = {}

    def add(text: str, tightly: int, cost: float, value: Any) -> None:
        if text not in found and is_numeric(value) and np.size(value):
            found[text] = Known(text, tightly, cost, np.asarray(value, dtype=np.float64))

    deep = max((np.ndim(value) for value in site.names.values() if is_array(value)), default=0)
    for text, value in site.names.items():
        add(text, ATOM, word_cost(text), value)
        if is_array(value) and 1 <= value.ndim < deep:
            add(
                f"{text}[..., None]" if value.ndim > 1 else f"{text}[:, None]",
                ATOM,
                0.4 + word_cost(text),
                value[..., None],
            )
    for text in counts(site):
        add(text, ATOM if "/" not in text else PRODUCT, 0.4 + 0.3 * ("/" in text), _evaluated(text, site, scope))
    for node in ast.walk(site.source.functions[site.key]):
        if isinstance(node, (ast.Call, ast.BinOp, ast.Subscript)) and is_numeric(site.seen.value(node)):
            text = site.text(node)
            if len(text) < 50 and "\n" not in text and _readable(site, node):
                add(text, binds(node), 0.8 + 0.03 * len(text), site.seen.value(node))
    for text, cost in _reductions(site):
        add(text, ATOM, cost, _evaluated(text, site, scope))
    return list(found.values())


def _readable(site: Site, node: ast.AST) -> bool:
    """Whether all names of an expression are there where the site is."""
    for inner in ast.walk(node):
        if isinstance(inner, (*FUNCTIONS, ast.comprehension)):
            return False
        if isinstance(inner, ast.Name) and is_numeric(site.seen.value(inner)) and inner.id not in site.names:
            return False
    return True


def _reductions(site: Site) -> Iterator[tuple[str, float]]:
    """The function's sums and means, of the arrays in scope and of their products."""
    main = [text for text, value in site.names.items() if is_array(value) and value.ndim and value.dtype.kind == "f"]
    most = max((site.names[text].size for text in main), default=0)
    main = [text for text in main if site.names[text].size == most][:7]
    seen: set[str] = set()
    for node in ast.walk(site.source.functions[site.key]):
        if not isinstance(node, ast.Call) or not is_array(site.seen.value(node)) or not _readable(site, node):
            continue
        method = isinstance(node.func, ast.Attribute) and is_array(site.seen.value(node.func.value))
        inner = node.func.value if method else (node.args[0] if node.args else None)  # type: ignore[attr-defined]
        value: Any = site.seen.value(inner)
        if (
            inner is None
            or not is_array(value)
            or (value.size <= site.seen.value(node).size and not _named_function(node))
        ):
            continue
        start, end = site.source.span(node)
        first, last = site.source.span(inner)
        text = site.source.text
        before, after = text[start:first], text[last:end]
        if "\n" in before + after or len(before + after) > 60:
            continue
        before, after = (before.removesuffix("("), after.removeprefix(")")) if method else (before, after)
        if before + "·" + after in seen:
            continue
        seen.add(before + "·" + after)
        for i, one in enumerate(main):
            yield f"{before}{one}{after}", 1.5
            for other in main[i:]:
                product = f"{one} * {other}"
                yield (f"{before}({product}){after}" if method else f"{before}{product}{after}"), 2.0


def _named_function(node: ast.Call) -> bool:
    """Whether what is called may well be a mean of the layer's own."""
    word = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return any(part in word.lower() for part in ("mean", "avg", "average", "sum", "reduce"))


def _evaluated(text: str, site: Site, scope: dict[str, Any]) -> Any:
    """What a text would hold at a site; None if that cannot be calculated."""
    names = {name: value for name, value in site.names.items() if "." not in name}
    owner = scope.get("self")
    if owner is not None:
        names["self"] = owner
    if speaks_torch(site.source):
        names = {name: in_torch(value) for name, value in names.items()}
    try:
        return plain(eval(text, scope, names))  # the layer's own words, in the process that runs the layer
    except Exception:
        return None


# --- writing it down --------------------------------------------------------------------------------------------------


def _as_factor(site: Site, formed: Formed) -> Iterator[tuple[str, int, float]]:
    base = site.text(site.node, PRODUCT)
    if not formed.parts and formed.constant == 1:
        return
    yield _written(formed, base), PRODUCT, 1.2 + formed.cost


def _as_term(site: Site, formed: Formed) -> Iterator[tuple[str, int, float]]:
    term = _written(Formed(abs(formed.constant), formed.parts), "")
    symbol = "-" if formed.constant < 0 else "+"
    if term:
        yield f"{site.text(site.node, SUM)} {symbol} {term}", SUM, 1.4 + formed.cost


def _written(formed: Formed, base: str) -> str:
    """A product as it is written: the base, what multiplies it, what divides it."""
    above = [base] if base else []
    below: list[str] = []
    for known, power in sorted(formed.parts, key=lambda part: -part[0].value.size):  # xhat * mean, not the reverse
        level = ATOM if abs(power) != 1 else PRODUCT + 1
        text = known.text if known.tightly >= level else f"({known.text})"
        exponent = f"{abs(power):g}"
        (above if power > 0 else below).append(text if exponent == "1" else f"{text}**{exponent}")
    sign = "-" if formed.constant < 0 else ""
    number = CONSTANTS[abs(formed.constant)]
    if number:
        above.insert(0, number)
    top = " * ".join(above) or "1"
    return f"{sign}{top}" + "".join(f" / {text}" for text in below)


__all__ = ["factors_and_terms", "is_number", "known_at", "products"]
