"""No ordinary way to compute a right number is accused: layers that are put together from all of them, on every probe.

Where one fails, either the way is not ordinary (it loses what others keep), or the scale of that quantity in
`reference.truth.exact` lacks a term that it rounds. `python -m tests.soak` combines the ways at random, for long.
"""

import random
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from reference.cases.case import Case, make
from reference.cases.probes import probes
from reference.cases.random_cases import Chosen, random_case
from reference.cases.scope import Scope
from reference.dtypes import NARROW
from reference.kinds import KINDS
from reference.subjects.subject import Subject
from reference.truth import exact
from reference.truth.convention import TORCH, Convention
from reference.truth.verdict import judge
from tests import soak
from tests.formulations.layers import KINDS as LAYERS
from tests.formulations.layers import corpus, drawn, layer_of

EVERY = 5  # of the probes one in so many is tried on each layer, others on the next; all with `-m slow`
SMALL = 30_000  # numbers in a probe, at most, where not all are tried
RANDOM = 300  # cases for each layer

CORPUS = [(kind, place, ways) for kind in KINDS for place, ways in enumerate(corpus(kind))]
EACH = pytest.mark.parametrize(
    ("kind", "place", "ways"), [pytest.param(*row, id=f"{row[0]}-{row[1]}-{row[2]['dx']}") for row in CORPUS]
)


def accusations(kind: str, ways: dict[str, str], tried: Iterable[Case], convention: Convention = TORCH) -> list[str]:
    """Which quantities of which cases are called wrong, and by how much; a line each, with the way of that part."""
    subject = Subject(layer_of(kind, ways), KINDS[kind], kind)
    found = []
    for case in tried:
        trial = judge(subject, case, convention)
        assert not trial.seen.refused, f"{trial.seen.refused}: {case}"
        found += [f"{trial.comparisons[name]} by {ways} in {case}" for name in trial.wrong]
        found += [f"{finding} in {case}" for finding in trial.findings]
    return found


def designed(kind: str) -> list[Case]:
    return [case for case in probes(KINDS[kind]) if case.dtype not in NARROW]


@EACH
def test_no_formulation_is_accused(kind: str, place: int, ways: dict[str, str]) -> None:
    some = [case for at, case in enumerate(designed(kind)) if (at + place) % EVERY == 0 and prod(case.shape) <= SMALL]
    assert accusations(kind, ways, some) == []


@pytest.mark.parametrize("kind", KINDS)
def test_long_sums_may_be_added_one_by_one(kind: str) -> None:
    """As NumPy adds along all axes but the last; in float32 too, for layers that take no other."""
    large = [case for case in designed(kind) if prod(case.shape) > SMALL]
    tried = [
        replace(case, dtype=dtype, seed=seed) for case in large for dtype in ("float64", "float32") for seed in (1, 2)
    ]
    assert accusations(kind, corpus(kind)[0] | {"total": "first axis"}, tried) == []


@pytest.mark.slow
@EACH
def test_no_formulation_is_accused_in_any_probe(kind: str, place: int, ways: dict[str, str]) -> None:
    assert accusations(kind, ways, designed(kind)) == []


@pytest.mark.slow
@EACH
def test_no_formulation_is_accused_at_random(kind: str, place: int, ways: dict[str, str]) -> None:
    scope, choose = Scope.full(KINDS[kind]), Chosen(random.Random(place))
    some = [random_case(scope, choose) for _ in range(RANDOM)]
    assert accusations(kind, ways, some, Convention()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=30, deadline=None)
def test_no_combination_is_accused_in_any_probe(kind: str, data: st.DataObject) -> None:
    ways = drawn(kind, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    assert accusations(kind, ways, designed(kind)) == []


# --- that this is a test ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_every_part_is_in_the_corpus(kind: str) -> None:
    for part, ways in LAYERS[kind].parts.items():
        assert {layer[part] for layer in corpus(kind)} == set(ways), part


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["total", "var", "rstd", "y", "dx", "dgamma"])
def test_a_way_that_is_wrong_is_accused(kind: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part counts, in the quantity that is made by it: one that is off by a millionth shows."""
    ways = corpus(kind)[0]
    right = LAYERS[kind].parts[part][ways[part]]
    monkeypatch.setitem(LAYERS[kind].parts[part], ways[part], lambda *given: right(*given) * (1 + 1e-6))
    found = accusations(kind, ways, designed(kind)[:4])
    assert any(line.startswith({"dx": "dx", "dgamma": "dgamma"}.get(part, "y")) for line in found)


# --- what it found ------------------------------------------------------------------------------------------------------


def evaluated(**rest: Any) -> Case:
    return make("BatchNorm", (5, 2, 3), training=False, calls=2, **rest)


FOUND = {
    # running + 1 * (1e-5 - running): the new variance to the roundoff of the old, by which eval divides
    "all of the new": evaluated(data="small", eps=1e-8, momentum=1.0),
    "all of the new, averaged": evaluated(data="small", eps=1e-8, momentum=None),
    "all of the new, in float32": evaluated(data="small", eps=1e-8, momentum=1.0, dtype="float32"),
    # batch + 1 * (running - batch): nothing is left of an old variance of 1 beside a new one of 1e120
    "nothing of the new": evaluated(data="large", momentum=0.0),
    "nothing of the new, in float32": evaluated(data="large", momentum=0.0, dtype="float32"),
}


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
@pytest.mark.parametrize("running", LAYERS["BatchNorm"].parts["running"])
def test_given_statistics_come_with_the_rounding_of_what_they_followed(running: str, case: Case) -> None:
    assert accusations("BatchNorm", corpus("BatchNorm")[0] | {"running": running}, [case]) == []


def test_the_rounding_of_what_they_followed_is_in_the_scale() -> None:
    """By scale / (2 (var + eps)) units of xhat in y and dgamma, and of itself in dx; 1 at most where nothing is lost."""
    for case, most in ((FOUND["all of the new"], 1e6), (evaluated(), 2), (evaluated(data="shifted"), 5)):
        got, p = exact.truth(case), exact.passes(case)[-1]
        units = np.asarray(got.scale["dx"] / abs(p.quantity("dx")), float)
        doubt = np.asarray(got.scale["running_var"] / (2 * (p.running_var.ravel() + case.eps)), float)
        np.testing.assert_allclose(units, np.broadcast_to(1 + doubt[:, None], units.shape), rtol=1e-12)
        assert most / 20 < units.max() < most


@pytest.mark.parametrize("total", ["one by one", "first axis", "cumsum"])
def test_equal_squares_may_be_added_one_by_one(total: str) -> None:
    """Without a mean to subtract, hundreds of equal numbers are added, and each sum is rounded the same way."""
    constant = [make("RMSNorm", (4, 600), data="constant", dtype="float32", seed=seed) for seed in range(20)]
    assert accusations("RMSNorm", corpus("RMSNorm")[0] | {"total": total}, constant) == []


# --- the long search ----------------------------------------------------------------------------------------------------


def test_a_short_search_accuses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    status = soak.main(["--cases", "2000"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert said.endswith(": 0 accusations\n")


def test_the_search_reports_a_layer_that_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = LAYERS["GroupNorm"].parts["dx"]
    for name, way in right.items():
        monkeypatch.setitem(right, name, lambda p, way=way: way(p) * 1.001)
    assert soak.main(["--cases", "300"]) == 1
    assert "ACCUSED formulation GroupNorm" in capsys.readouterr().out


def test_torch_is_among_those_that_are_searched() -> None:
    kind = KINDS["GroupNorm"]
    names = set(next(soak.soak(1, (0,), {kind: soak.Turn(kind)})).layers)
    assert {"torch GroupNorm", "npnorm GroupNorm", "drawn GroupNorm", "formulation GroupNorm 01"} <= names
    assert any(name.startswith("planted GroupNorm") for name in names)
