"""Edits of two places at once: what stands in one expression goes to where it is right for all that follow.

That gamma multiplies the input gradient as a whole, and not the upstream gradient before the means are taken, is the
mistake most often made in these layers; neither half of its fix helps without the other.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from reference.repair.site import is_array
from reference.repair.source import Key, Source
from reference.repair.values import Seen

NAMED = (ast.Name, ast.Attribute, ast.Subscript)


@dataclass(frozen=True)
class Move:
    """A factor taken out of an expression, and multiplied to the function's input before a statement.

    Attributes:
        taken: the span of the product and what is left of it. at: where the new line begins. text: of that line.
        line: of the product. distance: how many statements lie between.
    """

    taken: tuple[int, int, str]
    at: int
    text: str
    line: int
    distance: int


def to_the_input(source: Source, seen: Seen, key: Key) -> Iterator[Move]:
    """A factor of some product as a factor of what the function is given, from each of its statements on."""
    function = source.functions[key]
    if isinstance(function, ast.Lambda):
        return
    given = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
    if not given:
        return
    name = given[0]
    for place, statement in enumerate(function.body):
        for node in ast.walk(statement):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
                for factor, rest in _factors(source, node):
                    text = source.text_of(factor)
                    if not isinstance(factor, NAMED) or not is_array(seen.value(factor)) or text == name:
                        continue
                    taken = (*source.span(node), rest)
                    for earlier, before in enumerate(function.body[: place + 1]):
                        at = source.line_start(source.begin(before))
                        indent = source.text[at : source.begin(before)]
                        if not indent.strip():
                            line = f"{indent}{name} = {name} * {text}{source.newline}"
                            yield Move(taken, at, line, node.lineno, place - earlier)


def _factors(source: Source, node: ast.BinOp) -> Iterator[tuple[ast.expr, str]]:
    """Each factor of a product, and the text of the other one with the parentheses that it has."""
    start, end = source.span(node)
    after = source.text[source.span(node.left)[1] : end].lstrip(") \t")
    if after.startswith("*"):
        yield node.left, after[1:].strip()
    before = source.text[start : source.span(node.right)[0]].rstrip("( \t")
    if before.endswith("*"):
        yield node.right, before[:-1].strip()
