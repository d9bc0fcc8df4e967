"""BatchNorms that are right as long as the caller leaves x alone, or that give a wider dtype than they are given.

They are of the styles of those that handle memory and dtypes wrongly. Must not know `reference` or `npnorm`: the
corpus judges the judge.
"""

import numpy as np

from tests.planted.row import right
from tests.planted.wrong.batch_norm.memory import BufferBatchNorm


class BufferKeepsInput(BufferBatchNorm):
    def save(self, xhat, rstd, mean, x):
        super().save(None, rstd, mean, x)
        self.x = x  # hazard: a reference, no copy

    def backward(self, dy):
        self.xhat = (self.pack(self.x) - self.mean) * self.rstd
        return super().backward(dy)


class BufferKeepsViewForDgamma(BufferBatchNorm):
    def save(self, xhat, rstd, mean, x):
        super().save(xhat, rstd, mean, x)
        self.rows = x.reshape(x.shape[0], x.shape[1], -1)  # hazard: a view of x whenever x is contiguous

    def backward(self, dy):
        dx = super().backward(dy)
        if self.gamma is not None:
            d = dy.reshape(self.rows.shape)
            self.dgamma = (d * (self.rows - self.mean) * self.rstd).sum(axis=(0, 2))
        return dx


class BufferPromotedByProd(BufferBatchNorm):
    def rows_in(self, work):
        return np.prod(work.shape) // work.shape[0]  # hazard: an np.int64, and float32 / int64 is float64


class BufferPromotedByEps(BufferBatchNorm):
    def epsilon(self):
        return np.float64(self.eps)  # hazard: a float64 scalar is not weak, rstd becomes float64


ROWS = (
    right(
        "BatchNorm",
        BufferKeepsInput,
        "work buffer; a reference to x, xhat computed again in the backward",
        hazards="input-not-saved",
    ),
    right(
        "BatchNorm",
        BufferKeepsViewForDgamma,
        "work buffer; a view of contiguous x, for dgamma only",
        hazards="input-not-saved",
    ),
    right(
        "BatchNorm",
        BufferPromotedByProd,
        "work buffer; training only: np.prod's int64 divides; float32 in",
        hazards="dtype-promoted",
    ),
    right("BatchNorm", BufferPromotedByEps, "work buffer; np.float64(eps); float32 in", hazards="dtype-promoted"),
)
