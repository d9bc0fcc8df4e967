"""InstanceNorm axis by axis, with keepdims; one of the two means of dx is left a sum, or has no eps.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import AxisInstanceNorm


class InstanceNormFirstSummed(AxisInstanceNorm):
    def first(self, d):
        return np.sum(d, axis=self.axes, keepdims=True)  # planted: mean


class InstanceNormSecondSummed(AxisInstanceNorm):
    def second(self, dz):
        return np.sum(dz, axis=self.axes, keepdims=True)  # planted: mean


class InstanceNormEpsForgottenInPower(AxisInstanceNorm):
    def moments(self, v):
        mean, self.var = super().moments(v)
        return mean, self.var

    def second(self, dz):
        bare = np.sqrt(self.var + self.eps) / np.sqrt(self.var)
        return super().second(dz) * bare**3  # planted: (var + eps)**-1.5 without its eps


planted = partial(wrong, "InstanceNorm", style="axis by axis; ")

ROWS = (
    planted(InstanceNormFirstSummed, "dx-mean-term-sum", "dx", "when more than one share a mean"),
    planted(InstanceNormSecondSummed, "dx-projection-term-sum", "dx", "when more than one share a mean"),
    planted(InstanceNormEpsForgottenInPower, "dx-eps-missing", "dx", "near eps"),
)
