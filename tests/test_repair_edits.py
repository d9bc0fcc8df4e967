"""Edits as text: each means what its rule says, wherever it stands; and what is read off from values."""

import ast
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from reference.cases.case import make
from reference.kinds import kind_named
from reference.repair import calls, expressions, transplants
from reference.repair.edits import Edit, all_edits, twins
from reference.repair.holes import Known, products
from reference.repair.site import ATOM, Site, walk_sites
from reference.repair.source import Key, Skeleton, Source
from reference.repair.units import Patch, locate
from reference.repair.values import Seen, watched
from reference.repair.values import expressions as wrappable
from reference.subjects.guard import Clock
from reference.subjects.subject import Subject
from tests.test_annotation import STAGED
from tests.test_repair import LAYER, Loader, load

__all__ = ["load"]
SHARE = 9  # of the expressions one in so many is looked at


def seen_in(module: ModuleType) -> tuple[Source, Seen, list[Key]]:
    """The source of a module's LayerNorm, and what its expressions hold in a small case."""
    subject = Subject(module.LayerNorm, kind_named("LayerNorm"), "LayerNorm")
    case = make("LayerNorm", (5, 7), seed=2)
    located = locate(subject, [case], Clock(10))
    patch = Patch(located, located.source)
    return located.source, watched(patch, lambda: subject.run(case)), list(patch.units)


def sites(source: Source, seen: Seen, keys: list[Key]) -> Iterator[Site]:
    for key in keys:
        yield from walk_sites(source, seen, key, wrappable(source, key))


@pytest.mark.parametrize("text", [LAYER, STAGED], ids=["closed form", "staged"])
def test_what_is_put_in_means_what_it_says(load: Loader, text: str) -> None:
    """In parentheses it would mean the same: so none are missing, before and behind it."""
    source, seen, keys = seen_in(load(text))
    count = 0
    for number, site in enumerate(sites(source, seen, keys)):
        if number % SHARE:
            continue
        for _, rule in (*expressions.RULES, *calls.RULES, *transplants.RULES):
            for replacement, tightly, _cost in rule(site):
                start, end, put = site.replaced(replacement, tightly)
                first, last = source.span(site.node)
                meant = f"{text[:first]}({replacement}){text[last:]}"
                assert ast.dump(ast.parse(f"{text[:start]}{put}{text[end:]}")) == ast.dump(ast.parse(meant)), put
                count += 1
    assert count > 200


def test_every_edit_changes_the_text_and_leaves_a_module(load: Loader) -> None:
    source, seen, keys = seen_in(load(STAGED))
    edits = all_edits(source, seen, keys)
    assert len(edits) > 2000
    assert {edit.kind for edit in edits} >= {"a statement left out", "other axes", "a factor or a term", "another name"}
    for edit in edits[::23]:
        changed = edit.applied(STAGED)
        assert changed != STAGED
        ast.parse(changed)


def test_a_threshold_of_sizes_is_nobody_s_to_move(load: Loader) -> None:
    guarded = LAYER.replace("        d = dy", "        if len(dy) > 64:\n            dy = 1 * dy\n        d = dy")
    source, seen, keys = seen_in(load(guarded))
    start = guarded.index("len(dy) > 64")
    for edit in all_edits(source, seen, keys):
        for first, last, _ in edit.places:
            inside = start <= first and last <= start + len("len(dy) > 64")
            assert not inside, edit


def test_the_same_edit_in_two_places_is_one() -> None:
    source = Source("f.py", None, "a = x.sum()\nb = y.sum()\n")
    one = Edit(4, 11, "x.sum(axis=1)", "other arguments", 1.8, Key("f"), 0, 1)
    other = Edit(16, 23, "y.sum(axis=1)", "other arguments", 1.8, Key("f"), 1, 2)
    (both,) = twins(source, [one, other])
    assert both.applied(source.text) == "a = x.sum(axis=1)\nb = y.sum(axis=1)\n"
    assert both.cost > one.cost


def test_a_function_is_compiled_alone_with_what_is_around_it() -> None:
    text = "class A:\n    def f(self):\n        return 1\n    @property\n    def g(self): return super().x\n    def h(self): pass\n"
    source = Source("f.py", None, text)
    skeleton = Skeleton(source, Key("A.g"), 0)
    code = skeleton.compiled(text[skeleton.start : skeleton.end].replace("x", "y"))
    assert code.co_qualname == "A.g"
    assert code.co_freevars == ("__class__",)
    assert "y" in code.co_names
    with pytest.raises(ValueError, match="Expected the function to be where it was"):
        skeleton.compiled("@property\n    def other(self): pass")


# --- read off from values ---------------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
X, Y, ROW = RNG.standard_normal((4, 6)), RNG.standard_normal((4, 6)), RNG.uniform(0.5, 2, (4, 1))
KNOWN = [
    Known("x", ATOM, 0.0, X),
    Known("y", ATOM, 0.0, Y),
    Known("std", ATOM, 0.0, ROW),
    Known("n", ATOM, 0.0, np.array(6.0)),
]


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (X, {("x", 1.0)}),
        (-1 / ROW**2, {("std", -2.0)}),
        (X * Y, {("x", 1.0), ("y", 1.0)}),
        (-2 * X / ROW / 6, {("x", 1.0), ("std", -1.0), ("n", -1.0)}),
        (X + Y, None),
        (1.37 * X, None),
        (np.full((4, 6), np.nan), None),
    ],
    ids=["x", "-1 / std**2", "x * y", "-2 * x / std / n", "a sum", "another number", "nothing"],
)
def test_a_value_is_recognized_as_a_product_of_powers(target: Any, wanted: set[tuple[str, float]] | None) -> None:
    found = sorted(products(np.asarray(target), KNOWN), key=lambda formed: formed.cost)
    if wanted is None:
        assert not found
        return
    best = found[0]
    assert {(known.text, power) for known, power in best.parts} == wanted
    value = best.constant * np.prod([np.broadcast_to(k.value, target.shape) ** p for k, p in best.parts], axis=0)
    np.testing.assert_allclose(value, target, rtol=1e-9)
