"""Edits of one statement: left out, guarded, done in another way, changed places with its neighbour.

Knows Python's statements and their lines; runs nothing.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from reference.repair.site import LOOSE, SYMBOLS, binds, is_array, names_at
from reference.repair.source import Key, Source
from reference.repair.values import Seen

Span = tuple[int, int, str]
Change = tuple[Span, float]
_SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Delete, ast.Assert, ast.Return, ast.Raise)
_AFTER = {
    "+": ("-", "*", ""),
    "-": ("+", "/", ""),
    "*": ("/", "+", ""),
    "/": ("*", "-", ""),
    "**": ("*",),
    "//": ("/",),
}


@dataclass(frozen=True, eq=False)
class Line:
    """A statement of a unit.

    Attributes:
        source: its file. seen: what names held. key: its unit. node: the statement. block: those beside it, itself too.
    """

    source: Source
    seen: Seen
    key: Key
    node: ast.stmt
    block: list[ast.stmt]

    @property
    def names(self) -> dict[str, Any]:
        return names_at(self.seen, self.key, self.node)

    @property
    def span(self) -> tuple[int, int]:
        return self.source.begin(self.node), self.source.span(self.node)[1]

    @property
    def indent(self) -> str:
        start = self.span[0]
        return self.source.text[self.source.line_start(start) : start]

    def alone(self) -> tuple[int, int] | None:
        """The whole lines of the statement, its newline too; None where another statement shares them."""
        start, end = self.span
        text = self.source.text
        first = self.source.line_start(start)
        rest = text[end:]
        tail = rest.splitlines(keepends=True)[0] if rest else ""
        if text[first:start].strip() or (tail.strip() and not tail.strip().startswith("#")):
            return None
        return first, end + len(tail)


Rule = Callable[[Line], Iterator[Change]]


def deleted(line: Line) -> Iterator[Change]:
    """The statement left out."""
    if not isinstance(line.node, (*_SIMPLE, ast.If, ast.For)) or _is_docstring(line):
        return
    if isinstance(line.node, (ast.Return, ast.Raise)) and line.node is line.block[-1] and len(line.block) == 1:
        pass
    whole = line.alone()
    if len(line.block) > 1 and whole is not None:
        yield (*whole, ""), 1.8
    else:
        yield (*line.span, "pass"), 2.0


def assigned(line: Line) -> Iterator[Change]:
    """`=` for `+=`, `+=` for `=`, another operator; a write into an array for a new one."""
    node, text = line.node, line.source.text
    if isinstance(node, ast.AugAssign):
        symbol = SYMBOLS.get(type(node.op), "")
        name, value = line.source.text_of(node.target), line.source.span(node.value)
        gap = text.index(f"{symbol}=", line.source.span(node.target)[1]) if symbol else -1
        if not symbol or gap < 0:
            return
        for other in _AFTER.get(symbol, ()):
            yield (gap, gap + len(symbol) + 1, f"{other}="), 1.0 + 0.2 * (other == "")
        right = text[value[0] : value[1]]
        if binds(node.value) <= 11:
            right = f"({right})" if symbol not in "+-" or binds(node.value) < 10 or symbol == "-" else right
        yield (*line.span, f"{name} = {name} {symbol} {right}"), 1.6
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        end = line.source.span(target)[1]
        gap = text.index("=", end)
        if isinstance(target, (ast.Name, ast.Attribute, ast.Subscript)):
            for sign in "+-*/":
                yield (gap, gap + 1, f"{sign}="), 1.2 + 0.3 * (sign in "*/")
        if isinstance(target, ast.Subscript) and isinstance(target.slice, (ast.Slice, ast.Constant)):
            base = line.source.text_of(target.value)
            yield (line.span[0], end, base), 2.0
        value = line.seen.value(node.value)
        if isinstance(target, (ast.Name, ast.Attribute)) and is_array(value):
            yield (gap, gap + 1, "= -") if binds(node.value) >= 11 else (gap, gap + 1, "="), 9.0


def copied_to(line: Line) -> Iterator[Change]:
    """A name given a new array, where what it had was written into."""
    node = line.node
    call = node.value if isinstance(node, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "copyto":
        target, value = (line.source.text_of(argument) for argument in call.args[:2])
        yield (*line.span, f"{target} = {value}"), 1.6


def guarded(line: Line) -> Iterator[Change]:
    """Only in one mode: where a flag is in scope."""
    whole = line.alone()
    if not isinstance(line.node, (ast.Assign, ast.AugAssign, ast.Expr)) or whole is None or _is_docstring(line):
        return
    start, end = line.span
    if "\n" in line.source.text[start:end]:
        return
    for name, value in line.names.items():
        if isinstance(value, bool):
            newline = line.source.newline
            step = "\t" if "\t" in line.indent else "    "
            for word in ("if", "if not"):
                yield (start, start, f"{word} {name}:{newline}{line.indent}{step}"), 2.5


def swapped(line: Line) -> Iterator[Change]:
    """Changed places with the statement after it."""
    at = line.block.index(line.node)
    if at + 1 >= len(line.block):
        return
    start, end = line.span
    other = line.block[at + 1]
    first, last = line.source.begin(other), line.source.span(other)[1]
    text = line.source.text
    if isinstance(line.node, _SIMPLE) and isinstance(other, _SIMPLE) and not _is_docstring(line):
        yield (start, last, text[first:last] + text[end:first] + text[start:end]), 2.2


def unconditional(line: Line) -> Iterator[Change]:
    """What an `if` holds done always, or its other branch."""
    node = line.node
    if not isinstance(node, ast.If):
        return
    if isinstance(node.test, ast.Compare):
        return  # perhaps of a size: what is never reached may still be wrong
    first, last = line.source.span(node.test)
    yield (first, last, "True"), 3.0
    yield (first, last, "False"), 3.2


def returned(line: Line) -> Iterator[Change]:
    """Another name returned."""
    node = line.node
    if isinstance(node, ast.Return) and node.value is not None and isinstance(node.value, ast.Name):
        for text, value in line.names.items():
            if is_array(value) and text != node.value.id:
                yield (*line.source.span(node.value), text), 1.5


RULES: tuple[tuple[str, Rule], ...] = (
    ("a statement left out", deleted),
    ("another assignment", assigned),
    ("a new array", copied_to),
    ("in one mode only", guarded),
    ("another order of statements", swapped),
    ("without condition", unconditional),
    ("another result", returned),
)


def _is_docstring(line: Line) -> bool:
    node = line.node
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def lines(source: Source, seen: Seen, key: Key) -> Iterator[Line]:
    """The statements of a unit, in the order of the text."""
    function = source.functions[key]
    for node in ast.walk(function):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                for statement in block:
                    if isinstance(statement, ast.stmt) and not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                        yield Line(source, seen, key, statement, block)


__all__ = ["LOOSE", "RULES", "Line", "lines"]
