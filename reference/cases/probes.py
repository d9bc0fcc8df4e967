"""The designed cases: few, fixed, and chosen so that each known way of being wrong shows in at least one of them.

Every probe but the first ones differs from another in one aspect (its layout, its call, its eps, one size...), so that
comparing those that fail with those that pass tells under which condition a layer is wrong. This module knows cases,
and must not know how they are run or judged.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from reference.cases.case import ANOTHER, Case, make, with_gamma, with_options
from reference.cases.scope import Scope
from reference.dtypes import NARROW
from reference.kinds import KINDS, Kind


def _said_of(kind: Kind) -> dict[str, Any]:
    """The options of every probe of a kind whose torch defaults would leave something out: an eps, or gamma and beta."""
    said = {"eps": 1e-5} if kind.optional["eps"] is None else {}
    return said | ({} if kind.optional[kind.affine_keyword] else {kind.affine_keyword: True})


# Sizes all different, so that no axis can stand in for another; GroupNorm has more groups than 1 and more channels in
# each than 1, and its number of groups is not the number of channels in each.
_GROUPED = {2: ((5, 12), 3), 3: ((3, 8, 5), 2), 4: ((3, 6, 4, 5), 2), 5: ((2, 6, 3, 4, 5), 3)}


def _base(kind: Kind, rank: int) -> Case:
    """The plainest case of a rank, from which the others differ."""
    if kind.has_groups:
        shape, groups = _GROUPED[rank]
        return make(kind, shape, groups=groups, seed=rank, **_said_of(kind))
    if kind.normalizes_features:
        return make(kind, (5, 3, 4, 2, 7)[-rank:], seed=rank, **_said_of(kind))
    sizes = (7, 4, 3, 5, 2) if kind.over_batch else (3, 4, 5, 6, 2)
    return make(kind, sizes[:rank], seed=rank, **_said_of(kind))


BASES = {kind: {rank: _base(kind, rank) for rank in kind.ranks} for kind in KINDS.values()}


@cache
def probes(kind: Kind, ndims: tuple[int, ...] | None = None) -> tuple[Case, ...]:
    """All designed cases of a layer that takes x of these ranks (by default all), the plainest first."""
    ndims = kind.ranks if ndims is None else ndims
    found = [*BASES[kind].values(), *_shapes(kind), *_large(kind)]
    for rank in [rank for rank in (4, 2, 3, 5) if rank in ndims][:2]:
        found += _variations(BASES[kind][rank])
        if kind.tracks:
            found += _modes(BASES[kind][rank])
    found += [*_none(kind), *(case for dtype in NARROW for case in _sixteen_bits(kind, dtype)), *_very_large(kind)]
    return tuple(case for case in dict.fromkeys(found) if len(case.shape) in ndims)


def _large(kind: Kind) -> Iterator[Case]:
    """Sizes that no block divides, of every axis in every rank: tails are where rows and channels get lost."""
    for rank in kind.ranks:
        rest = ((1,) * (rank - 3) + (3,)) if rank > 2 else ()
        batches = [(size, 4, *rest) for size in (131, 1031)]
        channels, spaces = [(2, 134, *rest)], [(2, 4, *rest[:-1], 131)] if rest else []
        for shape in (*batches, *channels, *spaces):
            for groups in (2, shape[1] // 2) if kind.has_groups else (1,):  # few large groups, and many
                yield make(kind, shape, groups=groups, seed=rank, **_said_of(kind))


def _shapes(kind: Kind) -> Iterator[Case]:
    """Sizes that coincide, sizes of one, large sizes that no block divides, other groups and axes."""
    if kind.has_groups:
        shapes: list[tuple[tuple[int, ...], int]] = [
            *[((3, 6, 4, 5), groups) for groups in (1, 3, 6)],
            *[((5, 12), groups) for groups in (1, 2, 4, 6, 12)],
            *[((1, 6, 4, 5), 2), ((1, 8), 2), ((4, 4), 2), ((6, 6, 6, 6), 3), ((4, 8, 3, 3), 4)],
            *[((3, 6, 1, 5), 2), ((3, 6, 4, 1), 2), ((2, 6, 1, 1), 3), ((3, 9, 2, 7), 3)],
            *[((67, 4, 2, 3), 2), ((131, 6), 3), ((1031, 4), 2), ((2, 4, 33, 35), 2), ((2, 514), 2)],
        ]
        for shape, groups in shapes:
            yield make(kind, shape, groups=groups, seed=sum(shape))
    elif kind.normalizes_features:
        for ndim, axes in ((3, 2), (4, 2), (4, 3), (5, 2), (2, 2), (4, 4)):
            yield make(kind, (5, 3, 4, 2, 7)[-ndim:], axes=axes, seed=10 * ndim + axes, **_said_of(kind))
        for shape in (
            (1, 7),
            (7, 1),
            (6, 6),
            (5, 5, 5),
            (4, 4, 4, 4),
            (1, 1, 8),
            (131, 5),
            (1031, 3),
            (67, 2, 3),
            (3, 1031),
        ):
            yield make(kind, shape, seed=sum(shape), **_said_of(kind))
        for shape in ((3, 4, 4), (2, 3, 3, 3), (4, 4, 4), (1, 3, 2), (131, 2, 3)):
            yield make(kind, shape, axes=2, seed=sum(shape), **_said_of(kind))
    else:
        shapes_only: list[tuple[int, ...]] = [
            (1, 4, 3, 5),
            (4, 4, 4, 4),
            (3, 4, 1, 5),
            (3, 4, 5, 1),
            (4, 2, 3, 3),
            (1, 3, 6),
        ]
        shapes_only += [(67, 4, 2, 3), (2, 3, 33, 35), (3, 1, 4, 5), (4, 1, 7), (1031, 3, 2)]
        if kind.over_batch:
            shapes_only += [(5, 5), (2, 3), (6, 1), (131, 6), (1031, 4), (4, 3, 1, 1), (3, 67)]
        for shape in shapes_only:
            yield make(kind, shape, seed=sum(shape), **_said_of(kind))


def _none(kind: Kind) -> Iterator[Case]:
    """No sample at all, where torch has an answer to it."""
    for rank in (2, 4):
        if not kind.over_batch and (kind.normalizes_features or kind.has_groups):
            base = BASES[kind][rank]
            yield replace(base, shape=(0, *base.shape[1:]))


def _sixteen_bits(kind: Kind, dtype: str) -> Iterator[Case]:
    """Where 16 bits are not enough to compute in: squares beyond the largest number and below the smallest, sums of many
    terms, a variance near eps, a mean beside which the distance from it is small."""
    for rank in [rank for rank in (2, 4) if rank in kind.ranks]:
        base = replace(BASES[kind][rank], dtype=dtype)
        yield base
        yield replace(base, data="shifted")
    rest = (1, 3) if kind.ranks[0] > 2 else ()
    for data in ("unit", "shifted"):  # of many numbers the worst is off by all that a rounding in between may be
        yield make(kind, (40, 12, *rest), groups=3, dtype=dtype, data=data, seed=17, **_said_of(kind))
    yield with_options(replace(base, data="small"), eps=1e-5)
    yield with_options(replace(base, data="hundreds"), eps=1e-5)
    yield with_options(replace(base, data="ten-thousandths"), eps=1e-8)
    yield make(kind, (8192, 4, *rest), groups=2, dtype=dtype, dy_data="positive", seed=11, **_said_of(kind))


def _very_large(kind: Kind) -> Iterator[Case]:
    """Few and late, since they cost as much as many others: what is done in blocks, of rows, columns or positions.

    A right layer may add n numbers one by one, as NumPy does along all axes but the last. What that loses grows with the
    root of n where the sum does: beyond some 5000 numbers it may be more than the tolerance, which does not grow. So
    these have x whose sums have no rounding, and dy whose sums do not grow.
    """
    centred = {"dy_data": "centred", **_said_of(kind)}
    if kind.normalizes_features:
        yield make(kind, (300, 3, 4), axes=2, seed=12, **_said_of(kind))
        yield make(kind, (66_000, 2, 2), axes=2, seed=13, **centred)
        yield make(kind, (3, 4100), seed=14, **_said_of(kind))
        yield make(kind, (1, 250_000), seed=15, data="balanced", **centred)
        return
    yield make(kind, (300, 4, 3), groups=2, seed=12, **_said_of(kind))
    yield make(kind, (66_000, 2, 2), groups=2, seed=13, data="balanced", **centred)
    yield make(kind, (2, 2, 67, 67), groups=1, seed=14, data="balanced", **centred)
    image = (1, 3, 300, 300) if kind.has_groups else (1, 2, 500, 500)
    yield make(kind, image, groups=1, seed=15, data="balanced", **centred)
    if kind.has_groups:
        yield make(kind, (2, 4100), groups=2, seed=16, **_said_of(kind))


def _variations(base: Case) -> Iterator[Case]:
    """`base` with one aspect changed."""
    # a variance near eps, from both sides: small data at the usual eps, usual data at a large one
    yield replace(base, data="small")
    for eps in (0.3, 1e-3, 1e-8):
        yield with_options(base, eps=eps)
    yield replace(with_options(base, eps=1e-3), data="small")
    yield replace(with_options(base, eps=1e-12), data="small")
    # a second and a third pass of the same object
    yield replace(base, calls=2)
    yield replace(base, calls=2, resize=True)
    yield replace(base, calls=3, resize=True)
    for history in ("forward only", "refilled"):
        yield replace(base, calls=2, history=history)
    yield replace(base, history=ANOTHER)
    for overwritten in ("x", "y"):
        yield replace(base, overwrite=overwritten)
    yield replace(base, dy_data="large")
    for layout in ("read-only", "F", "strided", "flipped", "transposed", "sliced"):
        yield replace(base, layout=layout)
        yield replace(base, dy_layout=layout)
    for values in ("unit", "uniform", "some zero"):
        yield replace(base, affine_values=values)
    yield from _fewer_parameters(base)
    for data in ("shifted", "integers", "constant", "tiny", "large", "offset 1e2", "offset 1e4", "offset 1e6", "nan"):
        yield replace(base, data=data)
    for dtype in ("float32", "float16"):
        yield replace(base, dtype=dtype)
    for data in ("small", "shifted", "constant", "large", "offset 1e2", "offset 1e4"):
        yield replace(base, dtype="float32", data=data)
    yield replace(base, dtype="float32", calls=2)
    if base.kind.optional["eps"] is None:
        yield with_options(base, eps=None)
        yield replace(with_options(base, eps=None), dtype="float32", data="tiny")


def _fewer_parameters(base: Case) -> Iterator[Case]:
    yield with_gamma(base, False)
    if "bias" in base.kind.optional:
        yield with_options(base, bias=False)


def _modes(base: Case) -> Iterator[Case]:
    """What only a kind that tracks has: running statistics, and a mode in which they are used."""
    fresh, trained = replace(base, training=False), replace(base, training=False, calls=3)
    yield from (trained, fresh, replace(base, training=False, calls=2, resize=True))
    yield replace(trained, shape=(1, *base.shape[1:]), calls=2, resize=True)
    yield replace(trained, affine_values="unit")
    for data in ("small", "shifted", "offset 1e2"):
        yield replace(trained, data=data)
    yield replace(trained, dtype="float32")
    yield replace(trained, overwrite="x")
    yield replace(trained, dy_layout="F")
    yield with_options(trained, eps=0.3)
    yield with_options(trained, affine=False)
    for momentum in (0.4, 1.0, 0.0, None):
        yield with_options(replace(base, calls=2), momentum=momentum)
        yield with_options(trained, momentum=momentum)
    for case in (base, trained):
        yield with_options(case, track_running_stats=False)
    yield with_options(replace(base, calls=2), momentum=None, track_running_stats=False)
    yield with_options(trained, affine=False, momentum=0.4)
    yield with_options(replace(base, calls=2, history="eval between"), track_running_stats=False)
    for training in (True, False):
        yield replace(base, calls=3, training=training, history="eval between")


def designed_for(scope: Scope) -> list[Case]:
    """The designed cases that a subject of this scope takes, each once."""
    return list(_designed_for(scope))


@lru_cache(maxsize=64)  # most subjects of a kind have the same scope
def _designed_for(scope: Scope) -> tuple[Case, ...]:
    fitted = dict.fromkeys(scope.fit(case) for case in probes(scope.kind, scope.ndims))
    return tuple(case for case in fitted if not scope.lacks(case))
