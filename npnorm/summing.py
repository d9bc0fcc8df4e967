"""Sums of tiles that neither drift nor take long: BLAS adds short runs, and then the runs' sums; and sums of two tiles.

In a long run of float32 the roundoff of each step is one of a sum that has grown; numbers of one sign drift by hundreds
of them. This module must not know what is summed, nor what for; it sees tiles of canonical arrays, (A, G, K, S).
"""

from functools import lru_cache

import numpy as np

from npnorm.arguments import Array

RUN = 1 << 10  # the most numbers of a row that BLAS adds in one go: a few roundoffs; a shorter tile is all overhead
SHORT = 1 << 7  # the most numbers of a row that a product with a vector may add
STRETCH = 1 << 12  # the most numbers of two rows that BLAS adds in one go; with more it asks for help of other threads
ROWS = 1 << 4  # the most rows that BLAS adds in one go, one after the other


def like(tile: Array, work: Array | None) -> Array | None:
    """Room of the shape of the tile."""
    return None if work is None else work[: tile.size].reshape(tile.shape)


def combine(memory: Array, starts: tuple[int, int], factors: tuple[Array, Array], out: Array) -> None:
    """Writes to each row of a tile the sum of two rows of `memory`, each times its factor.

    Args:
        memory: flat.
        starts: where the first row of the one and of the other is; all that follow are side by side.
        factors: of the one and of the other, of shapes that broadcast to the tile's with a last axis of 1.
        out: the tile, contiguous.
    """
    batch, groups, channels, space = out.shape
    table = np.empty((batch, groups, channels if space > 1 else 1, 2), out.dtype)
    table[..., :1], table[..., 1:] = factors
    rows, size = table.size // 2, out.itemsize
    length = out.size // rows
    strides = (length * size, (starts[1] - starts[0]) * size, size)
    pairs = np.ndarray((rows, 2, length), out.dtype, memory, starts[0] * size, strides)
    left, results = table.reshape(rows, 1, 2), out.reshape(rows, 1, length)
    for begin in range(0, length, STRETCH):
        at = slice(begin, begin + STRETCH)
        np.matmul(left, pairs[..., at], out=results[..., at])


def over_space(a: Array, b: Array | None = None, work: Array | None = None) -> Array:
    """The sum of a tile, or of the product of two, over the last axis; shape (A, G, K)."""
    if a.shape[3] > 1:
        return over_last(a, b)
    product = a if b is None else np.multiply(a, b, out=like(a, work))
    return product[..., 0]


def over_batch(a: Array) -> Array:
    """The sum over the first axis of (A, G, K)."""
    batch, groups, channels = a.shape
    width = groups * channels
    rows = a.reshape(batch, width)
    while batch > ROWS:  # `many` short sums side by side
        many, rest = divmod(batch, ROWS)
        sums = _ones(ROWS, a.dtype).dot(rows[: batch - rest].reshape(ROWS, many * width)).reshape(many, width)
        if rest:
            sums[0] += _ones(rest, a.dtype).dot(rows[batch - rest :])
        rows, batch = sums, many
    total: Array = _ones(batch, a.dtype).dot(rows).reshape(groups, channels)
    return total


def over_last(a: Array, b: Array | None = None) -> Array:
    """The sum of a, or of a * b, over the last axis."""
    length = a.shape[-1]
    if length > RUN:
        runs = _runs(length)
        whole = length - length % runs
        total = over_last(
            over_last(_in_runs(a[..., :whole], runs), None if b is None else _in_runs(b[..., :whole], runs))
        )
        if whole < length:
            total += over_last(a[..., whole:], None if b is None else b[..., whole:])
        return total
    if b is None:
        b = _ones(length, a.dtype)
        if length <= SHORT:
            return np.asarray(a.reshape(-1, length).dot(b)).reshape(a.shape[:-1])
    return np.asarray(np.vecdot(a, b))


def _in_runs(rows: Array, runs: int) -> Array:
    """Rows, each as so many runs of the same length."""
    return rows.reshape(*rows.shape[:-1], runs, -1)


@lru_cache(maxsize=64)
def _runs(length: int) -> int:
    """Into how many runs a row is cut, without a remainder where a few more do that."""
    least = -(-length // RUN)
    return next((runs for runs in range(least, 2 * least) if length % runs == 0), least)


def total_of(pieces: list[Array]) -> Array:
    """The sum of the tiles' sums, in float64 at least."""
    if len(pieces) == 1:
        return pieces[0]
    total = pieces[0].astype(np.promote_types(pieces[0].dtype, np.float64))
    for piece in pieces[1:]:
        total += piece
    return total.astype(pieces[0].dtype)


@lru_cache(maxsize=64)
def _ones(length: int, dtype: np.dtype) -> Array:
    return np.ones(length, dtype)
