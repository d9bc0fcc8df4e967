"""InstanceNorm over rows that share their statistics; mistakes in the scale and the variance, and in gamma.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import RowsInstanceNorm


class InstanceNormSquared(RowsInstanceNorm):
    def factor(self, v):
        return 1 / (v + self.eps) / (v + self.eps)  # planted: not a root

    def slope(self, v):
        return -2 / (v + self.eps) ** 3


class InstanceNormOverRsqrt(RowsInstanceNorm):
    def factor(self, v):
        return np.sqrt(v + self.eps)  # planted: x / rsqrt(v)


class InstanceNormPlusOne(RowsInstanceNorm):
    def weight(self, gamma):
        return 1 + gamma  # planted: gamma is the distance from 1


class MomentsInstanceNorm(RowsInstanceNorm):
    def statistics(self, r):
        n, total = r.shape[1], r.sum(1, keepdims=True)
        squares = np.sum(r**2, axis=1, keepdims=True)
        return total / n, (squares - total**2 / n) / n  # planted: as a textbook's shortcut has it


planted = partial(wrong, "InstanceNorm", style="over rows; ")

ROWS = (
    planted(InstanceNormSquared, "variance-squared", "y dx dgamma", "its own derivative"),
    planted(InstanceNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "the usual backward over the wrong factor"),
    planted(InstanceNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    planted(MomentsInstanceNorm, "one-pass-variance", "y dx dgamma", "from the sums; at a large mean"),
)
