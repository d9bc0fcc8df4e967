"""The cases by themselves: the same arrays each time, in the layouts they name, and draws that leave nothing out.

Knows torch, which must accept whatever is drawn, and no other layer.
"""

import dataclasses
import itertools
import pickle
import random
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.cases.case import AFFINE_VALUES, DATA, LARGE, LAYOUTS, TINY, Case, make
from reference.cases.probes import designed_for
from reference.cases.random_cases import Chosen, random_case
from reference.cases.scope import Scope
from reference.cases.strategies import cases, make_smaller
from reference.dtypes import DTYPES, dtype_named, roundoff
from reference.kinds import KINDS, kind_named
from reference.truth import torch_layers

every_like = pytest.mark.parametrize("like", KINDS)


def drawn(scope: Scope, count: int) -> list[Case]:
    """So many random cases of a scope, the same ones each time."""
    choose = Chosen(random.Random(1))
    return [random_case(scope, choose) for _ in range(count)]


@pytest.fixture(scope="module")
def draws() -> dict[str, list[Case]]:
    """Some four hundred cases of the full scope of each layer."""
    return {like: drawn(Scope.full(KINDS[like]), 420) for like in KINDS}


def test_what_a_case_keeps_beside_its_fields_stays_in_its_process():
    """The hash of a text is another one in each."""
    case = make("BatchNorm", (3, 4), eps=1e-3, calls=2)
    assert (hash(case), case.options["eps"], case.has_gamma) == (hash(dataclasses.replace(case)), 1e-3, True)
    again = pickle.loads(pickle.dumps(case))
    assert again == case
    assert vars(again).keys() == {field.name for field in dataclasses.fields(Case)}
    assert dataclasses.replace(case, calls=1).calls == 1
    assert not dataclasses.replace(case, config=(("affine", False), ("num_features", 4))).has_gamma


# --- arrays -----------------------------------------------------------------------------------------------------------

SHAPE = (2, 3, 4, 5)
ITEM = 8  # bytes of a float64
STRIDES = {  # of x of shape (2, 3, 4, 5) in numbers, by layout
    "C": (60, 20, 5, 1),
    "read-only": (60, 20, 5, 1),
    "F": (1, 2, 6, 24),
    "strided": (120, 40, 10, 2),
    "flipped": (60, 20, 5, -1),
    "transposed": (60, 20, 1, 4),
    "sliced": (60, 20, 5, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["x", "dy"])
def test_a_layout_changes_the_strides_and_not_the_values(which: str, layout: str) -> None:
    place = {"layout" if which == "x" else "dy_layout": layout}
    plain = make("GroupNorm", SHAPE, seed=3)
    array = getattr(dataclasses.replace(plain, **place).arrays(), which)
    other = "dy" if which == "x" else "x"
    assert array.strides == tuple(ITEM * step for step in STRIDES[layout])
    assert array.flags.writeable == (layout != "read-only")
    assert np.array_equal(array, getattr(plain.arrays(), which))
    assert getattr(dataclasses.replace(plain, **place).arrays(), other).flags.c_contiguous


def test_a_sliced_array_does_not_start_its_memory() -> None:
    """Whoever takes the buffer and forgets the offset reads other numbers."""
    x = make("GroupNorm", SHAPE, layout="sliced").arrays().x
    assert x.base is not None
    assert x.base.shape == (4, 3, 4, 5)
    assert x.ctypes.data - x.base.ctypes.data == 60 * ITEM
    assert (x.base[[0, -1]] == -1000).all()


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected layout to be one of .* but got 'diagonal'"):
        make("GroupNorm", SHAPE, layout="diagonal").arrays()


@pytest.mark.parametrize("shape", [(2, 3), (1, 1), (2, 3, 4), (2, 3, 1, 4), (2, 1, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_every_shape(shape: tuple[int, ...], layout: str) -> None:
    plain, case = make("LayerNorm", shape), make("LayerNorm", shape, layout=layout, dy_layout=layout)
    for got, expected in zip(case.arrays(), plain.arrays(), strict=True):
        assert got.shape == shape
        assert np.array_equal(got, expected)


@every_like
def test_a_case_makes_the_same_arrays_twice_and_new_ones(like: str) -> None:
    case = make(like, (2, 4, 3), calls=2)
    for call in (0, 1):
        first, second = case.arrays(call), case.arrays(call)
        for one, other in zip(first, second, strict=True):
            assert np.array_equal(one, other)
            assert not np.shares_memory(one, other)
    assert all(np.array_equal(one, other) for one, other in zip(case.arrays(), case.arrays(1), strict=True))
    assert not np.array_equal(case.arrays(0).x, case.arrays(1).x)
    assert not np.array_equal(case.arrays().x, dataclasses.replace(case, seed=1).arrays().x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data", DATA)
@every_like
def test_arrays_have_the_dtype_and_nothing_that_is_not_finite(like: str, data: str, dtype: str) -> None:
    case = make(like, (2, 4, 3), data=data, dtype=dtype, affine_values="random")
    if dtype == "float16" and data == "offset 1e6":
        return  # beyond what float16 holds; the scopes leave float16 out
    for array in (*case.arrays(), *(value for value in case.parameters() if value is not None)):
        assert array.dtype == dtype
        assert np.isfinite(array).all()


def test_the_upstream_gradient_is_never_constant_and_has_a_mean() -> None:
    """With dy constant, most wrong backwards pass; with a mean of 0, a missing mean term does."""
    dy = make("GroupNorm", (50, 4, 10)).arrays().dy
    assert dy.std() == pytest.approx(1, abs=0.1)
    assert dy.mean() == pytest.approx(0.3, abs=0.1)


def test_the_sums_of_what_is_centred_do_not_grow() -> None:
    dy = make("GroupNorm", (1000, 4, 10), dy_data="centred").arrays().dy
    assert abs(np.cumsum(dy)).max() < 1000 < abs(dy).sum() / 10


@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 4, 7), (2, 4, 3, 5)])
def test_the_sums_of_what_is_balanced_have_no_rounding(shape: tuple[int, ...]) -> None:
    x = make("BatchNorm", shape, data="balanced", dtype="float32").arrays().x
    assert (x.sum(-1) == 0).all()
    assert (x == np.round(x)).all()
    assert set(np.abs(x).ravel()) == {0, 1, 2, 3}


# --- data recipes -----------------------------------------------------------------------------------------------------


def x_of(data: str, dtype: str = "float64", like: str = "GroupNorm") -> np.ndarray:
    return make(like, (40, 4, 10), groups=2, axes=2, data=data, dtype=dtype).arrays().x


@pytest.mark.parametrize(
    ("data", "mean", "deviation"),
    [
        ("unit", 0, 1),
        ("shifted", 3, 2),
        ("small", 0, 3e-3),
        ("integers", 0, 2),
        ("tiny", 0, 1e-20),
        ("large", 0, 1e60),
        *((f"offset 1e{power}", 10**power, 1) for power in (2, 4, 6)),
    ],
)
def test_what_the_recipes_are_called_is_what_they_are(data: str, mean: float, deviation: float) -> None:
    x = x_of(data)
    assert x.mean() == pytest.approx(mean, abs=0.1 * deviation)
    assert x.std() == pytest.approx(deviation, rel=0.1)


@every_like
def test_constant_data_is_constant_over_what_shares_a_mean(like: str) -> None:
    x = x_of("constant", like=like)
    rows = {
        "GroupNorm": x.reshape(40, 2, -1),
        "BatchNorm": x.transpose(1, 0, 2).reshape(4, -1),
        "InstanceNorm": x,
    }.get(like, x.reshape(40, -1))
    assert np.ptp(rows, axis=-1).max() == 0
    assert np.unique(rows).size > 1


@pytest.mark.parametrize("rows", [30, 40])
def test_many_equal_numbers_have_sums_without_rounding(rows: int) -> None:
    """Of few of them a layer may lose what it does: half as many roundoffs as there are numbers, as tolerated."""
    case = make("LayerNorm", (rows, 2, 2), axes=3, data="constant", dtype="float32", seed=38272)
    x = case.arrays().x.ravel()
    one_by_one = np.add.accumulate(x, dtype=np.float32)[-1]
    assert (one_by_one == len(x) * x[0].astype(np.float64)) == (len(x) > 128)


def test_integers_are_small_and_one_entry_is_not_a_number() -> None:
    assert np.unique(x_of("integers")).tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert np.isnan(x_of("nan")).sum() == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_magnitudes_keep_their_cubes(dtype: str) -> None:
    """So that no right layer overflows: the inverse cube of the deviation appears in a textbook backward."""
    info = ml_dtypes.finfo(dtype_named(dtype))
    assert LARGE[dtype] ** 3 * 64 < float(info.max)
    if dtype != "float16":  # whose layers compute in float32
        assert TINY[dtype] ** 3 > float(info.tiny)


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", AFFINE_VALUES)
def test_gamma_and_beta_follow_their_recipe(values: str) -> None:
    gamma, beta = make("GroupNorm", (2, 6, 3), affine_values=values).parameters()
    assert gamma is not None
    assert beta is not None
    assert gamma.shape == beta.shape == (6,)
    expected = {"random": (6, 6), "uniform": (1, 1), "unit": (1, 1), "some zero": (6, 6)}[values]
    assert (np.unique(gamma).size, np.unique(beta).size) == expected
    assert ((gamma == 1).all() and (beta == 0).all()) == (values == "unit")
    assert (gamma == 0).sum() == (values == "some zero")


@pytest.mark.parametrize(
    ("case", "has_gamma", "has_beta", "shape"),
    [
        (make("GroupNorm", (2, 4, 3), affine=False), False, False, (4,)),
        (make("LayerNorm", (2, 4, 3)), True, True, (3,)),
        (make("LayerNorm", (2, 4, 3), axes=2), True, True, (4, 3)),
        (make("LayerNorm", (2, 4, 3), bias=False), True, False, (3,)),
        (make("LayerNorm", (2, 4, 3), elementwise_affine=False), False, False, (3,)),
        (make("RMSNorm", (2, 4, 3), axes=3, elementwise_affine=False), False, False, (2, 4, 3)),
        (make("BatchNorm", (2, 4, 3)), True, True, (4,)),
        (make("BatchNorm", (2, 4, 3), affine=False), False, False, (4,)),
        (make("InstanceNorm", (2, 4, 3)), False, False, (4,)),
        (make("InstanceNorm", (2, 4, 3), affine=True), True, True, (4,)),
    ],
    ids=str,
)
def test_a_case_knows_its_parameters(case: Case, has_gamma: bool, has_beta: bool, shape: tuple[int, ...]) -> None:
    assert (case.has_gamma, case.has_beta, case.parameter_shape) == (has_gamma, has_beta, shape)
    layer = torch_layers.LAYERS[case.kind.name](**case.options)
    for got, theirs in zip(case.parameters(), (layer.gamma, layer.beta), strict=True):
        assert (got is None) == (theirs is None)
        assert got is None or got.shape == theirs.shape == shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_eps_is_what_torch_takes(dtype: str) -> None:
    of_dtype = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-23, "bfloat16": 2.0**-23}[dtype]
    assert make("RMSNorm", (2, 3), dtype=dtype).eps == of_dtype
    assert make("RMSNorm", (2, 3), dtype=dtype, eps=None).eps == of_dtype
    assert make("RMSNorm", (2, 3), dtype=dtype, eps=0.5).eps == 0.5
    assert make("LayerNorm", (2, 3), dtype=dtype).eps == 1e-5
    case = make("RMSNorm", (2, 3), dtype=dtype, elementwise_affine=False)
    y = torch_layers.LAYERS["RMSNorm"](3)(np.full((2, 3), 2.0**-12, dtype_named(dtype)))
    expected = 2.0**-12 / np.sqrt(2.0**-24 + case.eps)
    assert y == pytest.approx(np.full((2, 3), expected), rel=8 * roundoff(dtype))


# --- calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "batches"),
    [
        (make("GroupNorm", (2, 4, 3), calls=3), [2, 2, 2]),
        (make("GroupNorm", (2, 4, 3), calls=3, resize=True), [2, 3, 2]),
        (make("BatchNorm", (2, 4, 3), calls=2, resize=True), [3, 2]),
        (make("LayerNorm", (2, 4, 3), axes=2, calls=2, resize=True), [3, 2]),
        (make("LayerNorm", (2, 4, 3), axes=3, calls=2, resize=True), [2, 2]),  # the layer takes no other shape
    ],
    ids=str,
)
def test_calls_before_the_last_may_have_another_batch(case: Case, batches: list[int]) -> None:
    shapes = [case.arrays(call).x.shape for call in range(case.calls)]
    assert shapes == [case.shape_of(call) for call in range(case.calls)] == [(n, 4, 3) for n in batches]
    assert shapes[-1] == case.shape == case.arrays().x.shape


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_case_in_one_line() -> None:
    case = make("GroupNorm", (2, 4, 3), groups=2, eps=0.3, dtype="float32", seed=7, layout="F", dy_layout="flipped")
    assert str(case) == (
        "GroupNorm(eps=0.3, num_channels=4, num_groups=2), x (2, 4, 3) float32, unit data, x F, dy flipped, seed 7"
    )
    case = make("BatchNorm", (2, 4), affine_values="unit", training=False, calls=2, resize=True, overwrite="x")
    assert str(case) == (
        "BatchNorm(num_features=4), x (2, 4) float64, unit data, gamma unit, eval, call 2, the one before of another "
        "size, x overwritten before backward, seed 0"
    )


@pytest.mark.parametrize(
    ("case", "options"),
    [
        (make("GroupNorm", (2, 6, 3), groups=3, affine=False), {"num_groups": 3, "num_channels": 6, "affine": False}),
        (make("LayerNorm", [2, 4, 3], axes=2, eps=0.1), {"normalized_shape": (4, 3), "eps": 0.1}),
        (make("RMSNorm", (2, 4, 3), eps=None), {"normalized_shape": 3, "eps": None}),
        (make("BatchNorm", (2, 4, 3), momentum=None), {"num_features": 4, "momentum": None}),
    ],
    ids=str,
)
def test_make_sorts_options_from_fields(case: Case, options: dict[str, Any]) -> None:
    assert case.options == options
    assert list(case.config) == sorted(options.items())
    assert set(options) <= set(case.kind.keywords)


def test_make_refuses_what_neither_case_nor_layer_has() -> None:
    with pytest.raises(TypeError, match="momentum"):
        make("GroupNorm", (2, 4), momentum=0.1)


@every_like
def test_a_case_is_a_value(like: str) -> None:
    one, same, other = make(like, (2, 4, 3)), make(like, (2, 4, 3)), make(like, (2, 4, 3), seed=1)
    assert one == same != other
    assert len({one, same, other}) == 2
    assert eval(repr(one), {"Case": Case, "kind_named": kind_named}) == one


# --- what is drawn ----------------------------------------------------------------------------------------------------


@every_like
@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data(), dear=st.booleans())
def test_torch_accepts_every_case_that_is_drawn(like: str, data: st.DataObject, dear: bool) -> None:
    case = data.draw(cases(dataclasses.replace(Scope.full(KINDS[like]), dear=dear)))
    layer = torch_layers.LAYERS[like](**case.options)
    for call in range(case.calls):
        layer.training = case.training or call < case.calls - 1
        x, dy = case.arrays(call)
        assert layer.forward(x).shape == x.shape
        assert layer.backward(dy).shape == dy.shape
    assert "\n" not in str(case)
    assert not Scope.full(KINDS[like]).lacks(case)


@every_like
def test_no_rank_is_absent_and_2d_and_4d_are_common(like: str, draws: dict[str, list[Case]]) -> None:
    ranks = Counter(len(case.shape) for case in draws[like])
    assert ranks.keys() == set(KINDS[like].ranks)
    for rank in {2, 4} & set(KINDS[like].ranks):
        assert ranks[rank] >= len(draws[like]) / 8


FIELDS = {
    "data": DATA,
    "layout": LAYOUTS,
    "dy_layout": LAYOUTS,
    "affine_values": AFFINE_VALUES,
    "dtype": ("float64", "float32"),
    "calls": (1, 2, 3),
    "resize": (True, False),
    "overwrite": ("", "x", "y"),
    "has_gamma": (True, False),
}


@pytest.mark.parametrize("field", FIELDS)
@every_like
def test_every_value_is_drawn(like: str, field: str, draws: dict[str, list[Case]]) -> None:
    assert {getattr(case, field) for case in draws[like]} == set(FIELDS[field])


@every_like
def test_every_option_is_drawn(like: str, draws: dict[str, list[Case]]) -> None:
    optional = set(KINDS[like].optional)
    for keyword in optional:
        values = {case.options[keyword] for case in draws[like] if keyword in case.options}
        assert values, keyword
    assert {case.training for case in draws[like]} == ({True, False} if like == "BatchNorm" else {True})
    if like == "BatchNorm":
        assert {case.options["momentum"] for case in draws[like]} >= {None, 0.1}
        modes = {(case.training, case.options.get("track_running_stats", True)) for case in draws[like]}
        assert modes == set(product((True, False), repeat=2))
    if like in ("LayerNorm", "RMSNorm"):
        assert {len(case.parameter_shape) for case in draws[like]} == {1, 2, 3, 4, 5}


@every_like
def test_the_sizes_that_hide_mistakes_are_not_the_only_ones(like: str, draws: dict[str, list[Case]]) -> None:
    """A batch of one and of many, N == C and not, square space and not, one group, C groups and between."""
    shapes = [case.shape for case in draws[like]]
    assert {shape[0] == 1 for shape in shapes} == {True, False}
    assert {shape[0] == shape[1] for shape in shapes} == {True, False}
    assert {shape[2] == shape[3] for shape in shapes if len(shape) == 4} == {True, False}
    if like == "GroupNorm":
        groups = [(case.options["num_groups"], case.options["num_channels"]) for case in draws[like]]
        assert (
            {number == 1 for number, _ in groups}
            == {number == channels for number, channels in groups}
            == {True, False}
        )
        assert any(1 < number < channels for number, channels in groups)


@every_like
def test_the_simplest_case_is_made_of_zeros(like: str) -> None:
    """What a failing draw shrinks to: plain values, so that whatever is not plain matters."""
    simplest = random_case(Scope.full(KINDS[like]), lambda count: 0)
    assert (simplest.dtype, simplest.data, simplest.layout, simplest.seed) == ("float64", "unit", "C", 0)
    assert (simplest.calls, simplest.overwrite, simplest.resize, simplest.training) == (1, "", False, True)
    assert simplest.has_gamma
    assert len(simplest.shape) == 2 or like == "InstanceNorm"


@every_like
@given(numbers=st.integers(0, 2**32))
def test_a_case_is_made_again_of_its_numbers(like: str, numbers: int) -> None:
    scope, chosen = Scope.full(KINDS[like]), Chosen(random.Random(numbers))
    case, again = random_case(scope, chosen), iter(chosen.numbers)
    assert random_case(scope, lambda count: next(again)) == case
    assert next(again, None) is None


# --- what fails is made smaller ---------------------------------------------------------------------------------------


def in_a_second_call(case: Case) -> bool:
    return case.calls == 2 and case.shape[-1] > 1


def a_failing_one(fails: Callable[[Case], bool]) -> tuple[Case, list[int]]:
    generator = random.Random(3)
    while True:
        chosen = Chosen(generator)
        case = random_case(FULL, chosen)
        if fails(case) and len(case.shape) == 4 and case.calls == 2:
            return case, chosen.numbers


def tried_from(numbers: list[int], fails: Callable[[Case], bool]) -> list[tuple[Case, bool]]:
    tried: list[tuple[Case, bool]] = []

    def note(case: Case) -> bool:
        tried.append((case, fails(case)))
        return tried[-1][1]

    make_smaller(FULL, numbers, note)
    return tried


FULL = Scope.full(KINDS["GroupNorm"])


def test_a_failing_case_is_made_smaller_from_where_it_is():
    case, numbers = a_failing_one(in_a_second_call)
    before = random.getstate()
    tried = tried_from(numbers, in_a_second_call)
    assert tried[0] == (case, True)
    smallest = [one for one, failed in tried if failed][-1]
    assert str(smallest) == (
        "GroupNorm(eps=1e-05, num_channels=2, num_groups=2), x (2, 2) float64, unit data, call 2, seed 0"
    )
    assert len(tried) < 120, "as many as a check has for it"
    assert random.getstate() == before, "the caller's random numbers go on as they would have"
    random.random()
    assert tried_from(numbers, in_a_second_call) == tried, "the same each time"


def test_what_fails_now_and_then_or_not_again_ends_the_search():
    _, numbers = a_failing_one(in_a_second_call)
    turns = itertools.cycle([True, False, False])
    assert tried_from(numbers, lambda case: next(turns))
    assert len(tried_from(numbers, lambda case: False)) == 1


def test_what_the_question_raises_is_passed_on():
    class Enough(BaseException):
        pass

    def raises(case: Case) -> bool:
        raise Enough

    with pytest.raises(Enough):
        make_smaller(FULL, a_failing_one(in_a_second_call)[1], raises)


# --- scopes -----------------------------------------------------------------------------------------------------------

NARROW = [  # a scope, a case outside it, and what it lacks
    ("GroupNorm", {"ndims": (2, 4)}, make("GroupNorm", (2, 4, 3)), "x of rank 3"),
    ("GroupNorm", {"dtypes": ("float64",)}, make("GroupNorm", (2, 4), dtype="float32"), "float32"),
    ("GroupNorm", {"gammas": (True,)}, make("GroupNorm", (2, 4), affine=False), "without gamma"),
    ("InstanceNorm", {"gammas": (False,)}, make("InstanceNorm", (2, 4, 3), affine=True), "with gamma"),
    ("LayerNorm", {"betas": (True,)}, make("LayerNorm", (2, 4), bias=False), "without beta"),
    ("LayerNorm", {"betas": (False,)}, make("LayerNorm", (2, 4)), "with beta"),
    ("LayerNorm", {"several_axes": False}, make("LayerNorm", (2, 4, 3), axes=2), "several normalized axes"),
    ("LayerNorm", {"keywords": frozenset()}, make("LayerNorm", (2, 4), eps=0.1), "the keyword eps"),
    ("RMSNorm", {"no_eps": False}, make("RMSNorm", (2, 4), eps=None), "eps=None"),
    ("BatchNorm", {"modes": (True,)}, make("BatchNorm", (2, 4), training=False), "eval mode"),
    ("BatchNorm", {"modes": (False,)}, make("BatchNorm", (2, 4)), "training mode"),
    ("BatchNorm", {"keywords": frozenset({"eps"})}, make("BatchNorm", (2, 4), momentum=0.4), "the keyword momentum"),
    ("BatchNorm", {"averages": False}, make("BatchNorm", (2, 4), momentum=None), "momentum=None"),
]


@pytest.mark.parametrize(
    ("like", "changes", "outside", "reason"), [pytest.param(*row, id=f"{row[0]}-{row[3]}") for row in NARROW]
)
def test_what_a_scope_lacks_is_not_drawn(like: str, changes: dict[str, Any], outside: Case, reason: str) -> None:
    scope = dataclasses.replace(Scope.full(KINDS[like]), **changes)
    assert scope.lacks(outside) == reason
    assert Scope.full(KINDS[like]).lacks(outside) == ""
    assert [case for case in drawn(scope, 40) if scope.lacks(case)] == []


@every_like
def test_where_shapes_are_dear_random_cases_have_those_of_the_designed_ones(like: str) -> None:
    """And all else that a case has of its own, so that nothing is compiled anew."""
    scope = dataclasses.replace(Scope.full(KINDS[like]), dtypes=DTYPES, dear=True)

    def programs(found: list[Case]) -> set[Any]:
        return {(case.shape_of(call), case.config, case.dtype) for case in found for call in range(case.calls)}

    found = drawn(scope, 210)
    assert programs(found) <= programs(designed_for(scope))
    assert len(programs(found)) > 10
    assert {case.data for case in found} == set(DATA)
    assert {case.dtype for case in found} == set(DTYPES)
