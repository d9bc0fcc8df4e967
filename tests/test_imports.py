"""Who may import whom, by reading the import statements; and the length and the first words of every module."""

import ast
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = {"npnorm": 420, "reference": 420, "tests": 540}  # lines; tables of cases may be longer than code
OURS = {"npnorm", "reference", "tests"}

# The rooms of `reference` from the ground up: a module may use those below its own room, and its neighbours in it.
ROOMS = (
    "dtypes",
    "kinds",
    "cases",
    "subjects",
    "truth",
    "diagnosis",
    "reporting",
    "run",
    "repair",
    "probing",
    "fixing",
    "checks",
    "auditing",
    "testing",
    "by_name",
    "github",
    "configuration",
    "plugin",
    "command",
    "__main__",
)
FRONT = "reference"  # the package's own file: it names others, and loads them when they are used
THIRD_PARTY: dict[str, set[str]] = {  # what a room, or a module of it, may use besides the standard library
    "reference": set(),
    "reference.dtypes": {"numpy", "ml_dtypes"},
    "reference.kinds": set(),
    "reference.cases": {"numpy"},
    "reference.cases.strategies": {"numpy", "hypothesis"},
    "reference.subjects": {"numpy"},
    "reference.subjects.jax_form": {"numpy", "jax"},
    "reference.subjects.jax_modules": {"jax", "flax"},
    "reference.subjects.torch_form": {"numpy", "torch"},
    "reference.subjects.torch_pass": {"numpy", "torch"},
    "reference.truth": {"numpy"},
    "reference.truth.arithmetic": {"numpy", "mpmath"},
    "reference.truth.torch_layers": {"numpy", "torch"},
    "reference.diagnosis": {"numpy"},
    "reference.reporting": {"numpy", "rich"},
    "reference.reporting.picture": {"numpy", "matplotlib"},
    "reference.reporting.replay": {"numpy", "torch"},  # its text is a program that must do without this project
    "reference.repair": {"numpy"},
    "reference.auditing": {"numpy"},
    "reference.auditing.warm": {
        "pytest",
        "normcheck_audit_hook",
    },  # runs in the tests' own Python, with a copy of `hook`
    "reference.testing": {"pytest"},
    "reference.plugin": {"pytest"},
    "reference.command": {"rich"},
}
ON_TOP = {"reference.__main__", "npnorm.lab.__main__"}  # used by the tests alone
LAZY = {
    "ml_dtypes",
    "mpmath",
    "matplotlib",
    "pytest",
    "hypothesis",
    "torch",
    "jax",
    "flax",
}  # imported inside functions, where they are needed
STRATEGIES = "reference.cases.strategies"  # but here, which is itself imported where it is needed
AT_ONCE = {
    STRATEGIES,
    "reference.truth.torch_layers",
    "reference.subjects.torch_form",
    "reference.subjects.torch_pass",
    "reference.plugin",
}  # the verdict's one way to torch; pytest's own


class Import(NamedTuple):
    name: str  # the module's, with all dots
    line: int
    lazy: bool  # inside a function


def modules(folder: str) -> dict[str, Path]:
    """Every module under a folder by its dotted name; a package's own file by the package's."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[dotted.removesuffix(".__init__")] = path
    return found


@cache
def imports(name: str, path: Path) -> list[Import]:
    """What a module imports: for `from package import thing` the name is `package.thing` where that is a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            names = [
                f"{source}.{alias.name}" if is_module(f"{source}.{alias.name}") else source for alias in node.names
            ]
        else:
            continue
        found += [Import(imported, node.lineno, id(node) in lazy) for imported in names]
    return found


def is_module(dotted: str) -> bool:
    if dotted.startswith("torch."):
        return dotted == "torch.nn"
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def top(dotted: str) -> str:
    return dotted.split(".")[0]


def is_standard(dotted: str) -> bool:
    return top(dotted) in sys.stdlib_module_names


LAYERS = {name: path for name, path in modules("npnorm").items() if not name.startswith("npnorm.lab")}
LAB = {name: path for name, path in modules("npnorm").items() if name.startswith("npnorm.lab")}
REFERENCE, TESTS = modules("reference"), modules("tests")
ALL = LAYERS | LAB | REFERENCE | TESTS
PACKAGED = LAYERS | LAB | REFERENCE


def room(dotted: str) -> str:
    """The room of `reference` that a module is in."""
    return (*dotted.split("."), "")[1]


def each(found: dict[str, Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("name", "path"), [pytest.param(name, path, id=name) for name, path in found.items()]
    )


@each(LAYERS)
def test_the_layers_import_numpy_and_nothing_else(name: str, path: Path) -> None:
    for imported in imports(name, path):
        assert is_standard(imported.name) or top(imported.name) in ("numpy", "npnorm"), imported
        assert not imported.name.startswith("npnorm.lab"), imported


@each(LAB)
def test_the_lab_knows_neither_torch_nor_the_reference(name: str, path: Path) -> None:
    allowed = {"numpy", "npnorm", "sklearn", "matplotlib", "pooch", "rich"}
    for imported in imports(name, path):
        assert is_standard(imported.name) or top(imported.name) in allowed, imported
        optional = top(imported.name) in ("sklearn", "matplotlib", "pooch")
        assert not optional or imported.lazy, f"{imported}: only some can do without it, so only they import it"


@each(REFERENCE)
def test_what_judges_a_layer_shares_no_code_with_it(name: str, path: Path) -> None:
    for imported in imports(name, path):
        assert top(imported.name) not in ("npnorm", "tests"), imported


@each({name: path for name, path in REFERENCE.items() if name != FRONT})
def test_imports_inside_the_reference_run_straight_down(name: str, path: Path) -> None:
    below = ROOMS[: ROOMS.index(room(name)) + 1]
    for imported in imports(name, path):
        assert top(imported.name) != "reference" or room(imported.name) in below, imported


def test_every_module_is_in_a_room() -> None:
    assert {room(name) for name in REFERENCE if name != FRONT} == set(ROOMS)


@each(REFERENCE)
def test_what_the_reference_needs_of_others(name: str, path: Path) -> None:
    """The most special row that holds for a module; torch has two: the verdict's way to it, and the program to paste."""
    rule = max((row for row in THIRD_PARTY if f"{name}.".startswith(f"{row}.")), key=len)
    for imported in imports(name, path):
        if is_standard(imported.name) or top(imported.name) == "reference":
            continue
        assert top(imported.name) in THIRD_PARTY[rule], imported
        assert imported.lazy or top(imported.name) not in LAZY or name in AT_ONCE, (
            f"{imported}: import it where it is used"
        )


@each(REFERENCE)
def test_what_is_slow_to_import_is_imported_where_it_is_used(name: str, path: Path) -> None:
    for imported in imports(name, path):
        assert imported.lazy or imported.name != STRATEGIES, imported


@pytest.mark.parametrize("package", ["npnorm", "reference"])
def test_no_module_is_in_a_circle(package: str) -> None:
    """Within a room too."""
    found = modules(package)
    edges = {
        name: {i.name for i in imports(name, path)} & found.keys() - {package}
        for name, path in found.items()  # a package's own file is on top of its modules
    }
    left = set(edges)
    while left:
        free = {name for name in left if not edges[name] & left}
        assert free, f"a circle among {sorted(left)}"
        left -= free


@each(PACKAGED)
def test_what_is_on_top_is_used_by_nobody(name: str, path: Path) -> None:
    used = {imported.name for imported in imports(name, path)} & ON_TOP
    assert not used


@each({name: path for name, path in TESTS.items() if name.startswith(("tests.planted.", "tests.formulations"))})
def test_strangers_layers_share_no_code_with_us(name: str, path: Path) -> None:
    """They are what the verdicts are tested on; of us they know the row that they fill in."""
    for imported in imports(name, path):
        assert top(imported.name) not in ("npnorm", "reference"), imported


@each(ALL)
def test_every_module_says_what_it_is_for_and_is_short(name: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert len(docstring.splitlines()[0]) > 10
    assert len(text.splitlines()) <= LONGEST[top(name)]


KIND_NAMES = {"GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm"}
NAMES_KINDS = ("reference.kinds", "reference.diagnosis.faults")  # the entries say which kinds they apply to


@each({name: path for name, path in REFERENCE.items() if not name.startswith(NAMES_KINDS)})
def test_a_kind_of_layer_is_told_by_what_it_has_and_not_by_its_name(name: str, path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in KIND_NAMES]
    assert not named, [node.lineno for node in named]


# --- the reading itself -----------------------------------------------------------------------------------------------

PROGRAM = '''"""A module."""
import numpy as np, os.path
from torch import nn
from npnorm import kernel, GroupNorm
from . import cases
from .compare import compare
def f():
    import sklearn.datasets
'''


def test_every_kind_of_import_is_read(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    found = imports("reference.program", path)
    expected = ["numpy", "os.path", "torch.nn", "npnorm.kernel", "npnorm", "reference.cases", "reference.compare"]
    assert [imported.name for imported in found] == [*expected, "sklearn.datasets"]
    assert [imported.lazy for imported in found] == [False] * 7 + [True]


def test_there_is_something_to_read() -> None:
    assert {"npnorm", "npnorm.kernel", "npnorm.batch_norm"} <= LAYERS.keys()
    assert {"reference.kinds", "reference.cases.case", "reference.truth.exact", "reference.checks"} <= REFERENCE.keys()
    assert {top(imported.name) for name, path in TESTS.items() for imported in imports(name, path)} >= {
        "npnorm",
        "reference",
    }
