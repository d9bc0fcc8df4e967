"""BatchNorm axis by axis, with keepdims; one of the two means of dx is left a sum, or has no eps.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import AxisBatchNorm


class BatchNormFirstSummed(AxisBatchNorm):
    def first(self, d):
        return np.sum(d, axis=self.axes, keepdims=True)  # planted: mean


class BatchNormSecondSummed(AxisBatchNorm):
    def second(self, dz):
        return np.sum(dz, axis=self.axes, keepdims=True)  # planted: mean


class BatchNormEpsForgottenInRoot(AxisBatchNorm):
    def moments(self, v):
        mean, self.var = super().moments(v)
        return mean, self.var

    def second(self, dz):
        bare = np.sqrt(self.var + self.eps) / np.sqrt(self.var)
        return super().second(dz) * bare  # planted: one of the three roots is of var alone


planted = partial(wrong, "BatchNorm", style="axis by axis; ")

ROWS = (
    planted(BatchNormFirstSummed, "dx-mean-term-sum", "dx", "when more than one share a mean"),
    planted(BatchNormSecondSummed, "dx-projection-term-sum", "dx", "when more than one share a mean"),
    planted(BatchNormEpsForgottenInRoot, "dx-eps-missing", "dx", "near eps"),
)
