"""Fixes of the planted layers and of mutants, each held against torch itself: none may be wrong.

The default run has a few; the rest is marked slow, and prints how many were found.
"""

import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reference import check
from reference.repair import proof
from reference.reporting.result import Fix
from tests.independent import disagreements
from tests.mutants import RIGHT, Mutant, mutant_of
from tests.planted import MODULES, ROWS

SEED, MUTANTS = 20, 120
FOUND = 0.8  # of the mutants, on a busy machine; 0.85 and more on a quiet one


def module_of(text: str, path: Path, name: str) -> Any:
    """A module of a text, as if it were imported from a file."""
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def doubts(fix: Fix, layer: str, like: str, folder: Path, name: str) -> list[str]:
    """What torch has against a fixed file; or the whole verdict, where it keeps a convention that is not torch's."""
    try:
        fixed = _class_in(module_of(fix.source, folder / f"{name}.py", name), layer)
        if not fix.conventions:
            return disagreements(fixed, like, layer)
        report = check(fixed, like, accept=fix.conventions)
        return [] if report.passed else [str(report)]
    finally:
        sys.modules.pop(name, None)


def _class_in(module: Any, layer: str) -> Any:
    """The class in a fixed file; where that is the file of a class that it is derived from, anew upon that one."""
    if hasattr(module, layer):
        return getattr(module, layer)
    own = WRONG[layer].layer
    (base,) = own.__bases__
    return type(
        layer, (getattr(module, base.__name__),), {k: v for k, v in vars(own).items() if not k.startswith("__")}
    )


WRONG = {row.name: row for row in ROWS if row.expected and isinstance(row.layer, type)}
FEW = ("LayerNormFirstSummed", "FunctionOneNumber")


@pytest.mark.parametrize("name", FEW)
def test_a_planted_mistake_gets_a_fix(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "RANDOM", 60)  # all of them are for the slow tests
    row = WRONG[name]
    report = check(row.layer, row.kind, examples=0, dtypes=("float64",), ndims=(2, 3), fix=True, fix_seconds=60)
    assert report.fixes, report.not_fixed
    (fix,) = report.fixes
    assert not doubts(fix, name, row.kind, tmp_path, "fixed_layer")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRONG))
def test_no_fix_of_a_planted_mistake_is_wrong(name: str, tmp_path: Path) -> None:
    row = WRONG[name]
    report = check(row.layer, row.kind, examples=0, fix=True)
    print(f"{name}: {'found' if report.fixes else report.not_fixed}")
    for fix in report.fixes:
        assert not doubts(fix, name, row.kind, tmp_path, "fixed_layer")


def mutants(count: int) -> Iterator[Mutant]:
    """Random mutants of the right planted layers; the same ones in every run."""
    rng = random.Random(SEED)
    rows = [
        (Path(str(module.__file__)), row)
        for module in MODULES
        if module.__name__.startswith("tests.planted.right.")
        for row in module.ROWS
        if isinstance(row.layer, type) and not row.channels_last
    ]
    for _ in range(count):
        path, row = rng.choice(rows)
        mutant = mutant_of(path, row.name, row.kind, rng)
        if mutant is not None:
            yield mutant


@pytest.mark.slow
def test_fixes_of_mutants_are_found_and_never_false(tmp_path: Path) -> None:
    tally = {"found": 0, "none": 0, "false": 0}
    wrong: list[str] = []
    for number, mutant in enumerate(mutants(4 * MUTANTS)):
        if sum(tally.values()) >= MUTANTS:
            break
        name = f"mutant_{number}"
        try:
            layer = getattr(module_of(mutant.source, tmp_path / f"{name}.py", name), mutant.layer)
            report = check(layer, mutant.like, examples=0, minimize=False, fix=True)
        except Exception:
            continue  # it does not even begin
        finally:
            sys.modules.pop(name, None)
        if report.passed or not any(not figures.passed for figures in report.quantities.values()):
            continue
        found = report.fixes[0] if report.fixes else None
        against = doubts(found, mutant.layer, mutant.like, tmp_path, f"{name}_fixed") if found else []
        tally["none" if found is None else "false" if against else "found"] += 1
        wrong += [f"{mutant}: {against}"] if against else []
        print(f"{mutant}: {found.diff if found else report.not_fixed}")
    print(tally)
    assert not wrong
    assert tally["found"] >= FOUND * sum(tally.values())


def test_mutants_are_mutants() -> None:
    """Each differs from its file by one statement at most, and compiles."""
    for mutant in mutants(20):
        compile(mutant.source, mutant.file, "exec")
        assert (RIGHT / mutant.file).is_file()
        assert mutant.what
