"""LayerNorm axis by axis, with keepdims; one of the two means of dx is left a sum, or has no eps.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import AxisLayerNorm


class LayerNormFirstSummed(AxisLayerNorm):
    def first(self, d):
        return np.sum(d, axis=self.axes, keepdims=True)  # planted: mean


class LayerNormSecondSummed(AxisLayerNorm):
    def second(self, dz):
        return np.sum(dz, axis=self.axes, keepdims=True)  # planted: mean


class LayerNormEpsForgottenInRoot(AxisLayerNorm):
    def moments(self, v):
        mean, self.var = super().moments(v)
        return mean, self.var

    def second(self, dz):
        bare = np.sqrt(self.var + self.eps) / np.sqrt(self.var)
        return super().second(dz) * bare  # planted: one of the three roots is of var alone


planted = partial(wrong, "LayerNorm", style="axis by axis; ")

ROWS = (
    planted(LayerNormFirstSummed, "dx-mean-term-sum", "dx", "when more than one share a mean"),
    planted(LayerNormSecondSummed, "dx-projection-term-sum", "dx", "when more than one share a mean"),
    planted(LayerNormEpsForgottenInRoot, "dx-eps-missing", "dx", "near eps"),
)
