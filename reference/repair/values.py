"""What every expression of a layer holds in a case, and which names hold what on which line: seen by running it once.

The tree is instrumented by text: each expression is wrapped in a call. Knows nothing of what is right.
"""

import ast
import builtins
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

import numpy as np

from reference.dtypes import carried
from reference.repair.source import FUNCTIONS, Key, Source, all_codes
from reference.repair.units import Patch
from reference.subjects.frameworks import held_by, plain

HOOK = "__value__"  # ends in two underscores, so that no class mangles it
LARGE = 20_000  # entries of an array that is copied
MANY = 4  # visits of an expression whose values are kept


def body_nodes(source: Source, key: Key) -> Iterator[ast.AST]:
    """All nodes in the body of a function, those before their children."""
    node = source.functions[key]
    for statement in node.body if isinstance(node.body, list) else [node.body]:
        yield from ast.walk(statement)


def expressions(source: Source, key: Key) -> list[ast.expr]:
    """The expressions in the body of a function that can be wrapped in a call."""
    nodes = body_nodes(source, key)
    return [node for node in nodes if isinstance(node, ast.expr) and _can_be_wrapped(source, node)]


def _can_be_wrapped(source: Source, node: ast.expr) -> bool:
    if isinstance(node, (ast.Starred, ast.Slice, ast.Lambda, ast.GeneratorExp, ast.Yield, ast.YieldFrom, ast.Await)):
        return False
    if isinstance(node, (ast.FormattedValue, ast.JoinedStr, ast.NamedExpr)):
        return False
    if isinstance(node, ast.Constant) and (isinstance(node.value, (str, bytes)) or node.value is ...):
        return False
    if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        return False
    parent = source.parents[node]
    if isinstance(parent, ast.Call) and parent.func is node:
        return False
    if isinstance(parent, ast.Subscript) and parent.slice is node and isinstance(node, ast.Tuple):
        return False
    if isinstance(parent, FUNCTIONS) and not isinstance(parent, ast.Lambda):
        return False  # a decorator, a default, an annotation
    if isinstance(parent, ast.AnnAssign) and parent.annotation is node:
        return False
    above = (node, *source.ancestors(node))
    for child, holder in pairwise(above):
        if isinstance(holder, (ast.arguments, ast.arg, ast.pattern, ast.JoinedStr)):
            return False
        if isinstance(holder, ast.AnnAssign) and holder.annotation is child:
            return False
        if isinstance(holder, (ast.FunctionDef, ast.ClassDef)):
            return child not in (*holder.decorator_list, getattr(holder, "returns", None))
    return True


def wrapped(source: Source, nodes: Mapping[int, ast.expr]) -> list[tuple[int, int, str]]:
    """Insertions into the text that wrap each node in a call of the hook with its number."""
    inserted: list[tuple[tuple[int, int, int], int, str]] = []
    for number, node in nodes.items():
        start, end = source.span(node)
        inserted.append(((start, 1, -end), start, f"{HOOK}({number}, ("))  # of several here the outer one first
        inserted.append(((end, 0, -start), end, "))"))  # and the inner one first
    return [(at, at, text) for _, at, text in sorted(inserted)]


class Hook:
    """What the instrumented code calls; `seen` by the number of the expression, `change` what to put in its place."""

    def __init__(self) -> None:
        self.seen: dict[int, list[Any]] = {}
        self.change: Callable[[Any], Any] | None = None
        self.record = True

    def __call__(self, number: int, value: Any) -> Any:
        if self.record:
            values = self.seen.setdefault(number, [])
            if len(values) < MANY:
                values.append(kept(value))
        return value if self.change is None else self.change(value)

    def install(self) -> None:
        setattr(builtins, HOOK, self)


def kept(value: Any) -> Any:
    """A value as it is now; another framework's array as NumPy's."""
    value = plain(value)
    if isinstance(value, np.ndarray) and value.size <= LARGE:
        return carried(value.copy())
    if isinstance(value, (tuple, list)):
        return type(value)(map(kept, value)) if type(value) in (tuple, list) else value
    return value


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen in one case.

    Attributes:
        values: by expression, of each time that it was evaluated (the first few).
        names: by unit and line of the file, what can be written there and what it holds, as "x" or "self.gamma".
    """

    values: dict[ast.expr, list[Any]]
    names: dict[tuple[Key, int], dict[str, Any]]

    def value(self, node: ast.AST | None) -> Any:
        """What an expression held first; `MISSING` if it did not run."""
        found = self.values.get(node) if isinstance(node, ast.expr) else None
        return found[0] if found else MISSING


MISSING: Any = object()


def watched(patch: Patch, work: Callable[[], Any]) -> Seen:
    """Run `work` twice, once for the values and once for the names."""
    hook = Hook()
    hook.install()
    numbered: dict[int, ast.expr] = {}
    for key in patch.units:
        own = dict(enumerate(expressions(patch.source, key), len(numbered)))
        try:
            patch.put(key, patch.compiled(key, wrapped(patch.source, own)))
        except (SyntaxError, ValueError):
            continue  # without it, what the function's expressions hold stays unknown
        numbered |= own
    try:
        work()
    except Exception:  # what ran until there was seen
        pass
    finally:
        for key in patch.units:
            patch.restore(key)
    values = {node: hook.seen[number] for number, node in numbered.items() if number in hook.seen}
    return Seen(values, _names(patch, work))


def _names(patch: Patch, work: Callable[[], Any]) -> dict[tuple[Key, int], dict[str, Any]]:
    found: dict[tuple[Key, int], dict[str, Any]] = {}
    home: dict[CodeType, tuple[Key, int]] = {}
    mentioned = _mentioned(patch.source)
    for key, code in patch.base.items():
        shift = patch.source.first_line(patch.source.functions[key]) - code.co_firstlineno
        for inner in all_codes(code):
            home[inner] = (key, shift)

    def line(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            key, shift = home[frame.f_code]
            place = (key, frame.f_lineno + shift)
            if place not in found:
                found[place] = _in_scope(frame, mentioned)
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code in home else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    except Exception:  # as above
        pass
    finally:
        sys.settrace(before)
    return found


def _mentioned(source: Source) -> tuple[set[str], set[str]]:
    """The names of variables and of attributes that the file reads or writes."""
    nodes = list(ast.walk(source.tree))
    return (
        {node.id for node in nodes if isinstance(node, ast.Name)},
        {node.attr for node in nodes if isinstance(node, ast.Attribute)},
    )


def _in_scope(frame: FrameType, mentioned: tuple[set[str], set[str]]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    code = frame.f_code
    for name, value in frame.f_locals.items():
        if name.isidentifier() and not name.startswith("__"):
            names[name] = kept(value)
    first = code.co_varnames[0] if code.co_argcount else ""
    owner = frame.f_locals.get("self", frame.f_locals.get(first))
    if hasattr(owner, "__dict__") and not isinstance(owner, (np.ndarray, type)):
        prefix = "self" if "self" in frame.f_locals else first
        for name, value in (*vars(owner).items(), *held_by(owner)):
            if name in mentioned[1] and not name.startswith("__"):
                names[f"{prefix}.{name}"] = kept(value)
    for name, value in frame.f_globals.items():
        if name in mentioned[0] and isinstance(value, (int, float, tuple)) and not isinstance(value, bool):
            names.setdefault(name, value)
    return names
