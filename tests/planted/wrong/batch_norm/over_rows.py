"""BatchNorm over rows that share their statistics; mistakes in the scale and the variance, and in gamma.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import RowsBatchNorm


class BatchNormSquared(RowsBatchNorm):
    def factor(self, v):
        return 1 / np.square(v + self.eps)  # planted: np.sqrt


class BatchNormOverRsqrt(RowsBatchNorm):
    def factor(self, v):
        return np.sqrt(v + self.eps)  # planted: x / rsqrt(v)

    def slope(self, v):
        return 0.5 / np.sqrt(v + self.eps)


class BatchNormPlusOne(RowsBatchNorm):
    def weight(self, gamma):
        return 1 + gamma  # planted: gamma is the distance from 1


class BatchNormOverBatch(RowsBatchNorm):
    def second_moment(self, c):
        return (c * c).sum(1, keepdims=True) / self.batch  # planted: of batch times space squares


class BatchNormOverBatchAlone(RowsBatchNorm):
    """The running variance is another line, and right."""

    def statistics(self, r):
        m, v = super().statistics(r)
        return m, v if self.fixed else v * (r.shape[1] / self.batch)  # planted: batch times space squares over batch


class BatchNormEvalWithoutEps(RowsBatchNorm):
    def factor(self, v):
        return 1 / np.sqrt(v) if self.fixed else super().factor(v)  # planted: eps in training alone


class MomentsBatchNorm(RowsBatchNorm):
    def second_moment(self, c):
        r = c + self.mean
        return np.mean(r**2, axis=1, keepdims=True) - self.mean**2  # planted

    def statistics(self, r):
        self.mean = r.mean(1, keepdims=True)
        return super().statistics(r)


planted = partial(wrong, "BatchNorm", style="over rows; ")

ROWS = (
    planted(BatchNormSquared, "variance-squared", "y dx dgamma", "the usual backward over the wrong factor"),
    planted(BatchNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "its own derivative"),
    planted(BatchNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    planted(
        BatchNormOverBatch, "variance-divided-by-batch", "y dx dgamma running_var", "running_var from the same line"
    ),
    planted(BatchNormOverBatchAlone, "variance-divided-by-batch", "y dx dgamma", "running_var is right"),
    planted(BatchNormEvalWithoutEps, "eval-eps-missing", "y dx dgamma", "eval only"),
    planted(
        MomentsBatchNorm,
        "one-pass-variance",
        "y dx dgamma running_var",
        "may be negative; at a large mean; eval uses what was learned",
    ),
)
