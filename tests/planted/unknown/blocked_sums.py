"""Layers over a matrix whose parameter gradients are summed block by block, as tiled kernels do, wrongly.

No dictionary of mistakes holds these. Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

import math

import numpy as np

from tests.planted.row import unknown


class _TiledRows:
    """Rows of a matrix, a gamma per column; `column_sums` is what the wrong layers get wrong."""

    centred = True

    def column_sums(self, terms, block):
        total = np.zeros(terms.shape[1], terms.dtype)
        for start in range(0, len(terms), block):
            total += terms[start : start + block].sum(axis=0)
        return total

    def whiten(self, rows, eps):
        rows = rows - rows.mean(axis=1, keepdims=True) if self.centred else rows
        rstd = 1 / np.sqrt((rows * rows).mean(axis=1, keepdims=True) + eps)
        return rows * rstd, rstd

    def pull(self, d, xhat, rstd):
        along = xhat * (d * xhat).mean(axis=1, keepdims=True)
        return rstd * (d - along - d.mean(axis=1, keepdims=True)) if self.centred else rstd * (d - along)


class _TiledLayerNorm(_TiledRows):
    block = 32

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.n, self.eps = math.prod(self.shape), eps
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.beta = np.zeros(self.shape) if elementwise_affine and bias else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        self.xhat, self.rstd = self.whiten(x.reshape(-1, self.n), eps)
        y = self.xhat.reshape(x.shape).copy()
        if self.gamma is not None:
            y = y * self.gamma.astype(x.dtype)
        return y if self.beta is None else y + self.beta.astype(x.dtype)

    def backward(self, dy):
        rows = dy.reshape(self.xhat.shape)
        if self.beta is not None:
            self.dbeta = self.column_sums(rows, self.block).reshape(self.shape)
        if self.gamma is not None:
            self.dgamma = self.column_sums(rows * self.xhat, self.block).reshape(self.shape)
            rows = rows * self.gamma.astype(dy.dtype).reshape(self.n)
        return self.pull(rows, self.xhat, self.rstd).reshape(dy.shape)


class _TiledRMSNorm(_TiledLayerNorm):
    centred = False

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False)


class _TiledGroupNorm(_TiledRows):
    block = 256

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.G, self.C, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def by_channel(self, a):
        return np.moveaxis(a, 1, -1).reshape(-1, self.C)

    def forward(self, x):
        column = (self.C,) + (1,) * (x.ndim - 2)
        self.xhat, self.rstd = self.whiten(x.reshape(x.shape[0] * self.G, -1), self.eps)
        y = self.xhat.reshape(x.shape).copy()
        if self.gamma is not None:
            y = y * self.gamma.astype(x.dtype).reshape(column) + self.beta.astype(x.dtype).reshape(column)
        return y

    def backward(self, dy):
        d = dy
        if self.gamma is not None:
            self.dbeta = self.column_sums(self.by_channel(dy), self.block)
            self.dgamma = self.column_sums(self.by_channel(dy * self.xhat.reshape(dy.shape)), self.block)
            d = dy * self.gamma.astype(dy.dtype).reshape((self.C,) + (1,) * (dy.ndim - 2))
        return self.pull(d.reshape(self.xhat.shape), self.xhat, self.rstd).reshape(dy.shape)


class _TiledBatchNorm(_TiledRows):
    """Positions by channels: channels are the columns, of the statistics and of the sums."""

    block = 128

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.C, self.eps, self.momentum, self.training = num_features, eps, momentum, True
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.running_mean, self.running_var, self.seen = np.zeros(num_features), np.ones(num_features), 0
        self.dgamma = self.dbeta = None

    def batch_statistics(self, rows):
        mean = rows.mean(axis=0)
        return mean, np.square(rows - mean).mean(axis=0)

    def forward(self, x):
        last = np.moveaxis(x, 1, -1)
        rows = last.reshape(-1, self.C)
        self.live, m = self.training, len(rows)
        if self.live:
            mean, var = self.batch_statistics(rows)
            self.seen += 1
            a = 1 / self.seen if self.momentum is None else self.momentum
            self.running_mean = ((1 - a) * self.running_mean + a * mean).astype(x.dtype)
            self.running_var = ((1 - a) * self.running_var + a * var * (m / max(m - 1, 1))).astype(x.dtype)
        else:
            mean, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        self.rstd = 1 / np.sqrt(var + self.eps)
        self.xhat = (rows - mean) * self.rstd
        y = self.xhat.copy()
        if self.gamma is not None:
            y = y * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)
        return np.moveaxis(y.reshape(last.shape), -1, 1).copy()

    def backward(self, dy):
        last = np.moveaxis(dy, 1, -1)
        d = last.reshape(-1, self.C)
        if self.gamma is not None:
            self.dgamma = self.column_sums(d * self.xhat, self.block)
            self.dbeta = self.column_sums(d, self.block)
            d = d * self.gamma.astype(dy.dtype)
        if self.live:
            d = d - d.mean(axis=0) - self.xhat * (d * self.xhat).mean(axis=0)
        return np.moveaxis((d * self.rstd).reshape(last.shape), -1, 1)


class LastBlockOf32DroppedLayerNorm(_TiledLayerNorm):
    def column_sums(self, terms, block):
        total = np.zeros(terms.shape[1], terms.dtype)
        for b in range(len(terms) // block):  # planted: the incomplete last block is never visited
            total += terms[b * block : (b + 1) * block].sum(axis=0)
        return total


class LastBlockOf64DroppedRMSNorm(_TiledRMSNorm):
    block = 64

    def column_sums(self, terms, block):
        block = max(min(block, len(terms)), 1)
        full = len(terms) // block * block
        return terms[:full].reshape(-1, block, terms.shape[1]).sum(axis=(0, 1))  # planted: rows beyond `full` lost


class LastBlockOf128DroppedBatchNorm(_TiledBatchNorm):
    def column_sums(self, terms, block):
        if len(terms) <= block:
            return terms.sum(axis=0)
        parts = [terms[i - block : i].sum(axis=0) for i in range(block, len(terms) + 1, block)]
        return np.sum(parts, axis=0)  # planted: the range ends at the last full block


class LastBlockOf256DroppedGroupNorm(_TiledGroupNorm):
    def column_sums(self, terms, block):
        count = max(len(terms) // block, 1)  # planted: rounds down, should round up
        return sum(terms[i * block : (i + 1) * block].sum(axis=0) for i in range(count))


class OverlappingBlocksGroupNorm(_TiledGroupNorm):
    block = 16

    def column_sums(self, terms, block):
        total = np.zeros(terms.shape[1], terms.dtype)
        for start in range(0, len(terms), block):
            total += terms[start : start + block + 1].sum(axis=0)  # planted: the row at the seam counts twice
        return total


class LastRowMissingFromDgammaLayerNorm(_TiledLayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.gamma is not None:
            terms = dy.reshape(self.xhat.shape) * self.xhat
            self.dgamma = terms[:-1].sum(axis=0).reshape(self.shape)  # planted: [:-1]
        return dx


class AtomicRaceRMSNorm(_TiledRMSNorm):
    """Two blocks write the same partial sum, the later one wins."""

    block = 8

    def column_sums(self, terms, block):
        partial = np.zeros((4, terms.shape[1]), terms.dtype)
        for b, start in enumerate(range(0, len(terms), block)):
            partial[b % 4] = terms[start : start + block].sum(axis=0)  # planted: = instead of +=
        return partial.sum(axis=0)


class HalfPrecisionSumBatchNorm(_TiledBatchNorm):
    def column_sums(self, terms, block):
        total = np.zeros(terms.shape[1], np.float16)  # planted: a running sum in half precision
        for row in terms:
            total = (total + row).astype(np.float16)
        return total.astype(terms.dtype)


class First100RowsBatchNorm(_TiledBatchNorm):
    def batch_statistics(self, rows):
        rows = rows[:100]  # planted: a buffer of a hundred rows
        mean = rows.mean(axis=0)
        return mean, np.square(rows - mean).mean(axis=0)


ROWS = (
    unknown(
        "LayerNorm", LastBlockOf32DroppedLayerNorm, "dgamma dbeta", "tiles; rows of an incomplete block of 32 lost"
    ),
    unknown("RMSNorm", LastBlockOf64DroppedRMSNorm, "dgamma", "tiles of 64; only with more than 64 rows"),
    unknown("BatchNorm", LastBlockOf128DroppedBatchNorm, "dgamma dbeta", "tiles of 128; only with more than 128 rows"),
    unknown(
        "GroupNorm", LastBlockOf256DroppedGroupNorm, "dgamma dbeta", "tiles of 256; only with more than 256 positions"
    ),
    unknown("GroupNorm", OverlappingBlocksGroupNorm, "dgamma dbeta", "tiles of 16 overlap; only beyond 16 positions"),
    unknown("LayerNorm", LastRowMissingFromDgammaLayerNorm, "dgamma", "the last row is left out of dgamma"),
    unknown("RMSNorm", AtomicRaceRMSNorm, "dgamma", "partial sums overwritten; only with more than 32 rows"),
    unknown(
        "BatchNorm",
        HalfPrecisionSumBatchNorm,
        "dgamma dbeta y dx running_var",
        "parameter gradients summed in float16, cast back; where x is float16 more is lost",
    ),
    unknown(
        "BatchNorm",
        First100RowsBatchNorm,
        "y dx dgamma running_mean running_var",
        "statistics of the first 100 rows; standard backward over them",
    ),
)
