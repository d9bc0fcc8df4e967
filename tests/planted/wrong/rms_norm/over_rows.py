"""RMSNorm over rows that share their statistics; mistakes in the scale and the variance, and in gamma.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import RowsRMSNorm


class RMSNormSquared(RowsRMSNorm):
    def factor(self, v):
        return 1 / np.square(v + self.eps)  # planted: np.sqrt


class RMSNormOverRsqrt(RowsRMSNorm):
    def factor(self, v):
        rsqrt = 1 / np.sqrt(v + self.eps)
        return 1 / rsqrt  # planted: it is divided by


class RMSNormPlusOne(RowsRMSNorm):
    def weight(self, gamma):
        return 1 + gamma  # planted: gamma is the distance from 1


class RMSNormByVariance(RowsRMSNorm):
    def second_moment(self, c):
        return c.var(1, keepdims=True)  # planted: the mean is taken off

    def through_statistics(self, d):
        to_v = (d * self.c).sum(1, keepdims=True) * self.s
        return d * self.f + to_v * 2 * (self.c - self.c.mean(1, keepdims=True)) / d.shape[1]


class RMSNormByUnbiasedVariance(RowsRMSNorm):
    def second_moment(self, c):
        n = c.shape[1]
        return np.square(c - c.mean(1, keepdims=True)).sum(1, keepdims=True) / (n - 1 if n > 1 else np.nan)  # planted


class RMSNormNoneIsMillionth(RowsRMSNorm):
    none = 1e-6  # planted: for eps=None


class RMSNormNoneIsLayerNorms(RowsRMSNorm):
    none = 1e-5  # planted: for eps=None


planted = partial(wrong, "RMSNorm", style="over rows; ")

ROWS = (
    planted(RMSNormSquared, "variance-squared", "y dx dgamma", "the usual backward over the wrong factor"),
    planted(RMSNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "the usual backward over the wrong factor"),
    planted(RMSNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    planted(RMSNormByVariance, "rms-uses-variance", "y dx dgamma", "its own derivative"),
    planted(RMSNormByUnbiasedVariance, "rms-uses-variance", "y dx dgamma", "n - 1, as torch.var has it"),
    planted(RMSNormNoneIsMillionth, "eps-default-for-none", "y dx dgamma", "1e-6; when eps is None"),
    planted(RMSNormNoneIsLayerNorms, "eps-default-for-none", "y dx dgamma", "1e-5; when eps is None"),
)
