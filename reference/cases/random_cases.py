"""Random cases: whole ones within a scope, each made of whole numbers that somebody chooses, 0 for what is simplest.

Who chooses is the caller's affair: a generator where cases are only to be many and different, Hypothesis where one that
fails is to be made smaller (`reference.cases.strategies`). Knows cases and scopes; must not know how a layer is run or judged.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

from reference.cases.case import AFFINE_VALUES, ANOTHER, DATA, LAYOUTS, PLAIN_DATA, Case
from reference.cases.probes import designed_for
from reference.cases.scope import Scope
from reference.dtypes import NARROW
from reference.kinds import Kind

Choose = Callable[[int], int]  # one of 0, 1, ..., n - 1, the first for the simplest

MOST = {2: 9, 3: 6, 4: 5, 5: 4}  # the largest size of an axis, by rank
SEEDS = 2**16
FEW = 1500  # numbers in x, up to which dear random cases take a shape of the designed ones


class Chosen:
    """Chooses at random, and keeps what it chose: with the same numbers the same case is made again."""

    def __init__(self, generator: random.Random) -> None:
        self.numbers: list[int] = []
        self._random = generator.random

    def __call__(self, count: int) -> int:
        number = int(count * self._random())
        self.numbers.append(number)
        return number


def random_case(scope: Scope, choose: Choose) -> Case:
    """A whole case within `scope`; of the lowest numbers one of few numbers, float64, unit data, one call."""

    def pick(values: Sequence[Any]) -> Any:
        return values[choose(len(values))] if len(values) > 1 else values[0]

    kind, keywords = scope.kind, scope.keywords
    if scope.dear:
        known = _known(scope)
        return _varied(scope, pick(DATA), pick(known[pick([d for d in scope.dtypes if known[d]])]), choose, pick)
    # 2D and 4D are half of the cases each way; the simplest rank comes first.
    ndim = pick([n for n in (2, 4, 3, 5, 4, 2) if n in scope.ndims] or scope.ndims)
    sizes = tuple(1 + choose(MOST[ndim]) for _ in range(ndim))
    groups = 1 + choose(4) if kind.has_groups else 1
    sizes = _more_than_one_value(kind, sizes)
    sizes = (sizes[0], groups * sizes[1], *sizes[2:])
    axes = 1 + choose(ndim) if kind.normalizes_features and scope.several_axes else 1
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
    return _varied(scope, data, plain, choose, pick)


def _varied(scope: Scope, data: str, plain: Case, choose: Choose, pick: Callable[[Sequence[Any]], Any]) -> Case:
    """A case of the shape, dtype, options and mode of another, with arrays and calls of its own."""
    if plain.dtype in NARROW:  # whose range the other recipes would leave
        data = data if data in PLAIN_DATA else "unit"
    return replace(
        plain,
        data=data,
        seed=choose(SEEDS),
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
    designed = [case for case in designed_for(scope) if 0 < prod(case.shape) <= FEW]
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
