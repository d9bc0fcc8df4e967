"""Edits of one expression: a row of `RULES` for each way in which one is written wrong.

A rule gets a site and gives texts to stand in its place, with how tightly they bind and what they cost: about the number
of tokens that change, more where a person would hardly write it. Knows Python; runs nothing.
"""

import ast
from collections.abc import Iterator

import numpy as np

from reference.repair.site import (
    ATOM,
    COMPARED,
    LOOSE,
    POWER,
    PRODUCT,
    SIGNED,
    SUM,
    SYMBOLS,
    Site,
    binds,
    combine,
    is_array,
    is_axes,
    is_number,
    is_numeric,
)
from reference.repair.values import MISSING
from reference.repair.vocabulary import Change, Rule, computed, counts, entries, numpy_word, word_cost

_OTHERS: dict[str, tuple[tuple[str, float], ...]] = {  # by an operator, those that are written for it
    "+": (("-", 1.0), ("*", 1.5), ("/", 2.0)),
    "-": (("+", 1.0), ("*", 1.6), ("/", 2.0)),
    "*": (("/", 1.0), ("+", 1.6), ("-", 1.6), ("**", 2.5), ("@", 2.5)),
    "/": (("*", 1.0), ("+", 2.0), ("-", 2.0), ("//", 2.5)),
    "//": (("*", 1.0), ("/", 1.2), ("%", 1.5), ("-", 2.0)),
    "%": (("//", 1.0), ("/", 2.0)),
    "**": (("*", 1.0), ("/", 1.5)),
    "@": (("*", 1.0),),
}
NOTHING = 0.7  # what it costs more to write what does nothing, as a factor of 1
_BINDS = {"+": SUM, "-": SUM, "**": POWER}
_NUMBERS = ("0", "1", "2", "3", "4", "0.5", "1.5", "-1", "-2", "-0.5", "-1.5", "0.0", "1.0", "2.0")


def operator(site: Site) -> Iterator[Change]:
    node = site.node
    if isinstance(node, ast.BinOp) and (symbol := SYMBOLS.get(type(node.op))):
        for other, cost in _OTHERS[symbol]:
            level = _BINDS.get(other, PRODUCT)
            left = ATOM if other == "**" else level
            right = SIGNED if other == "**" else level + 1
            idle = any(isinstance(side, ast.Constant) and side.value in (0, 1) for side in (node.left, node.right))
            written = f"{site.text(node.left, left)} {other} {site.text(node.right, right)}"
            yield written, level, cost + NOTHING * (idle and other not in "+-")
        if symbol in "-/" or symbol == "**":
            level = binds(node)
            left, right = (ATOM, SIGNED) if symbol == "**" else (level, level + 1)
            yield f"{site.text(node.right, left)} {symbol} {site.text(node.left, right)}", level, 2.0


def dropped(site: Site) -> Iterator[Change]:
    """One operand left out, or a sign, a call, an index."""
    node = site.node
    if isinstance(node, ast.BinOp):
        target = getattr(site.parent, "targets", [None])[0]
        itself = target is not None and ast.unparse(target) == ast.unparse(node.left)  # then nothing would be done
        yield site.text(node.left), binds(node.left), 1.2 + NOTHING * itself
        cost = 1.2 if not isinstance(node.op, (ast.Sub, ast.Div)) else 2.0
        yield site.text(node.right), binds(node.right), 1.4 if isinstance(node.left, ast.Constant) else cost
        if isinstance(node.op, ast.Sub):
            yield f"-{site.text(node.right, SIGNED)}", SIGNED, 1.3
    elif isinstance(node, ast.UnaryOp):
        yield site.text(node.operand), binds(node.operand), 1.0
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and is_array(site.seen.value(node.func.value)):
            yield site.text(node.func.value), binds(node.func.value), 1.5
        elif len(node.args) >= 1 and not isinstance(node.args[0], (ast.Starred, ast.GeneratorExp)):
            yield site.text(node.args[0]), binds(node.args[0]), 1.5
            if len(node.args) == 2 and not isinstance(node.args[1], ast.Starred):
                yield site.text(node.args[1]), binds(node.args[1]), 2.0
    elif isinstance(node, ast.Subscript):
        yield site.text(node.value), binds(node.value), 1.6
    if is_numeric(site.value):  # one name of all that is calculated here
        for inner in ast.walk(node):
            if inner is not node and isinstance(inner, (ast.Name, ast.Attribute)) and is_array(site.seen.value(inner)):
                yield site.text(inner), ATOM, 2.6
    if isinstance(node, ast.IfExp):
        yield site.text(node.body), binds(node.body), 1.5
        yield site.text(node.orelse), binds(node.orelse), 1.5
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield site.text(value), binds(value), 1.5


def sign(site: Site) -> Iterator[Change]:
    if isinstance(site.parent, (ast.Compare, ast.Subscript)):
        return
    whole = isinstance(site.value, int) and isinstance(site.parent, ast.Call) and not isinstance(site.value, bool)
    if (computed(site) or whole) and not isinstance(site.node, (ast.UnaryOp, ast.Constant)):
        yield f"-{site.text(site.node, SIGNED)}", SIGNED, 1.2


def number(site: Site) -> Iterator[Change]:
    node = site.node
    signed = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    constant = node.operand if isinstance(node, ast.UnaryOp) and signed else node
    if isinstance(site.parent, ast.UnaryOp) and isinstance(site.parent.op, ast.USub):
        return  # the number has a sign, which is changed with it
    if not isinstance(constant, ast.Constant) or not is_number(constant.value):
        return
    held = -constant.value if signed else constant.value  # type: ignore[operator]
    for text in _NUMBERS:
        if float(text) != held or ("." in text) != isinstance(held, float):
            whole = isinstance(held, int) == ("." not in text)
            idle = isinstance(site.parent, ast.BinOp) and text in ("0", "1", "0.0", "1.0")
            cost = 1.0 + 0.3 * (not whole) + 0.1 * len(text) + NOTHING * idle
            yield text, SIGNED if text.startswith("-") else ATOM, cost
    for name, value in site.names.items():
        if is_number(value) and (value == held or 0 < abs(value) < 1 or isinstance(value, (int, np.integer))):
            yield name, ATOM, 1.5 + word_cost(name)
            if isinstance(value, (int, np.integer)):
                yield f"{name} - 1", SUM, 2.4 + word_cost(name)
        elif is_array(value) and computed(site) and not value.shape:
            yield name, ATOM, 1.8 + word_cost(name)


def power(site: Site) -> Iterator[Change]:
    """A square, a root or an inverse that is missing."""
    node, parent = site.node, site.parent
    if not computed(site) or isinstance(node, (ast.Constant, ast.UnaryOp)):
        return
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow):
        return
    atom = site.text(node, ATOM)
    for exponent, cost in (("2", 2.0), ("0.5", 2.2), ("3", 2.3), ("-1", 2.5), ("-0.5", 2.6), ("1.5", 2.6), ("-2", 3.0)):
        yield f"{atom}**{exponent}", POWER, cost
    yield f"{numpy_word(site)}.sqrt({site.own})", ATOM, 2.1
    yield f"1 / {site.text(node, POWER)}", PRODUCT, 2.4
    yield f"1 / {numpy_word(site)}.sqrt({site.own})", PRODUCT, 3.0


def name(site: Site) -> Iterator[Change]:
    """A name of the same kind for another, or for an attribute; any for one that does not run."""
    node = site.node
    if not isinstance(node, (ast.Name, ast.Attribute)):
        return
    for text, value in site.names.items():
        if text == site.own:
            continue
        if site.value is MISSING:
            if is_numeric(value) or is_axes(value):
                yield text, ATOM, 2.0 + word_cost(text)
        elif is_array(value) and is_numeric(site.value):
            yield text, ATOM, (1.2 if value.shape == np.shape(site.value) else 1.7) + word_cost(text)
        elif (is_number(value) and is_numeric(site.value)) or (is_axes(value) and is_axes(site.value)):
            yield text, ATOM, 1.3 + word_cost(text)
        elif isinstance(site.value, bool) and (isinstance(value, bool) or is_number(value)):
            yield text, ATOM, 1.3 if isinstance(value, bool) else 1.8
    if is_number(site.value):
        for text in counts(site):
            yield text, ATOM if "/" not in text else PRODUCT, 2.0 + 0.2 * text.count(".")


def factor(site: Site) -> Iterator[Change]:
    """A factor, a divisor or a term of the names in scope that is missing."""
    if not computed(site) or isinstance(site.node, ast.Constant):
        return
    held = site.value
    parent_op = type(site.parent.op) if isinstance(site.parent, ast.BinOp) else None
    inner = parent_op in (ast.Mult, ast.Div) and not (
        isinstance(site.parent, ast.BinOp) and site.parent.right is site.node and parent_op is ast.Div
    )
    operands = [(text, value, word_cost(text)) for text, value in site.names.items() if is_numeric(value)]
    operands += [(text, 1, 0.5 + 0.3 * ("/" in text)) for text in counts(site)]
    operands += [(text, 1, 0.6) for text in entries(site)]
    product, plain = site.text(site.node, PRODUCT), site.text(site.node, SUM)
    for text, value, cost in operands:
        shape = combine(held, value)
        if shape is None or (len(shape) > max(np.ndim(held), 1) and is_array(held) and np.ndim(held)):
            continue
        cost += 0.8 * (shape != np.shape(held))
        if not inner:
            tight = f"({text})" if "/" in text else text
            yield f"{product} * {tight}", PRODUCT, 2.0 + cost
            yield f"{product} / {tight}", PRODUCT, 2.0 + cost
            yield f"{tight} / {site.text(site.node, PRODUCT + 1)}", PRODUCT, 2.4 + cost
        if parent_op not in (ast.Add, ast.Sub):
            yield f"{plain} + {text}", SUM, 2.2 + cost
            yield f"{plain} - {text}", SUM, 2.2 + cost
            yield f"{text} - {site.text(site.node, SUM + 1)}", SUM, 2.5 + cost
    if not inner:
        for text in ("2", "0.5"):
            yield f"{text} * {product}", PRODUCT, 2.2
    if parent_op not in (ast.Add, ast.Sub):
        yield f"{plain} + 1", SUM, 2.4
        yield f"{plain} - 1", SUM, 2.2
        yield f"1 - {site.text(site.node, PRODUCT)}", SUM, 1.8


def objects(site: Site) -> Iterator[Change]:
    """A factor or a term of things that calculate but are no arrays: nodes of a tape."""
    held = site.value
    if held is MISSING or type(held).__module__ == "builtins" or not hasattr(held, "__mul__") or is_numeric(held):
        return
    for text, value in site.names.items():
        if type(value) is type(held):
            product, plain = site.text(site.node, PRODUCT), site.text(site.node, SUM)
            yield text, ATOM, 1.5
            yield f"{text} * {site.text(site.node, PRODUCT + 1)}", PRODUCT, 2.2
            yield f"{product} / {text}", PRODUCT, 2.4
            yield f"{text} - {site.text(site.node, SUM + 1)}", SUM, 2.2
            yield f"{plain} + {text}", SUM, 2.2
            yield f"{plain} - {text}", SUM, 2.3


def besides(site: Site) -> Iterator[Change]:
    """`n / (n - 1)` and the like, where a count is."""
    if not computed(site) or isinstance(site.node, ast.Constant):
        return
    if isinstance(site.parent, ast.BinOp) and isinstance(site.parent.op, (ast.Mult, ast.Div)):
        return
    product = site.text(site.node, PRODUCT)
    whole = [
        text
        for text, value in site.names.items()
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    ]
    for text in [*whole, *(t for t in counts(site) if "/" not in t)]:
        yield f"{product} * {text} / ({text} - 1)", PRODUCT, 4.0
    for text in [t for t in counts(site) if "//" in t]:
        yield f"{product} * ({text}) / ({text} - 1)", PRODUCT, 5.0


def condition(site: Site) -> Iterator[Change]:
    """A condition negated, a comparison turned, `and` for `or`, a flag for another."""
    node = site.node
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        turned = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
        turned |= {ast.Is: "is not", ast.IsNot: "is"}
        for kind, symbol in turned.items():
            if isinstance(node.ops[0], kind):
                left, right = site.text(node.left), site.text(node.comparators[0])
                yield f"{left} {symbol} {right}", COMPARED, 1.0
    if isinstance(node, ast.BoolOp):
        word = " or " if isinstance(node.op, ast.And) else " and "
        yield word.join(site.text(value, COMPARED) for value in node.values), LOOSE, 1.0
    tests = isinstance(site.parent, (ast.If, ast.IfExp, ast.While)) and site.parent.test is node
    if tests or isinstance(site.value, bool):
        yield f"not {site.text(node, COMPARED)}", LOOSE, 1.2
        for text, value in site.names.items():
            if isinstance(value, bool) and text != site.own:
                yield f"{site.text(node, COMPARED)} and {text}", LOOSE, 2.0
                yield f"{site.text(node, COMPARED)} or not {text}", LOOSE, 2.4
    if isinstance(node, ast.IfExp):
        yield (
            f"{site.text(node.orelse, COMPARED)} if {site.text(node.test, COMPARED)} else {site.text(node.body, COMPARED)}",
            LOOSE,
            1.5,
        )
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield str(not node.value), ATOM, 1.0


def order(site: Site) -> Iterator[Change]:
    """Two of what is returned or unpacked together, in the other order."""
    node = site.node
    if isinstance(node, ast.Tuple) and 2 <= len(node.elts) <= 6 and not is_axes(site.value):
        start, end = site.source.span(node)
        text = site.source.text
        for i, one in enumerate(node.elts):
            for other in node.elts[i + 1 :]:
                (a, b), (c, d) = site.source.span(one), site.source.span(other)
                yield text[start:a] + text[c:d] + text[b:c] + text[a:b] + text[d:end], ATOM, 1.5


def copied(site: Site) -> Iterator[Change]:
    """A copy that is missing."""
    if is_array(site.value) and isinstance(site.node, (ast.Name, ast.Attribute)):
        yield f"{site.own}.copy()", ATOM, 1.8


RULES: tuple[tuple[str, Rule], ...] = (
    ("another operator", operator),
    ("left out", dropped),
    ("another sign", sign),
    ("another number", number),
    ("a power", power),
    ("another name", name),
    ("a factor or a term", factor),
    ("a factor or a term", objects),
    ("an unbiased factor", besides),
    ("another condition", condition),
    ("another order", order),
    ("a copy", copied),
)
