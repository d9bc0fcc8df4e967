"""All small edits of a layer's functions, each with what it costs: the rows of the tables of rules, applied everywhere.

An edit replaces one span of the file's text. Runs nothing, and does not know what is right.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from reference.repair import calls, expressions, moves, statements, transplants
from reference.repair.site import walk_sites
from reference.repair.source import Key, Source
from reference.repair.values import Seen, body_nodes
from reference.repair.values import expressions as wrappable

T = TypeVar("T")
SMALL_NUMBER = 8  # a number in a comparison that may be a rank or a count; a larger one is a size
ALIKE = 4  # places at most that one edit changes alike


@dataclass(frozen=True)
class Edit:
    """A span of a file's text and what is to stand there.

    Attributes:
        start, end: offsets. text: that replaces what is between them. kind: a few words. cost: about the tokens changed.
        key: the unit that it is in. node: the number of the expression that it changes among the unit's, -1 for a statement.
        line: of the file. more: further spans with their texts, of an edit that is the same in several places.
    """

    start: int
    end: int
    text: str
    kind: str
    cost: float
    key: Key
    node: int = -1
    line: int = 0
    more: tuple[tuple[int, int, str], ...] = ()

    @property
    def places(self) -> list[tuple[int, int, str]]:
        """All spans with what is to stand there, in the order of the text."""
        return sorted([(self.start, self.end, self.text), *self.more])

    def applied(self, text: str) -> str:
        for start, end, replacement in reversed(self.places):
            text = text[:start] + replacement + text[end:]
        return text


def all_edits(source: Source, seen: Seen, keys: list[Key]) -> list[Edit]:
    """Every edit that a rule gives, each text once, the cheaper first where two give the same."""
    found: dict[tuple[int, int, str], Edit] = {}
    for key in keys:
        for edit in _of_unit(source, seen, key):
            known = found.get((edit.start, edit.end, edit.text))
            if known is None or edit.cost < known.cost:
                found[edit.start, edit.end, edit.text] = edit
    closed = list(_thresholds(source, seen))
    single = [
        edit
        for edit in found.values()
        if source.text[edit.start : edit.end] != edit.text
        and not any(edit.start < last and first < edit.end and edit.node >= 0 for first, last in closed)
    ]
    return [*single, *twins(source, single), *(edit for key in keys for edit in _moves(source, seen, key))]


def _of_unit(source: Source, seen: Seen, key: Key) -> Iterator[Edit]:
    nodes = wrappable(source, key)
    for number, site in enumerate(walk_sites(source, seen, key, nodes)):
        for kind, rule in (*expressions.RULES, *calls.RULES, *transplants.RULES):
            for text, tightly, cost in _without_surprise(rule(site)):
                yield Edit(*site.replaced(text, tightly), kind, cost, key, number, site.node.lineno)
    for line in statements.lines(source, seen, key):
        for kind, statement_rule in statements.RULES:
            for span, cost in _without_surprise(statement_rule(line)):
                yield Edit(*span, kind, cost, key, -1, line.node.lineno)


def _moves(source: Source, seen: Seen, key: Key) -> Iterator[Edit]:
    for move in _without_surprise(moves.to_the_input(source, seen, key)):
        cost = 2.6 + 0.1 * move.distance
        yield Edit(move.at, move.at, move.text, "a factor of what is given", cost, key, -1, move.line, (move.taken,))


def _thresholds(source: Source, seen: Seen) -> Iterator[tuple[int, int]]:
    """Comparisons with a size from which on something is done in another way.

    Whoever moves such a threshold may only hide a mistake where no case is large enough to show it.
    """
    module = {
        target.id
        for node in source.tree.body
        for target in getattr(node, "targets", ())
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                constant = side.value if isinstance(side, ast.Constant) else seen.value(side)
                fixed = isinstance(side, ast.Constant) or getattr(side, "id", "") in module or _shouted(side)
                if fixed and isinstance(constant, (int, float)) and abs(constant) > SMALL_NUMBER:
                    yield source.span(node)


def _shouted(node: ast.expr) -> bool:
    """Whether a name is in capitals, as constants are."""
    word = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return len(word) > 1 and word.isupper()


def _without_surprise(changes: Iterator[T]) -> Iterator[T]:
    """What a rule gives; where a stranger's tree surprises it, what it gave until then: the others can do without it."""
    try:
        yield from changes
    except (AttributeError, IndexError, TypeError, ValueError):
        return


def node_numbers(source: Source, key: Key) -> dict[ast.AST, int]:
    """The number of each expression of a unit, as in `Edit.node`."""
    return {node: number for number, node in enumerate(wrappable(source, key))}


def decides(source: Source, edit: Edit) -> bool:
    """Whether an edit changes what decides which lines run: a condition."""
    spans = [
        source.span(node.test) for node in ast.walk(source.tree) if isinstance(node, (ast.If, ast.IfExp, ast.While))
    ]
    return any(first <= start and end <= last for start, end, _ in edit.places for first, last in spans)


def twins(source: Source, edits: list[Edit]) -> Iterator[Edit]:
    """The same edit in several places of a function at once: who gets one line wrong gets the next one wrong the same way."""
    groups: dict[tuple[object, ...], list[Edit]] = {}
    for edit in edits:
        old, new = _trimmed(source.text[edit.start : edit.end], edit.text)
        groups.setdefault((edit.key, edit.kind, old, new), []).append(edit)
        if (old, new) != (source.text[edit.start : edit.end], edit.text):
            whole = (edit.key, edit.kind, source.text[edit.start : edit.end], edit.text, "whole")
            groups.setdefault(whole, []).append(edit)
    for group in groups.values():
        apart = [edit for edit in group if not any(_overlap(edit, other) for other in group if other is not edit)]
        if 2 <= len(apart) <= ALIKE:
            yield _together(apart)
        elif len(apart) > ALIKE:
            for line in sorted({edit.line for edit in apart}):
                for last in (
                    line,
                    line + 1,
                ):  # in one line, or in two that follow each other, as those of dgamma and dbeta
                    here = [edit for edit in apart if line <= edit.line <= last]
                    if 2 <= len(here) <= ALIKE and (last == line or {edit.line for edit in here} == {line, last}):
                        yield _together(here)
        outer = [edit for edit in group if not any(_overlap(edit, other) and _inside(edit, other) for other in group)]
        for line in sorted({edit.line for edit in outer}) if len(outer) < len(group) else ():
            here = [edit for edit in outer if edit.line == line]
            if 2 <= len(here) <= ALIKE:
                yield _together(here)


def _together(edits: list[Edit]) -> Edit:
    first, *others = sorted(edits, key=lambda edit: edit.start)
    more = tuple((edit.start, edit.end, edit.text) for edit in others)
    return replace(first, cost=max(edit.cost for edit in edits) + 0.6 * len(more), more=more)


def _overlap(one: Edit, other: Edit) -> bool:
    return one is not other and one.start < other.end and other.start < one.end


def _inside(one: Edit, other: Edit) -> bool:
    """Whether one edit's span lies in the other's."""
    return other.start <= one.start and one.end <= other.end and (one.start, one.end) != (other.start, other.end)


def _trimmed(old: str, new: str) -> tuple[str, str]:
    """Two texts without what they have in common at their ends."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return old[head : len(old) - tail], new[head : len(new) - tail]


__all__ = ["Edit", "all_edits", "body_nodes", "decides", "node_numbers", "twins"]
