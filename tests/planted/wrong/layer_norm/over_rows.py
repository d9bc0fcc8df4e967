"""LayerNorm over rows that share their statistics; mistakes in the scale and the variance, and in gamma.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import RowsLayerNorm


class LayerNormSquared(RowsLayerNorm):
    def factor(self, v):
        return (v + self.eps) ** -2.0  # planted: ** -0.5

    def slope(self, v):
        return -2 * (v + self.eps) ** -3.0  # its own


class LayerNormOverRsqrt(RowsLayerNorm):
    def factor(self, v):
        return np.sqrt(v + self.eps)  # planted: x / rsqrt(v)

    def slope(self, v):
        return 0.5 / np.sqrt(v + self.eps)


class LayerNormPlusOne(RowsLayerNorm):
    def weight(self, gamma):
        return 1 + gamma  # planted: gamma is the distance from 1


class MomentsLayerNorm(RowsLayerNorm):
    def statistics(self, r):
        mean = r.mean(1, keepdims=True)
        return mean, (r * r).mean(1, keepdims=True) - mean * mean  # planted: before the mean is taken off


planted = partial(wrong, "LayerNorm", style="over rows; ")

ROWS = (
    planted(LayerNormSquared, "variance-squared", "y dx dgamma", "its own derivative"),
    planted(LayerNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "its own derivative"),
    planted(LayerNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    planted(MomentsLayerNorm, "one-pass-variance", "y dx dgamma", "may be negative; at a large mean"),
)
