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
it is the mean as computed from zero. Long sums are cut into short ones.

Speed. Large arrays are bound by memory, so the work goes by tiles that stay in the second-level cache, each swept by
every operation that can be done before the next is touched, and no array of full size is made but the output and the
one that backward needs. Sums go through BLAS. Where a row has one gamma (a channel's space, BatchNorm's columns) all
its factors and terms fold into one factor and one term, and `kept` is c; elsewhere (a row of features) it is xhat.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from npnorm.arguments import Array

TILE = 1 << 16  # numbers in a tile; a few of these fit the second-level cache
RUN = 1 << 10  # the most numbers of a row that BLAS adds in one go: a few roundoffs; a shorter tile is all overhead
ROWS = 1 << 4  # the most rows that BLAS adds in one go
LONG = 1 << 6  # a row from which it is better not to copy what broadcasts along it
CACHE_LINE = 64  # bytes

Tile = tuple[slice, slice, slice, slice]


class Layout:
    """How a canonical array is worked through: in parts that hold statistics whole, and tiles of a part."""

    def __init__(self, shape: tuple[int, int, int, int], across_batch: bool = False) -> None:
        batch, _, channels, space = shape
        self.shape = shape
        self.across_batch = across_batch
        self.count = batch * space if across_batch else channels * space  # of the numbers that share a mean
        self.share = 1 / max(self.count, 1)  # of each of them in the mean
        self.folds = across_batch or space > 1
        self.parts = tuple(self._parts()) if prod(shape) else ()
        self.single = len(self.parts) == 1 == len(self.parts[0])
        self.long_rows = (space if space > 1 else channels) >= LONG and prod(shape) > RUN

    def _parts(self) -> Iterator[tuple[Tile, ...]]:
        batch, groups, channels, space = self.shape
        if self.across_batch:
            for k in _cuts(channels, max(TILE // (batch * space), -(-RUN // space))):
                samples = _cuts(batch, TILE // (space * (k.stop - k.start)))
                yield tuple((a, slice(0, 1), k, s) for a in samples for s in _cuts(space, TILE))
            return
        group = channels * space
        for a in _cuts(batch, TILE // (groups * group)):
            for g in _cuts(groups, TILE // (group * (a.stop - a.start))):
                yield tuple((a, g, k, s) for k in _cuts(channels, TILE // space) for s in _cuts(space, TILE))


layout = lru_cache(maxsize=256)(Layout)


class Statistics(NamedTuple):
    """Of one part; shape (A, G, 1, 1), or (1, 1, K, 1) across the batch."""

    mean: Array
    var: Array  # the mean of the squared distances from `mean`
    rstd: Array
    delta: Array | None  # `kept` is xhat / rstd + delta; where None, it is xhat


def normalize(
    x: Array,
    y: Array,
    kept: Array,
    layout: Layout,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
    center: bool = True,
    given: tuple[Array, Array] | None = None,
) -> list[Statistics]:
    """y = gamma * xhat + beta with xhat = (x - mean) * rstd and rstd = 1 / sqrt(var + eps); the statistics by part.

    `center=False` leaves the mean out of all of it, as RMSNorm does. `given`, a mean and a variance of shape
    (1, 1, K, 1), stand in for those of x, as in BatchNorm's eval mode. Writes `y`, which may be x, and `kept`.
    """
    _prefer_long_rows(layout)
    work = _workspace(layout, x.dtype)
    statistics = []
    for part in layout.parts:
        found = _statistics(x, kept, work, layout, part, eps, center, given)
        for tile in part:
            weight, offset = _of_tile(gamma, tile), _of_tile(beta, tile)
            z, out = kept[tile], y[tile]
            if found.delta is not None:
                scale = found.rstd if weight is None else found.rstd * weight
                shift = found.delta * scale
                np.multiply(z, scale, out=out)
                out += np.negative(shift) if offset is None else offset - shift
                continue
            if weight is None:
                np.copyto(out, z)
            else:
                np.multiply(z, weight, out=out)
            if offset is not None:
                out += offset
        statistics.append(found)
    return statistics


def _statistics(
    x: Array,
    kept: Array,
    work: Array | None,
    layout: Layout,
    part: tuple[Tile, ...],
    eps: float,
    center: bool,
    given: tuple[Array, Array] | None,
) -> Statistics:
    """The statistics of a part of x, and its part of `kept`."""
    if given is not None:
        mean, var = (array[:, :, part[0][2]] for array in given)
        for tile in part:
            np.subtract(x[tile], mean, out=kept[tile])
        return Statistics(mean, var, _rstd(var + eps), np.zeros_like(mean))

    share = layout.share
    if not center:
        var = _total([_shared_sum(layout, x[tile], x[tile], work) for tile in part]) * share
        rstd = _rstd(var + eps)
        for tile in part:
            np.multiply(x[tile], rstd, out=kept[tile])
        return Statistics(np.zeros_like(var), var, rstd, None)

    def moments(start: Array | None) -> tuple[Array, Array]:
        """The mean and the variance of c = x - start, or of x itself."""
        sums, squares = [], []
        for tile in part:
            c = x[tile]
            if start is not None:
                c = np.subtract(c, start, out=kept[tile])
            sums.append(_shared_sum(layout, c))
            squares.append(_shared_sum(layout, c, c, work))
            if start is None and layout.folds:
                np.copyto(kept[tile], c)
        delta = _total(sums) * share
        return delta, _total(squares) * share - delta * delta

    start = None
    delta, var = moments(start)
    if not (delta * delta <= var).all():
        start = delta
        delta, var = moments(start)
        if not (delta * delta <= var + eps).all():  # all equal, or a mean at the edge of the precision, or no number
            start = start + delta
            start[~np.isfinite(start)] = 0  # so that delta is what x has: an infinity stays one, as in torch
            delta, var = moments(start)
            var[np.isnan(var) & np.isfinite(delta)] = np.inf  # its squares overflow
    np.maximum(var, 0, out=var)
    mean = delta if start is None else start + delta
    rstd = _rstd(var + eps)
    if layout.folds:
        return Statistics(mean, var, rstd, delta)
    for tile in part:
        z = np.subtract(x[tile] if start is None else kept[tile], delta, out=kept[tile])
        z *= rstd
    return Statistics(mean, var, rstd, None)


def gradients(
    dy: Array,
    dx: Array,
    kept: Array,
    layout: Layout,
    gamma: Array | None,
    statistics: list[Statistics],
    center: bool = True,
    constant: bool = False,
) -> tuple[Array, Array]:
    """Writes dx = rstd * (d - mean(d) - xhat * mean(d * xhat)) with d = gamma * dy; gives dgamma and dbeta.

    dgamma = sum(dy * xhat) and dbeta = sum(dy) over all that shares a gamma, of shape (G, K). No mean(d) where `center`
    is False; dx = rstd * d where mean and variance are `constant`. `dx` may be dy.
    """
    _prefer_long_rows(layout)
    dgamma, dbeta = np.zeros((2, *layout.shape[1:3]))
    work = _workspace(layout, dy.dtype)
    share = np.full(layout.shape[1:3], layout.share, dy.dtype) if gamma is None else gamma * layout.share
    for part, (_, _, rstd, delta) in zip(layout.parts, statistics, strict=True):
        sums, products = [], []  # of d and of d * xhat, over what shares statistics
        for tile in part:
            _, g, k, _ = tile
            d_sum = _over_space(dy[tile])
            d_xhat = _over_space(dy[tile], kept[tile], work)
            if layout.across_batch:
                sums.append(_over_batch(d_sum))
                products.append(_over_batch(d_xhat))
                continue
            if delta is not None:
                d_xhat = (d_xhat - delta[..., 0] * d_sum) * rstd[..., 0]
            if layout.single:
                dbeta, dgamma = _over_batch(d_sum), _over_batch(d_xhat)
            else:
                dbeta[g, k] += _over_batch(d_sum)
                dgamma[g, k] += _over_batch(d_xhat)
            if not constant:
                sums.append(_dots(d_sum, share[g, k])[..., None, None])
                products.append(_dots(d_xhat, share[g, k])[..., None, None])
        d_mean, d_xhat_mean = _total(sums), _total(products)
        if layout.across_batch:
            assert delta is not None
            k = part[0][2]
            dbeta[:, k] = d_mean
            dgamma[:, k] = d_xhat_mean = (d_xhat_mean - delta[0, :, :, 0] * d_mean) * rstd[0, :, :, 0]
            d_mean, d_xhat_mean = ((share[:, k] * total)[None, ..., None] for total in (d_mean, d_xhat_mean))

        slope = rstd * d_xhat_mean
        level = rstd * d_mean
        if delta is not None:
            slope *= rstd
            level -= slope * delta
        for tile in part:
            weight = _of_tile(gamma, tile)
            d, out = dy[tile], dx[tile]
            if weight is None:
                np.multiply(d, rstd, out=out)
            elif layout.folds:
                np.multiply(d, rstd * weight, out=out)
            else:
                np.multiply(d, weight, out=out)
                out *= rstd
            if constant:
                continue
            term = np.multiply(kept[tile], slope, out=_like(out, work))
            out -= term
            if center:
                out -= level
    return dgamma, dbeta


def _cuts(length: int, step: int) -> list[slice]:
    """Slices of at most `step`, a multiple of `ROWS` where it is larger: sums over the batch then have no remainder."""
    step = max(1, step if step < ROWS else step - step % ROWS)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _prefer_long_rows(layout: Layout) -> None:
    """Keep NumPy from copying what broadcasts along a row into a buffer, which costs twice the operation itself.

    It does so for rows shorter than the buffer. The `np.errstate` around the call restores the buffer's size.
    """
    if layout.long_rows:
        np.setbufsize(16)


def _of_tile(parameter: Array | None, tile: Tile) -> Array | None:
    return None if parameter is None else parameter[tile[1], tile[2], None]


def _workspace(layout: Layout, dtype: np.dtype) -> Array | None:
    """Where products of tiles go, tile after tile; a single one gets fresh memory."""
    return None if layout.single else room((TILE + RUN,), dtype)


def _like(tile: Array, work: Array | None) -> Array | None:
    """Room of the shape of the tile."""
    return None if work is None else work[: tile.size].reshape(tile.shape)


def _rstd(var: Array) -> Array:
    np.sqrt(var, out=var)
    return np.reciprocal(var, out=var)


def _shared_sum(layout: Layout, a: Array, b: Array | None = None, work: Array | None = None) -> Array:
    """The sum of a tile, or of the product of two, over what shares statistics."""
    if layout.across_batch:
        return _over_batch(_over_space(a, b, work))[None, ..., None]
    rows = a.reshape(*a.shape[:2], -1)
    return _dots(rows, _ones(rows.shape[2], a.dtype) if b is None else b.reshape(rows.shape))[..., None, None]


def _over_space(a: Array, b: Array | None = None, work: Array | None = None) -> Array:
    """The sum of a tile, or of the product of two, over the last axis; shape (A, G, K)."""
    if a.shape[3] > 1:
        return _dots(a, _ones(a.shape[3], a.dtype) if b is None else b)
    if b is None:
        return a[..., 0]
    product: Array = np.multiply(a, b, out=_like(a, work))
    return product[..., 0]


def _over_batch(a: Array) -> Array:
    """The sum over the first axis of (A, G, K)."""
    if len(a) == 1:
        only: Array = a[0].copy()  # `a` may lie in the workspace, or be the caller's
        return only
    rows = a.reshape(len(a), -1)
    if len(rows) <= ROWS:
        sums = np.asarray(_ones(len(rows), a.dtype).dot(rows))
    else:
        whole = len(rows) // ROWS * ROWS
        sums = _over_batch(_ones(ROWS, a.dtype) @ rows[:whole].reshape(-1, ROWS, rows.shape[1]))
        if whole < len(rows):
            sums += _over_batch(rows[whole:])
    return sums.reshape(a.shape[1:])


def _dots(a: Array, b: Array) -> Array:
    """The sum of a * b over the last axis."""
    length = a.shape[-1]
    if length <= RUN:
        sums: Array = np.vecdot(a, b)
        return sums
    runs = -(-length // RUN)
    whole = length // runs * runs
    a_runs = a[..., :whole].reshape(*a.shape[:-1], runs, -1)
    b_runs = b[..., :whole].reshape(*b.shape[:-1], runs, -1)
    sums = _dots(np.vecdot(a_runs, b_runs), _ones(runs, a.dtype))
    if whole < length:
        sums += np.vecdot(a[..., whole:], b[..., whole:])
    return sums


def _total(pieces: list[Array]) -> Array:
    """The sum of the tiles' sums, in float64."""
    if len(pieces) == 1:
        return pieces[0]
    total = pieces[0].astype(np.float64)
    for piece in pieces[1:]:
        total += piece
    return total.astype(pieces[0].dtype)


def room(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """An array to write to. A large one starts on a cache line, where stores are up to twice as fast."""
    count = prod(shape)
    if count < RUN:
        return np.empty(shape, dtype)
    raw = np.empty(count + CACHE_LINE // dtype.itemsize, dtype)
    start = -raw.__array_interface__["data"][0] % CACHE_LINE // dtype.itemsize
    return raw[start : start + count].reshape(shape)


@lru_cache(maxsize=64)
def _ones(length: int, dtype: np.dtype) -> Array:
    return np.ones(length, dtype)
