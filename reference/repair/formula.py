"""The last resort: a line written anew as the formula has it, in the names that the layer has there.

Where several things are wrong at once no small edit helps, and a person writes the line anew. What each name holds is
told by its values in a failing case; a text is only proposed if, with those values, it gives what is right.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.repair.site import is_array, names_at
from reference.repair.source import Key, Source
from reference.repair.values import Seen
from reference.repair.vocabulary import AXES
from reference.truth.exact import Pass, passes

CLOSE = 1e-6  # relative: the case may be in single precision
FEW = 2  # names that hold the same, of which the shortest ones are tried
ANEW = 8.0  # what it costs: more than any small edit
FIXED_AXES = ("-1", "0", "1", "(0, 2, 3)", "(2, 3)", "(1, 2)", "(0, 2)", "(1, 2, 3)")


@dataclass(frozen=True)
class Anew:
    """A text for the value of a statement, and a line to put before it, "" for none."""

    node: ast.expr
    text: str
    before: str
    at: int
    line: int


@dataclass(frozen=True)
class _Named:
    """A piece of text and what it holds."""

    text: str
    value: Array


class _Scope:
    """What can be written at a statement, by what it is in the formula."""

    def __init__(self, names: Mapping[str, Any], truth: Pass) -> None:
        self.names, self.truth = names, truth
        self.arrays = {text: value for text, value in names.items() if is_array(value)}

    def like(self, exact: Array) -> list[_Named]:
        """The names that hold an array of the formula, in any shape, the shortest first."""
        found = [_Named(text, value) for text, value in self.arrays.items() if _same(value, exact)]
        return sorted(found, key=lambda named: len(named.text))[:FEW]

    def axes(self, source: Source, arrays: Sequence[_Named]) -> Iterator[tuple[str, Any]]:
        """Texts of axes: names that hold some, those written elsewhere in the file, and the usual ones."""
        for text, value in self.names.items():
            if isinstance(value, (int, tuple)) and not isinstance(value, bool) and _are_axes(value):
                yield text, value
        texts = dict.fromkeys(_axes_in(source))
        for one in arrays:
            texts |= dict.fromkeys((f"tuple(range(1, {one.text}.ndim))", f"(0, *range(2, {one.text}.ndim))"))
            for name in self.arrays:
                texts |= dict.fromkeys(
                    (f"tuple(range(-{name}.ndim, 0))", f"tuple(range({one.text}.ndim - {name}.ndim))")
                )
        for text in texts | dict.fromkeys(FIXED_AXES):
            value = self._worth(text)
            if value is not None and _are_axes(value):
                yield text, value

    def _worth(self, text: str) -> Any:
        """What a text of names and numbers stands for; None if it cannot be told."""
        known: dict[str, Any] = {"tuple": tuple, "range": range, "len": len}
        for number, (name, value) in enumerate(sorted(self.names.items(), key=lambda pair: -len(pair[0]))):
            if name in text:
                text = re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", f"_{number}_", text)
                known[f"_{number}_"] = value
        try:
            tree = ast.parse(text, mode="eval")
            if {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} <= known.keys():
                return eval(compile(tree, "axes", "eval"), {"__builtins__": {}}, known)
        except Exception:  # no text of ours is worth an exception
            pass
        return None


def written_anew(source: Source, seen: Seen, key: Key, case: Case) -> Iterator[Anew]:
    """Each value of a function's statements as the formula has it."""
    truth = passes(case)[-1]
    for statement in ast.walk(source.functions[key]):
        if not isinstance(statement, (ast.Assign, ast.Return)) or statement.value is None:
            continue
        scope = _Scope(names_at(seen, key, statement), truth)
        at = source.line_start(source.begin(statement))
        if source.text[at : source.begin(statement)].strip():
            continue
        for node in _values_of(statement):
            now = seen.value(node)
            if not is_array(now) or isinstance(node, (ast.Name, ast.Attribute, ast.Constant)):
                continue
            for text, before in _texts(source, scope, now.shape):
                indent = source.text[at : source.begin(statement)]
                line = f"{indent}{before}{source.newline}" if before else ""
                yield Anew(node, text, line, at, statement.lineno)


def _values_of(statement: ast.Assign | ast.Return) -> Iterator[ast.expr]:
    value = statement.value
    if isinstance(value, ast.Tuple):
        yield from value.elts
    elif value is not None:
        yield value
        inner = value  # (...).reshape(shape): what is in front of the dot
        while isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
            inner = inner.func.value
            yield inner


def _texts(source: Source, scope: _Scope, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Texts of what has this shape, each with a line to put before it."""
    with np.errstate(all="ignore"):
        if np.prod(shape) == scope.truth.x.size:
            yield from _input_gradient(source, scope, shape)
            yield from _output(scope, shape)
        yield from _parameter_gradients(source, scope, shape)


def _input_gradient(source: Source, scope: _Scope, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    truth = scope.truth
    for xhat in scope.like(truth.xhat):
        if xhat.value.shape != shape:
            continue
        for d, before in _upstream(scope, shape):
            scales = [(f"({{}}) * {r.text}", r.value) for r in scope.like(truth.rstd)]
            scales += [(f"({{}}) / {s.text}", 1 / s.value) for s in scope.like(1 / truth.rstd)]
            for axes, value in scope.axes(source, [xhat]):
                inner = _attempt(lambda d=d, xhat=xhat, value=value: _bracket(truth, d.value, xhat.value, value))  # type: ignore[misc]
                if inner is None:
                    continue
                for form, scale in scales:
                    whole = _attempt(lambda inner=inner, scale=scale: inner * scale)  # type: ignore[misc]
                    if whole is not None and whole.shape == shape and _same(whole, truth.dx):
                        mean = f"{d.text}.mean({axes}, keepdims=True)" if truth.case.kind.centred else ""
                        projection = f"{xhat.text} * ({d.text} * {xhat.text}).mean({axes}, keepdims=True)"
                        yield form.format(" - ".join(filter(None, [d.text, mean, projection]))), before
                        break


def _bracket(truth: Pass, d: Array, xhat: Array, axes: Any) -> Array:
    mean = d.mean(axes, keepdims=True) if truth.case.kind.centred else 0.0
    return np.asarray(d - mean - xhat * (d * xhat).mean(axes, keepdims=True))


def _upstream(scope: _Scope, shape: tuple[int, ...]) -> Iterator[tuple[_Named, str]]:
    """gamma * dy, by a name that it has, or by a line that gives it one."""
    for named in scope.like(scope.truth.d):
        if named.value.shape == shape:
            yield named, ""
    name = next(name for name in ("dxhat", "d_xhat", "dxhat_") if name not in scope.names)
    for dy in scope.like(scope.truth.dy):
        for text, value in scope.arrays.items():
            if value.size != scope.truth.gamma.size or dy.value.shape != shape:
                continue
            product = _attempt(lambda dy=dy, value=value: dy.value * value)  # type: ignore[misc]
            if product is not None and _same(product, scope.truth.d):
                yield _Named(name, product), f"{name} = {dy.text} * {text}"


def _output(scope: _Scope, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    truth = scope.truth
    for xhat in scope.like(truth.xhat):
        for gamma, scale in scope.arrays.items():
            for beta, shift in scope.arrays.items() if scale.size == truth.gamma.size else ():
                y = _attempt(lambda xhat=xhat, scale=scale, shift=shift: scale * xhat.value + shift)  # type: ignore[misc]
                if y is not None and y.shape == shape and _same(y, truth.y):
                    yield f"{gamma} * {xhat.text} + {beta}", ""
                    return


def _parameter_gradients(source: Source, scope: _Scope, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    truth = scope.truth
    for dy in scope.like(truth.dy):
        products = [_Named(dy.text, dy.value)]
        products += [
            _Named(f"({dy.text} * {xhat.text})", dy.value * xhat.value)
            for xhat in scope.like(truth.xhat)
            if xhat.value.shape == dy.value.shape
        ]
        for product, exact in zip(products, (truth.dbeta, truth.dgamma), strict=False):
            if exact is None or np.size(exact) != np.prod(shape):
                continue
            for axes, value in scope.axes(source, [dy]):
                total = _attempt(lambda product=product, value=value: product.value.sum(value))  # type: ignore[misc]
                if total is not None and total.shape == shape and _same(total, np.asarray(exact)):
                    yield f"{product.text}.sum({axes})", ""


def _attempt(work: Callable[[], Any]) -> Array | None:
    """An array, or None where shapes or axes do not go together."""
    try:
        return np.asarray(work())
    except (ValueError, TypeError, IndexError):
        return None


def _same(value: Array, exact: Array) -> bool:
    """Whether two arrays have the same numbers in the same order."""
    exact = np.asarray(exact)
    if value.size != exact.size or not value.size:
        return False
    scale = float(np.abs(exact).max())
    return bool(np.isfinite(scale) and np.abs(value.ravel() - exact.ravel()).max() <= CLOSE * scale)


def _are_axes(value: Any) -> bool:
    entries = value if isinstance(value, tuple) else (value,)
    return bool(entries) and all(isinstance(entry, int) and -5 <= entry < 5 for entry in entries)


def _axes_in(source: Source) -> Iterator[str]:
    """What is written as axes anywhere in the file."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.keyword) and node.arg in AXES:
            yield source.text_of(node.value)
