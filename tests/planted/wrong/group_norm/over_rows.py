"""GroupNorm over rows that share their statistics; mistakes in the scale and the variance, and in gamma.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import RowsGroupNorm


class GroupNormSquared(RowsGroupNorm):
    def factor(self, v):
        return 1 / np.square(v + self.eps)  # planted: np.sqrt


class GroupNormOverRsqrt(RowsGroupNorm):
    def factor(self, v):
        return np.sqrt(v + self.eps)  # planted: x / rsqrt(v)

    def slope(self, v):
        return -0.5 * np.sqrt(v + self.eps) ** 3  # as if it were rsqrt


class GroupNormPlusOne(RowsGroupNorm):
    def weight(self, gamma):
        return 1 + gamma  # planted: gamma is the distance from 1


class MomentsClampedGroupNorm(RowsGroupNorm):
    def statistics(self, r):
        n = r.shape[1]
        mean = r.sum(1, keepdims=True) / n
        var = np.einsum("rn,rn->r", r, r)[:, None] / n - mean**2  # planted
        return mean, np.maximum(var, 0)


planted = partial(wrong, "GroupNorm", style="over rows; ")

ROWS = (
    planted(GroupNormSquared, "variance-squared", "y dx dgamma", "the usual backward over the wrong factor"),
    planted(GroupNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "the usual backward over the wrong factor"),
    planted(GroupNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    planted(MomentsClampedGroupNorm, "one-pass-variance", "y dx dgamma", "clamped at 0; at a large mean"),
)
