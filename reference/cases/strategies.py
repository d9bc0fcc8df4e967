"""Random cases by Hypothesis: whole ones within a scope, which shrink to few numbers and plain values.

Knows cases and scopes; must not know how a layer is run or judged.
"""

from collections.abc import Iterable
from math import prod
from typing import Any

from hypothesis import strategies as st

from reference.cases.case import AFFINE_VALUES, ANOTHER, DATA, LAYOUTS, PLAIN_DATA, Case
from reference.cases.scope import Scope
from reference.dtypes import NARROW
from reference.kinds import Kind


def cases(scope: Scope) -> st.SearchStrategy[Case]:
    """Whole random cases within `scope`; they shrink to few numbers, float64, unit data, one call."""
    return _draw_case(scope)


@st.composite
def _draw_case(draw: st.DrawFn, scope: Scope) -> Case:
    kind, keywords, pick = scope.kind, scope.keywords, _picker(draw)
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
    if dtype in NARROW:  # whose range the other recipes, and a small eps, would leave
        data = data if data in PLAIN_DATA else "unit"
        options |= {"eps": 0.3} if "eps" in keywords else {}
    return Case(
        kind=kind,
        shape=sizes,
        config=tuple(sorted(options.items())),
        dtype=dtype,
        data=data,
        seed=draw(_SEED),
        layout=pick(LAYOUTS),
        dy_layout=pick(LAYOUTS),
        affine_values=pick(AFFINE_VALUES),
        training=training,
        calls=pick([1, 2, 3]),
        resize=pick([False, True]),
        history=pick(
            ["", "", "forward only", "refilled", ANOTHER, *(["eval between"] if False in scope.modes else [])]
        ),
        overwrite=pick(["", "", "x", "y"]),
        dy_data=pick(["unit", "unit", "unit", "large"]) if dtype not in NARROW else "unit",
    )


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


_SEED = st.integers(0, 2**16)
_SIZES = {ndim: st.tuples(*[st.integers(1, most)] * ndim) for ndim, most in ((2, 9), (3, 6), (4, 5), (5, 4))}
_INDEX = {n: st.integers(0, n - 1) for n in range(2, 16)}
