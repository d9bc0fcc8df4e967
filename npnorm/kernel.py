"""The arithmetic of normalization and of its gradient: the one place that has it.

Every layer is a way to see its input as a *canonical* array of shape (A, G, K, S), contiguous, in which gamma and
beta have the shape (G, K), and the K * S numbers of each (a, g) share a mean and a variance:

    GroupNorm     (N, groups, channels per group, space)
    InstanceNorm  (N, channels, 1, space)
    LayerNorm     (rows, 1, features, 1)
    BatchNorm     (N, 1, channels, space), where the A * S numbers of each k share them instead: `across_batch`

This module must not know layers, options, modes or running averages; it sees canonical arrays of one floating dtype.

Accuracy. The mean of numbers that lie far from zero is known only to a roundoff of the *mean*, which may be many
deviations. Subtracting it is exact, though, so the mean of what is left, delta, is the error, and taking that into
account too leaves an error of a roundoff of the *deviation*, at any mean (the corrected two-pass algorithm of Chan,
Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983). In general: with
c = x - start and delta = mean(c), xhat = (c - delta) * rstd and var = mean(c * c) - delta**2, and nothing is lost as
long as delta is at most a deviation. So `start` is zero where that is near enough to the mean, and costs nothing; else
it is the mean as computed from zero. Long sums are cut into short ones. Squares and sums of large numbers may leave the
range of the dtype: then what was computed says that it is `lost`, and can be had in a wider dtype.

Speed. Large arrays are bound by memory, so the work goes by tiles that stay near, in the last-level cache, and are as
large as that allows, for each costs some twenty calls: a tile of x is copied once, to where it will be kept, and all
else is done there. Statistics that span several tiles need a second sweep, which goes backwards, and so does the whole
of backward: what was touched last is nearest. No array of full size is made but the output and the one that backward
needs. Small arrays are bound by the number of calls.
Sums go through BLAS, and so does what is made of two rows, each with a factor, in one sweep where NumPy takes three. To
BLAS the two must be the rows of a matrix, the same way apart for all rows of a tile: so what is kept, and a tile in
which to work, are parts of one `memory`. Where a row has one gamma (a channel's space, BatchNorm's columns) all its
factors and terms fold into one factor and one term, and `kept` is c; elsewhere (a row of features) it is xhat. What
broadcasts along a row shorter than NumPy's buffer is copied there first, at twice the cost of the operation itself: so
where rows are long the buffer is shorter during a call, and afterwards, however that ends, what it was before.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import isfinite, prod
from typing import NamedTuple

import numpy as np

from npnorm import summing
from npnorm.arguments import Array
from npnorm.summing import combine, like, over_batch, over_last, over_space, total_of

TILE = 5 << 16  # numbers in a tile, about; a few of these fit the last-level cache
LONG = 1 << 9  # a row from which it is better not to copy what broadcasts along it
BUFFER = 1 << 8  # numbers in NumPy's buffer while rows are long; fewer, and a change of dtype takes long
COMBINED = 1 << 6  # a row from which BLAS combines it with another in less time than NumPy,
LARGE = 1 << 16  # and numbers of an array from which that is worth the calls that prepare it
CACHE_LINE = 64  # bytes

Slices = tuple[slice, ...]  # empty: all of it


class Tile(NamedTuple):
    """Where a tile is."""

    numbers: Slices  # in a canonical array
    parameters: Slices  # in what has the shape of gamma
    start: int = 0  # its first number's place in that array


Part = tuple[Tile, ...]
Piece = tuple[Slices, Array, Array]  # parameters, and what a part or tile adds to dbeta and to dgamma of them


class Tiling:
    """How a canonical array is worked through: in parts that hold statistics whole, and tiles of a part."""

    def __init__(self, shape: tuple[int, int, int, int], across_batch: bool = False) -> None:
        batch, _, channels, space = shape
        self.shape = shape
        self.parameters = (*shape[1:3], 1)  # the shape of gamma and beta
        self.across_batch = across_batch
        self.count = batch * space if across_batch else channels * space  # of the numbers that share a mean
        self.share = 1 / max(self.count, 1)  # of each of them in their mean
        self.folds = across_batch or space > 1
        self.parts = tuple(self._parts()) if prod(shape) else ()
        tiles = [tile.numbers for part in self.parts for tile in part]
        largest = max((prod(at.stop - at.start for at in tile) for tile in tiles), default=0)
        self.single = len(self.parts) == 1 == len(self.parts[0])
        if self.single:
            self.parts = ((Tile((), ()),),)
        row = space if space > 1 else channels
        self.long_rows = row >= LONG
        self.size = prod(shape)
        self.combines = not across_batch and row >= COMBINED and self.size >= LARGE
        self.work = -(-self.size // CACHE_LINE) * CACHE_LINE  # where in `memory` the tile to work in begins
        self.memory = self.work + largest if self.combines or not self.single else self.size  # how many numbers it has

    def _parts(self) -> Iterator[Part]:
        batch, groups, channels, space = self.shape
        if self.across_batch:
            one = slice(0, 1)
            for k in _cuts(channels, batch * space, least=-(-summing.RUN // space)):
                samples = _cuts(batch, space * (k.stop - k.start))
                yield tuple(Tile((a, one, k, s), (one, k)) for a in samples for s in _cuts(space, 1))
            return
        group = channels * space
        for a in _cuts(batch, groups * group):  # of what is cut there is one in a tile, which so is all in one piece
            for g in _cuts(groups, group):
                start = (a.start * groups + g.start) * group
                places = [(k, s) for k in _cuts(channels, space) for s in _cuts(space, 1)]
                yield tuple(Tile((a, g, k, s), (g, k), start + k.start * space + s.start) for k, s in places)


tiling = lru_cache(maxsize=256)(Tiling)


class Statistics(NamedTuple):
    """Of one part; shape (A, G, 1, 1), or (1, 1, K, 1) across the batch. All zero: what RMSNorm has no use for."""

    mean: Array
    var: Array  # the mean of the squared distances from `mean`
    rstd: Array
    delta: Array  # where the tiling folds, `kept` is xhat / rstd + delta; elsewhere it is xhat
    lost: bool  # beyond the range of the dtype; or x was, somewhere

    def astype(self, dtype: np.dtype) -> "Statistics":
        mean, var, rstd, delta = (array.astype(dtype) for array in self[:4])
        return Statistics(mean, var, rstd, delta, self.lost)


def any_lost(statistics: list[Statistics]) -> bool:
    """Whether any of them is."""
    for found in statistics:  # noqa: SIM110 - a generator takes as long as a small array's sum
        if found.lost:
            return True
    return False


class Gradients(NamedTuple):
    """Of gamma and beta, of shape (G, K)."""

    dgamma: Array
    dbeta: Array
    lost: bool  # in dx or here are numbers beyond the range of the dtype; or they were in dy


def normalize(
    x: Array,
    y: Array,
    memory: Array,
    tiling: Tiling,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
    center: bool = True,
    given: tuple[Array, Array] | None = None,
) -> list[Statistics]:
    """y = gamma * xhat + beta with xhat = (x - mean) * rstd and rstd = 1 / sqrt(var + eps); the statistics by part.

    gamma and beta come as (G, K, 1). `center=False` leaves the mean out of all of it, as RMSNorm does. `given`, a
    mean and a variance of gamma's shape, stand in for those of x, as in BatchNorm's eval mode. Writes `y`, which x may
    be, and `memory`, flat and as large as the tiling says.
    """
    buffer = np.setbufsize(BUFFER) if tiling.long_rows else None
    try:
        (kept, work), added = _divided(memory, tiling), _number(eps, x.dtype)
        statistics = []
        for part in tiling.parts:
            if given is None:
                found = _statistics(x, kept, work, tiling, part, added, center)
            else:
                mean, var = (array[part[0].parameters][None] for array in given)
                for at, _, _ in part:
                    np.subtract(x[at], mean, out=kept[at])
                lost = not _all(np.isfinite(mean * mean + var))
                found = Statistics(mean, var, _rstd(var + added), np.zeros(mean.shape, mean.dtype), lost)
            rstd, delta = found.rstd, found.delta
            for at, of, _ in reversed(part):
                z, out = kept[at], y[at]
                weight = None if gamma is None else gamma[of]
                offset = None if beta is None else beta[of]
                if tiling.folds:
                    scale = rstd if weight is None else rstd * weight
                    shift = delta * scale
                    np.multiply(z, scale, out=out)
                    out += np.negative(shift) if offset is None else offset - shift
                    continue
                if center:
                    z -= delta
                z *= rstd
                if weight is None:
                    np.copyto(out, z)
                else:
                    np.multiply(z, weight, out=out)
                if offset is not None:
                    out += offset
            statistics.append(found)
        return statistics
    finally:
        if buffer is not None:
            np.setbufsize(buffer)


def _statistics(
    x: Array, kept: Array, work: Array | None, tiling: Tiling, part: Part, eps: Array, center: bool
) -> Statistics:
    """The statistics of a part of x; puts it into `kept`, less the start that its mean was taken from."""
    share = _number(tiling.share, x.dtype)

    def moments(start: Array | None) -> tuple[Array, Array, Array]:
        """The mean of c = x - start, or of x itself, the square of that mean, and the variance; c is in `kept`."""
        sums, squares = [], []
        for at, _, _ in part:
            c = kept[at]
            if start is None:
                np.copyto(c, x[at])
            else:
                np.subtract(x[at], start, out=c)
            if center:
                sums.append(_shared_sum(tiling, c))
            squares.append(_shared_sum(tiling, c, c, work))
        var = total_of(squares) * share
        if not center:
            zero = np.zeros(var.shape, var.dtype)
            return zero, zero, var
        delta = total_of(sums) * share
        square = delta * delta
        var -= square
        return delta, square, var

    delta, square, var = moments(None)
    mean, number = delta, True
    if center and not _all(square <= var):
        start = delta
        delta, square, var = moments(start)
        if not _all(square <= var + eps):  # all equal, or a mean at the edge of the precision, or no number
            start = start + delta
            start[~np.isfinite(start)] = 0  # so that delta is what x has: an infinity stays one, as in torch
            delta, _, var = moments(start)
            var[np.isnan(var) & np.isfinite(delta)] = np.inf  # its squares overflow
            number = _all(np.isfinite(var))
        np.maximum(var, 0, out=var)  # rounding may have left less
        mean = start + delta
    rstd = _rstd(var + eps)
    return Statistics(mean, var, rstd, delta, not (number and _all(rstd)))  # 0 is that of an infinite variance


def gradients(
    dy: Array,
    dx: Array,
    memory: Array,
    tiling: Tiling,
    gamma: Array | None,
    statistics: list[Statistics],
    center: bool = True,
    constant: bool = False,
) -> Gradients:
    """Writes dx = rstd * (d - mean(d) - xhat * mean(d * xhat)) with d = gamma * dy; gives dgamma and dbeta.

    dgamma = sum(dy * xhat) and dbeta = sum(dy) over all that shares a gamma. No mean(d) where `center` is False;
    dx = rstd * d where mean and variance are `constant`. `dx` may be dy. `memory` is that of `normalize`; what is kept
    in it stays, so that there may be another backward.
    """
    buffer = np.setbufsize(BUFFER) if tiling.long_rows else None
    try:
        kept, work = _divided(memory, tiling)
        lost = False
        parameters = tiling.shape[1:3]
        shares = (
            np.full(parameters, tiling.share, dy.dtype)
            if gamma is None
            else gamma[..., 0] * _number(tiling.share, dy.dtype)
        )
        if not tiling.single:
            dbeta, dgamma = np.zeros((2, *parameters), np.promote_types(dy.dtype, np.float64))
        for part, found in zip(reversed(tiling.parts), reversed(statistics), strict=True):
            rstd = found.rstd
            level, slope, pieces = _means(dy, kept, work, tiling, part, found, shares, center)
            for of, d_sum, d_xhat in pieces:
                if tiling.single:
                    dbeta, dgamma = d_sum, d_xhat
                else:
                    dbeta[of] += d_sum
                    dgamma[of] += d_xhat
            level *= rstd
            slope *= rstd
            if tiling.folds:
                slope *= rstd
                level -= slope * found.delta
            lost = lost or not isfinite(np.vdot(level, slope))
            for at, of, start in reversed(part):
                d, out, scale = dy[at], dx[at], rstd
                first = like(out, work) if tiling.combines else None
                if gamma is not None and tiling.folds:
                    scale = rstd * gamma[of]
                elif gamma is not None:
                    d = np.multiply(d, gamma[of], out=out if first is None else first)
                if first is not None:
                    if d is not first:
                        np.copyto(first, d)
                    combine(memory, (start, tiling.work), (-slope, scale), out)
                else:
                    np.multiply(d, scale, out=out)
                    if constant:
                        continue
                    out -= np.multiply(kept[at], slope, out=like(out, work))
                if center:
                    out -= level
        if not tiling.across_batch:  # there `level` and `slope` are made of the same sums
            lost = lost or not isfinite(np.vdot(dgamma, dbeta))
        return Gradients(dgamma, dbeta, lost)
    finally:
        if buffer is not None:
            np.setbufsize(buffer)


def _means(
    dy: Array,
    kept: Array,
    work: Array | None,
    tiling: Tiling,
    part: Part,
    found: Statistics,
    shares: Array,
    center: bool,
) -> tuple[Array, Array, list[Piece]]:
    """mean(d) and mean(d * xhat) of a part, and what it has of dbeta and dgamma."""
    rstd, delta = found.rstd[..., 0], found.delta[..., 0]
    sums, products, pieces = [], [], []
    for at, of, _ in part:
        d, d_xhat = over_space(dy[at]), over_space(dy[at], kept[at], work)
        if tiling.across_batch:
            sums.append(over_batch(d))
            products.append(over_batch(d_xhat))
            continue
        if tiling.folds:
            d_xhat = (d_xhat - delta * d) * rstd
        pieces.append((of, over_batch(d), over_batch(d_xhat)))
        if center:
            sums.append(over_last(d, shares[of]))
        products.append(over_last(d_xhat, shares[of]))
    d_xhat = total_of(products)
    d = total_of(sums) if center else np.zeros(d_xhat.shape, d_xhat.dtype)
    if not tiling.across_batch:
        return d[..., None, None], d_xhat[..., None, None], pieces
    of = part[0].parameters
    d_xhat = (d_xhat - delta[0] * d) * rstd[0]
    return (shares[of] * d)[None, ..., None], (shares[of] * d_xhat)[None, ..., None], [(of, d, d_xhat)]


def _cuts(length: int, numbers: int, least: int = 1) -> list[slice]:
    """An axis whose entries hold so many numbers each, cut evenly into slices that come nearest to a tile."""
    step = max(-(-length // max(1, round(length * numbers / TILE))), least)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _divided(memory: Array, tiling: Tiling) -> tuple[Array, Array | None]:
    """What is kept for backward, and where to work, tile after tile; None where products get fresh memory."""
    if tiling.memory == tiling.size:
        return memory.reshape(tiling.shape), None
    return memory[: tiling.size].reshape(tiling.shape), memory[tiling.work :]


def _all(conditions: Array) -> bool:
    """What `conditions.all()` says, in a third of its time."""
    return bool(np.count_nonzero(conditions) == conditions.size)


@lru_cache(maxsize=64)
def _number(value: float, dtype: np.dtype) -> Array:
    """A float as an array without axes, with which NumPy computes in half the time."""
    return np.array(value, dtype)


def _rstd(var: Array) -> Array:
    np.sqrt(var, out=var)
    return np.reciprocal(var, out=var)


def _shared_sum(tiling: Tiling, a: Array, b: Array | None = None, work: Array | None = None) -> Array:
    """The sum of a tile, or of the product of two, over what shares statistics."""
    if tiling.across_batch:
        return over_batch(over_space(a, b, work))[None, ..., None]
    rows = a.reshape(*a.shape[:2], -1)
    return over_last(rows, None if b is None else b.reshape(rows.shape))[..., None, None]


def room(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """An array to write to. A large one starts on a cache line, where stores are up to twice as fast."""
    count = prod(shape)
    if count < TILE // 4:
        return np.empty(shape, dtype)
    raw = np.empty(count + CACHE_LINE // dtype.itemsize, dtype)
    start = -raw.__array_interface__["data"][0] % CACHE_LINE // dtype.itemsize
    return raw[start : start + count].reshape(shape)
