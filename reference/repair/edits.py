"""All small edits of a layer's functions, each with what it costs: the rows of the tables of rules, applied everywhere.

An edit replaces one span of the file's text. Runs nothing, and does not know what is right.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

from reference.repair import expressions, statements
from reference.repair.site import walk_sites
from reference.repair.source import Key, Source
from reference.repair.values import Seen, body_nodes
from reference.repair.values import expressions as wrappable


@dataclass(frozen=True)
class Edit:
    """A span of a file's text and what is to stand there.

    Attributes:
        start, end: offsets. text: that replaces what is between them. kind: a few words. cost: about the tokens changed.
        key: the unit that it is in. node: the number of the expression that it changes among the unit's, -1 for a statement.
        line: of the file.
    """

    start: int
    end: int
    text: str
    kind: str
    cost: float
    key: Key
    node: int = -1
    line: int = 0

    @property
    def place(self) -> tuple[int, int, str]:
        return self.start, self.end, self.text

    def applied(self, text: str) -> str:
        return text[: self.start] + self.text + text[self.end :]


def all_edits(source: Source, seen: Seen, keys: list[Key]) -> list[Edit]:
    """Every edit that a rule gives, each text once, the cheaper first where two give the same."""
    found: dict[tuple[int, int, str], Edit] = {}
    for key in keys:
        for edit in _of_unit(source, seen, key):
            known = found.get(edit.place)
            if known is None or edit.cost < known.cost:
                found[edit.place] = edit
    return [edit for edit in found.values() if source.text[edit.start : edit.end] != edit.text]


def _of_unit(source: Source, seen: Seen, key: Key) -> Iterator[Edit]:
    nodes = wrappable(source, key)
    for number, site in enumerate(walk_sites(source, seen, key, nodes)):
        for kind, rule in expressions.RULES:
            for text, tightly, cost in rule(site):
                yield Edit(*site.replaced(text, tightly), kind, cost, key, number, site.node.lineno)
    for line in statements.lines(source, seen, key):
        for kind, statement_rule in statements.RULES:
            for span, cost in statement_rule(line):
                yield Edit(*span, kind, cost, key, -1, line.node.lineno)


def node_numbers(source: Source, key: Key) -> dict[ast.AST, int]:
    """The number of each expression of a unit, as in `Edit.node`."""
    return {node: number for number, node in enumerate(wrappable(source, key))}


def trimmed(edit: Edit, source: Source) -> Edit:
    """The same edit without what its two texts have in common at their ends."""
    old, new = source.text[edit.start : edit.end], edit.text
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return replace(
        edit,
        start=edit.start + head,
        end=edit.end - tail,
        text=new[head : len(new) - tail],
    )


__all__ = ["Edit", "all_edits", "body_nodes", "node_numbers", "trimmed"]
