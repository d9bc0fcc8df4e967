"""Random cases by Hypothesis: whole ones within a scope, which shrink to few numbers and plain values.

Knows cases and scopes; must not know how a layer is run or judged.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

from hypothesis import strategies as st

from reference.cases.case import AFFINE_VALUES, ANOTHER, DATA, LAYOUTS, PLAIN_DATA, Case
from reference.cases.probes import designed_for
from reference.cases.scope import Scope
from reference.dtypes import NARROW
from reference.kinds import Kind


def cases(scope: Scope) -> st.SearchStrategy[Case]:
    """Whole random cases within `scope`; they shrink to few numbers, float64, unit data, one call."""
    return _draw_case(scope)


@st.composite
def _draw_case(draw: st.DrawFn, scope: Scope) -> Case:
    kind, keywords, pick = scope.kind, scope.keywords, _picker(draw)
    if scope.dear:
        return _varied(
            draw, scope, pick(DATA), pick(_known(scope)[pick([d for d in scope.dtypes if _known(scope)[d]])])
        )
    # 2D and 4D are half of the cases each way; the simplest rank comes first.
    ndim = pick([n for n in (2, 4, 3, 5, 4, 2) if n in scope.ndims] or scope.ndims)
    sizes = draw(_SIZES[ndim])
    groups = draw(st.integers(1, 4)) if kind.has_groups else 1
    sizes = _more_than_one_value(kind, sizes)
    sizes = (sizes[0], groups * sizes[1], *sizes[2:])
    axes = draw(st.integers(1, ndim)) if kind.normalizes_features and scope.several_axes else 1
    options = kind.options_for(sizes, groups=groups, axes=axes)
    if "eps" in keywords:
        options["eps"] = pick(
            [1e-5, 1e-3, 1e-8, 0.3, *([None] if kind.optional["eps"] is None and scope.no_eps else [])]
        )
    gamma = pick([value for value in (True, True, True, False) if value in scope.gammas])
    if gamma != kind.optional[kind.affine_keyword]:
        options[kind.affine_keyword] = gamma
    if "bias" in kind.optional and not pick([value for value in (True, True, False) if value in scope.betas]) and gamma:
        options["bias"] = False
    training = True
    if kind.tracks:
        training = pick(scope.modes)
        if "momentum" in keywords:
            options["momentum"] = pick([0.1, 0.4, 1.0, 0.0, *([None] if scope.averages else [])])
        if "track_running_stats" in keywords and pick([False, False, False, True]):
            options["track_running_stats"] = False
    dtype, data = pick(scope.dtypes), pick(DATA)
    if dtype in NARROW:  # whose range a small eps would leave
        options |= {"eps": 0.3} if "eps" in keywords else {}
    plain = Case(kind, sizes, tuple(sorted(options.items())), dtype, training=training)
    return _varied(draw, scope, data, plain)


def _varied(draw: st.DrawFn, scope: Scope, data: str, plain: Case) -> Case:
    """A case of the shape, dtype, options and mode of another, with arrays and calls of its own."""
    pick = _picker(draw)
    if plain.dtype in NARROW:  # whose range the other recipes would leave
        data = data if data in PLAIN_DATA else "unit"
    return replace(
        plain,
        data=data,
        seed=draw(_SEED),
        layout=pick(LAYOUTS),
        dy_layout=pick(LAYOUTS),
        affine_values=pick(AFFINE_VALUES),
        calls=pick([1, 2, 3]),
        resize=not scope.dear and pick([False, True]),
        history=pick(
            ["", "", "forward only", "refilled", ANOTHER, *(["eval between"] if False in scope.modes else [])]
        ),
        overwrite=pick(["", "", "x", "y"]),
        dy_data=pick(["unit", "unit", "unit", "large"]) if plain.dtype not in NARROW else "unit",
    )


@lru_cache(maxsize=8)
def _known(scope: Scope) -> dict[str, tuple[Case, ...]]:
    """By dtype the shapes, options and modes of the designed cases within a scope but the large, the smallest first."""
    designed = [case for case in designed_for(scope) if 0 < prod(case.shape) <= _FEW]
    designed = [case for case in designed if case.shape == _more_than_one_value(scope.kind, case.shape)]
    plain = dict.fromkeys(Case(c.kind, c.shape, c.config, c.dtype, training=c.training) for c in designed)
    ordered = sorted(plain, key=lambda case: prod(case.shape))
    return {dtype: tuple(case for case in ordered if case.dtype == dtype) for dtype in scope.dtypes}


def _more_than_one_value(kind: Kind, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """`sizes` grown where torch would refuse a single value: of a channel, or of a group of `sizes[1]` channels."""
    if kind.normalizes_features or prod(sizes[2:]) > 1:
        return sizes
    if not kind.over_batch and not kind.has_groups:
        return (*sizes[:-1], 2)
    single = sizes[0] * (sizes[1] if kind.has_groups else 1) == 1
    return (2, *sizes[1:]) if single else sizes


def _picker(draw: st.DrawFn) -> Any:
    """A draw of one of few values, the simplest first; half the price of `sampled_from`'s own bookkeeping."""

    def pick(values: Iterable[Any]) -> Any:
        values = tuple(values)
        return values[draw(_INDEX[len(values)])] if len(values) > 1 else values[0]

    return pick


_FEW = 1500  # numbers in x, up to which random cases take a shape of the designed ones
_SEED = st.integers(0, 2**16)
_SIZES = {ndim: st.tuples(*[st.integers(1, most)] * ndim) for ndim, most in ((2, 9), (3, 6), (4, 5), (5, 4))}
_INDEX = {n: st.integers(0, n - 1) for n in range(2, 250)}
