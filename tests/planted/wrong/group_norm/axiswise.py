"""GroupNorm axis by axis, with keepdims; one of the two means of dx is left a sum, or has no eps.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import AxisGroupNorm


class GroupNormFirstSummed(AxisGroupNorm):
    def first(self, d):
        return np.sum(d, axis=self.axes, keepdims=True)  # planted: mean


class GroupNormSecondSummed(AxisGroupNorm):
    def second(self, dz):
        return np.sum(dz, axis=self.axes, keepdims=True)  # planted: mean


class GroupNormEpsForgottenInPower(AxisGroupNorm):
    def moments(self, v):
        mean, self.var = super().moments(v)
        return mean, self.var

    def second(self, dz):
        bare = np.sqrt(self.var + self.eps) / np.sqrt(self.var)
        return super().second(dz) * bare**3  # planted: (var + eps)**-1.5 without its eps


planted = partial(wrong, "GroupNorm", style="axis by axis; ")

ROWS = (
    planted(GroupNormFirstSummed, "dx-mean-term-sum", "dx", "when more than one share a mean"),
    planted(GroupNormSecondSummed, "dx-projection-term-sum", "dx", "when more than one share a mean"),
    planted(GroupNormEpsForgottenInPower, "dx-eps-missing", "dx", "near eps"),
)
