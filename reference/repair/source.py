"""The text that a layer was written as, with the place of every node of its tree in it.

Positions are offsets into the text as it lies in the file, whatever its newlines, encoding and tabs are, so that an edit
leaves all other text as it was. Knows files and trees; it runs nothing.
"""

import ast
import io
import linecache
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")


class NoSource(Exception):
    """There is no source that could be edited; the text says why, in a plain sentence."""


@dataclass(frozen=True)
class Key:
    """A function of a file: its qualified name, and which of those of that name it is."""

    qualname: str
    place: int = 0


@dataclass(frozen=True, eq=False)
class Source:
    """One file's text.

    Attributes:
        filename: as the code objects have it. path: of the file to write to; None where there is none.
        text: as it lies in the file, newlines included. encoding: that it is written in.
    """

    filename: str
    path: Path | None
    text: str
    encoding: str = "utf-8"

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def _lines(self) -> list[tuple[int, str]]:
        """Each line with the offset that it begins at, as Python's own parser sees lines."""
        return [(match.start(), match.group()) for match in _LINE.finditer(self.text)]

    def offset(self, line: int, column: int) -> int:
        """The place in the text of a position of the tree, whose columns count bytes of UTF-8."""
        start, text = self._lines[line - 1]
        return start + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: Any) -> tuple[int, int]:
        """Where a node begins and ends; without the parentheses around it, without decorators."""
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def text_of(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def line_at(self, offset: int) -> int:
        """The number of the line that an offset is in."""
        return len(re.findall(r"\r\n|\r|\n", self.text[:offset])) + 1

    def line_start(self, offset: int) -> int:
        """Where the line of an offset begins."""
        return max(self.text.rfind("\n", 0, offset), self.text.rfind("\r", 0, offset)) + 1

    def begin(self, node: Any) -> int:
        """Where a statement begins, decorators included."""
        decorators = getattr(node, "decorator_list", [])
        start = self.span(node)[0]
        return self.text.rindex("@", 0, self.span(decorators[0])[0]) if decorators else start

    @property
    def newline(self) -> str:
        match = re.search(r"\r\n|\r|\n", self.text)
        return match.group() if match else "\n"

    def edited(self, text: str) -> "Source":
        """The same file with another text."""
        return Source(self.filename, self.path, text, self.encoding)

    @cached_property
    def parents(self) -> Mapping[ast.AST, ast.AST]:
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    @cached_property
    def functions(self) -> Mapping[Key, Function]:
        """All functions of the file, in the order of the text."""
        found: dict[Key, Function] = {}
        counts: dict[str, int] = {}

        def visit(node: ast.AST, prefix: str) -> None:
            for child in ast.iter_child_nodes(node):
                inner = prefix
                if isinstance(child, FUNCTIONS):
                    name = prefix + (child.name if not isinstance(child, ast.Lambda) else "<lambda>")
                    found[Key(name, counts.setdefault(name, 0))] = child
                    counts[name] += 1
                    inner = f"{name}.<locals>."
                elif isinstance(child, ast.ClassDef):
                    inner = f"{prefix}{child.name}."
                visit(child, inner)

        visit(self.tree, "")
        return found

    def first_line(self, node: Function) -> int:
        """What `co_firstlineno` is for a function."""
        decorators = getattr(node, "decorator_list", [])
        return int(decorators[0].lineno if decorators else node.lineno)

    def key_of(self, code: CodeType) -> Key | None:
        """The function of the file that a code object was compiled from; None if that cannot be told."""
        found = [
            key
            for key, node in self.functions.items()
            if key.qualname == code.co_qualname and self.first_line(node) == code.co_firstlineno
        ]
        return found[0] if len(found) == 1 else None

    def top_level(self, node: ast.AST) -> ast.stmt:
        """The statement of the module that holds a node."""
        return next(n for n in (node, *self.ancestors(node)) if isinstance(self.parents.get(n), ast.Module))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Skeleton:
    """The top-level statement around one function, with the bodies of the other functions left out: quick to compile."""

    source: Source
    key: Key
    flags: int
    before: str = field(init=False)
    after: str = field(init=False)
    start: int = field(init=False)  # of the function in the text of the file
    end: int = field(init=False)
    line: int = field(init=False)  # the function's first one in the skeleton

    def __post_init__(self) -> None:
        source, node = self.source, self.source.functions[self.key]
        top = source.top_level(node)
        begin, end = source.begin(top), source.span(top)[1]
        kept = {node, *source.ancestors(node)}
        cut = [
            (source.begin(other.body[0]), source.span(other.body[-1])[1])
            for other in ast.walk(top)
            if isinstance(other, (ast.FunctionDef, ast.AsyncFunctionDef))
            and other not in kept
            and node not in source.ancestors(other)
        ]
        set_ = object.__setattr__
        set_(self, "start", source.begin(node))
        set_(self, "end", source.span(node)[1])
        set_(self, "before", _without(source.text, begin, self.start, cut))
        set_(self, "after", _without(source.text, self.end, end, cut))
        set_(self, "line", len(re.findall(r"\r\n|\r|\n", self.before)) + 1)

    def compiled(self, text: str) -> CodeType:
        """The function's code, compiled from another text of it.

        Raises:
            SyntaxError, ValueError: it is no function any more.
        """
        whole = compile(self.before + text + self.after, self.source.filename, "exec", self.flags, True)
        found = _inner(whole, self.key.qualname, self.line)
        if found is None:
            raise ValueError("Expected the function to be where it was but got another tree")
        return found


def _without(text: str, start: int, end: int, cut: list[tuple[int, int]]) -> str:
    """A piece of text in which the spans to cut are `pass`; of nested ones the outer one."""
    parts, at = [], start
    for first, last in sorted(cut):
        if at <= first and last <= end:
            parts += [text[at:first], "pass"]
            at = last
    return "".join([*parts, text[at:end]])


def _inner(code: CodeType, qualname: str, line: int) -> CodeType | None:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_qualname == qualname and constant.co_firstlineno == line:
                return constant
            found = _inner(constant, qualname, line)
            if found is not None:
                return found
    return None


def all_codes(code: CodeType) -> Iterator[CodeType]:
    """A code object and all inside it, in the order of the text."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from all_codes(constant)


def read_source(filename: str, module: Mapping[str, Any]) -> Source:
    """The source of the file that code objects name.

    Raises:
        NoSource: it is nowhere, or cannot be read.
    """
    path = Path(filename)
    if path.suffix == ".py" and path.is_file():
        raw = path.read_bytes()
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
            text = raw.decode(encoding)
        except (SyntaxError, UnicodeDecodeError) as error:
            raise NoSource(f"{path.name} cannot be read as text: {error}") from None
        return _parsed(Source(filename, path, text, encoding))
    text = "".join(linecache.getlines(filename, dict(module)))  # a notebook's cell, a file in a zip
    if not text:
        raise NoSource(f"its source is not to be had: {filename} is no file")
    return _parsed(Source(filename, None, text))


def _parsed(source: Source) -> Source:
    try:
        source.tree  # noqa: B018
    except (SyntaxError, ValueError, RecursionError) as error:
        raise NoSource(f"{Path(source.filename).name} is not Python any more: {error}") from None
    return source
