"""One-edit mutants of the right planted layers: what the search for a fix is tried on.

Each is the file of a right layer with one node of its tree changed, as somebody would get it wrong. The changes are made
here, by unlike means than those that the search undoes them with: by a table of its own, on the tree.
"""

import ast
import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

RIGHT = Path(__file__).parent / "planted" / "right"


@dataclass(frozen=True)
class Mutant:
    """A file with one mistake.

    Attributes:
        file: of the right layer. layer: its name in it. like: its kind. source: the text. line: of the change. what: was
            done.
    """

    file: str
    layer: str
    like: str
    source: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.layer}: {self.what}"


Mutation = Callable[[ast.AST, random.Random, list[str]], Iterator[tuple[str, ast.AST]]]


def _operators(node: ast.AST, rng: random.Random, names: list[str]) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.BinOp):
        for kind, others in {
            ast.Add: (ast.Sub,),
            ast.Sub: (ast.Add,),
            ast.Mult: (ast.Div, ast.Add),
            ast.Div: (ast.Mult,),
            ast.Pow: (ast.Mult,),
        }.items():
            if isinstance(node.op, kind):
                yield "operator", ast.BinOp(node.left, rng.choice(others)(), node.right)
        yield "right operand dropped", node.left
        yield "left operand dropped", node.right
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign dropped", node.operand


def _constants(node: ast.AST, rng: random.Random, names: list[str]) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        others = [value for value in (0, 1, 2, 3, 0.5, -1) if value != node.value]
        yield "constant", ast.Constant(rng.choice(others))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "flag", ast.Constant(not node.value)


def _calls(node: ast.AST, rng: random.Random, names: list[str]) -> Iterator[tuple[str, ast.AST]]:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    swaps = {"mean": "sum", "sum": "mean", "var": "std", "sqrt": "square", "einsum": "", "zeros_like": "ones_like"}
    other = swaps.get(node.func.attr)
    if other:
        yield (
            f"{other} for {node.func.attr}",
            ast.Call(ast.Attribute(node.func.value, other, ast.Load()), node.args, node.keywords),
        )
    if node.func.attr in ("sqrt", "square", "abs", "rsqrt"):
        yield f"{node.func.attr} dropped", node.args[0]
    if node.func.attr in ("copy", "reshape", "astype"):
        yield f"{node.func.attr} dropped", node.func.value
    for keyword in node.keywords:
        if keyword.arg in ("keepdims", "ddof", "axis"):
            rest = [other for other in node.keywords if other is not keyword]
            yield f"{keyword.arg} dropped", ast.Call(node.func, node.args, rest)
    if node.func.attr == "var":
        yield "ddof", ast.Call(node.func, node.args, [*node.keywords, ast.keyword("ddof", ast.Constant(1))])


def _names(node: ast.AST, rng: random.Random, names: list[str]) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
        others = [name for name in names if name not in (node.id, "self")]
        if others and node.id != "self":
            yield "another name", ast.Name(rng.choice(others), ast.Load())


def _statements(node: ast.AST, rng: random.Random, names: list[str]) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.AugAssign):
        yield "= for +=", ast.Assign([node.target], node.value)
        yield "statement deleted", ast.Pass()
        if isinstance(node.op, ast.Add):
            yield "-= for +=", ast.AugAssign(node.target, ast.Sub(), node.value)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
        yield "+= for =", ast.AugAssign(node.targets[0], ast.Add(), node.value)
    if isinstance(node, ast.If):
        yield "condition negated", ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    if isinstance(node, ast.Compare):
        turned: dict[type, type] = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot}
        other = turned.get(type(node.ops[0]))
        if other and len(node.ops) == 1:
            yield "comparison", ast.Compare(node.left, [other()], node.comparators)


MUTATIONS: tuple[Mutation, ...] = (_operators, _constants, _calls, _names, _statements)


def _functions_of(tree: ast.Module, layer: str) -> list[ast.FunctionDef]:
    """The methods of a class and of its bases in the same file, and the functions of the module."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    wanted, found = [layer], []
    while wanted:
        node = classes.get(wanted.pop())
        if node is not None:
            wanted += [base.id for base in node.bases if isinstance(base, ast.Name)]
            found += [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
    return found


class _Replaced(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().visit(node)


def mutant_of(path: Path, layer: str, like: str, rng: random.Random) -> Mutant | None:
    """A random mutant of one layer; None where the draw gave none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = _functions_of(tree, layer)
    if not functions:
        return None
    function = rng.choice([f for f in functions for _ in range(1 + len(list(ast.walk(f))) // 20)])
    names = sorted({n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)})
    names += [argument.arg for argument in function.args.args]
    choices = [
        (node, what, new)
        for statement in function.body
        for node in ast.walk(statement)
        for mutation in MUTATIONS
        for what, new in mutation(node, rng, names)
    ]
    if not choices:
        return None
    kinds = sorted({what for _, what, _ in choices})
    kind = rng.choice(kinds)
    node, what, new = rng.choice([choice for choice in choices if choice[1] == kind])
    line = node.lineno  # type: ignore[attr-defined]
    described = (
        f"{what}: {ast.unparse(node)[:50]!r} -> {ast.unparse(ast.fix_missing_locations(copy.deepcopy(new)))[:50]!r}"
    )
    changed = ast.fix_missing_locations(_Replaced(node, ast.copy_location(copy.deepcopy(new), node)).visit(tree))
    return Mutant(path.name, layer, like, ast.unparse(changed), line, described)
