"""One expression of a layer with all that an edit of it has to know, and how a new text is put into its place.

Knows precedence and parentheses, so that what is put in means what it says; not which edits there are.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reference.repair.source import Key, Source
from reference.repair.values import MISSING, Seen

# How tightly what is written binds: an operand that binds less needs parentheses.
LOOSE, COMPARED, SUM, PRODUCT, SIGNED, POWER, ATOM = 0, 6, 10, 11, 12, 13, 15
_OPERATORS = {ast.Add: SUM, ast.Sub: SUM, ast.Pow: POWER}
SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
}


def binds(node: ast.AST) -> int:
    """How tightly an expression binds."""
    if isinstance(node, ast.BinOp):
        low = isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.BitXor, ast.LShift, ast.RShift))
        return COMPARED + 1 if low else _OPERATORS.get(type(node.op), PRODUCT)
    if isinstance(node, ast.UnaryOp):
        return LOOSE if isinstance(node.op, ast.Not) else SIGNED
    if isinstance(node, ast.Compare):
        return COMPARED
    return LOOSE if isinstance(node, (ast.BoolOp, ast.IfExp, ast.Lambda, ast.NamedExpr)) else ATOM


def needed(parent: ast.AST, node: ast.AST) -> int:
    """How tightly an expression has to bind where this one stands."""
    if isinstance(parent, ast.BinOp):
        own = binds(parent)
        if isinstance(parent.op, ast.Pow):
            return ATOM if node is parent.left else SIGNED
        return own if node is parent.left else own + 1
    if isinstance(parent, ast.UnaryOp):
        return COMPARED if isinstance(parent.op, ast.Not) else SIGNED
    if isinstance(parent, ast.Compare):
        return COMPARED + 1
    if isinstance(parent, ast.BoolOp):
        return COMPARED
    if isinstance(parent, ast.IfExp):
        return COMPARED
    if isinstance(parent, ast.Attribute) or (isinstance(parent, (ast.Call, ast.Subscript)) and node is _head(parent)):
        return ATOM
    return SUM if isinstance(parent, ast.Starred) else LOOSE


def _head(node: ast.Call | ast.Subscript) -> ast.expr:
    return node.func if isinstance(node, ast.Call) else node.value


@dataclass(frozen=True, eq=False)
class Site:
    """An expression of a unit.

    Attributes:
        source: its file. seen: what its expressions and names held. key: its unit. node: the expression.
        parent: what holds it. statement: that it is in.
    """

    source: Source
    seen: Seen
    key: Key
    node: ast.expr
    parent: ast.AST
    statement: ast.stmt

    @cached_property
    def value(self) -> Any:
        """What it held, or `MISSING`."""
        return self.seen.value(self.node)

    @cached_property
    def names(self) -> dict[str, Any]:
        """What can be written here, with what it holds."""
        return names_at(self.seen, self.key, self.statement)

    def text(self, node: ast.AST, tightly: int = LOOSE) -> str:
        """A node's text, in parentheses where it has them or needs them to bind so tightly."""
        start, end = self.source.span(node)
        bare = isinstance(node, ast.Tuple) and self.source.text[start] != "("
        if binds(node) >= tightly and not bare:
            return self.source.text[start:end]
        return f"({self.source.text[start:end]})"

    @cached_property
    def own(self) -> str:
        return self.text(self.node)

    @cached_property
    def _parentheses(self) -> tuple[int, int] | None:
        """The parentheses around the expression that are its own."""
        text, (start, end) = self.source.text, self.source.span(self.node)
        before, after = text[:start].rstrip(), text[end:].lstrip()
        if not before.endswith("(") or not after.startswith(")"):
            return None
        opened, closed = len(before) - 1, len(text) - len(after) + 1
        if isinstance(self.parent, ast.Call) and self.node in self.parent.args:
            between = text[self.source.span(self.parent.func)[1] : start]
            if between.count("(") < 2:
                return None
        if isinstance(self.parent, (ast.ClassDef, ast.Tuple)):
            return None
        return opened, closed

    def replaced(self, text: str, tightly: int) -> tuple[int, int, str]:
        """The span to replace, and by what, so that `text` stands in the expression's place.

        Args:
            text: an expression. tightly: how tightly it binds.
        """
        start, end = self.source.span(self.node)
        fits = tightly >= needed(self.parent, self.node)
        if self._parentheses is not None:
            if fits and tightly >= ATOM and "\n" not in text:
                return (*self._parentheses, text)
            return start, end, text
        return start, end, text if fits else f"({text})"


def names_at(seen: Seen, key: Key, statement: ast.stmt) -> dict[str, Any]:
    """The names in scope where a statement begins; those of its first line that ran."""
    for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1):
        if (key, line) in seen.names:
            return seen.names[key, line]
    return {}


def is_number(value: Any) -> bool:
    """Whether a value is one number, not a truth."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def is_array(value: Any) -> bool:
    """Whether a value is an array of numbers that can be calculated with."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def is_numeric(value: Any) -> bool:
    return is_array(value) or is_number(value)


def is_axes(value: Any) -> bool:
    """Whether a value is a tuple of whole numbers."""
    return isinstance(value, tuple) and all(isinstance(entry, (int, np.integer)) for entry in value)


def combine(one: Any, other: Any) -> tuple[int, ...] | None:
    """The shape of two numeric values together; None if they do not go together."""
    try:
        return np.broadcast_shapes(np.shape(one), np.shape(other))
    except ValueError:
        return None


def walk_sites(source: Source, seen: Seen, key: Key, nodes: list[ast.expr]) -> Iterator[Site]:
    """A site for each of the expressions of a unit."""
    for node in nodes:
        statement = next(above for above in source.ancestors(node) if isinstance(above, ast.stmt))
        yield Site(source, seen, key, node, source.parents[node], statement)


__all__ = [
    "ATOM",
    "COMPARED",
    "LOOSE",
    "MISSING",
    "POWER",
    "PRODUCT",
    "SIGNED",
    "SUM",
    "SYMBOLS",
    "Site",
    "binds",
    "combine",
    "is_array",
    "is_axes",
    "is_number",
    "is_numeric",
    "names_at",
    "needed",
    "walk_sites",
]
