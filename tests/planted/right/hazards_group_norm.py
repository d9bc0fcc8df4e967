"""GroupNorms that are right as long as the caller leaves x alone, or that give a wider dtype than they are given.

They are of the styles of those that handle memory and dtypes wrongly. Must not know `reference` or `npnorm`: the
corpus judges the judge.
"""

import numpy as np

from tests.planted.row import right
from tests.planted.wrong.group_norm.state import LoopedGroupNorm, ReshapedGroupNorm


class ReshapedKeepsView(ReshapedGroupNorm):
    def save(self, x, **values):
        values["xg"] = x.reshape(len(x), self.num_groups, -1)  # hazard: a view of x whenever it is contiguous
        self.cache = values

    def backward(self, dy):
        self.cache["xhat"] = (self.cache["xg"] - self.cache["mean"]) * self.cache["rstd"]
        return super().backward(dy)


class ReshapedOutputBufferIsFloat64(ReshapedGroupNorm):
    def forward(self, x):
        y = np.zeros(x.shape)  # hazard: float64 whatever x is
        y[...] = super().forward(x)
        return y


class LoopedKeepsReference(LoopedGroupNorm):
    def keep(self, x):
        self.x = np.asarray(x)  # hazard: asarray does not copy


class LoopedGradientBufferIsFloat64(LoopedGroupNorm):
    def gradient_like(self, dy):
        return np.zeros(dy.shape)  # hazard: float64 whatever dy is


ROWS = (
    right("GroupNorm", ReshapedKeepsView, "reshape; a view of contiguous x, xhat made anew", hazards="input-not-saved"),
    right("GroupNorm", ReshapedOutputBufferIsFloat64, "reshape; np.zeros for y; float32 in", hazards="dtype-promoted"),
    right("GroupNorm", LoopedKeepsReference, "loops; asarray; mean and rstd are kept right", hazards="input-not-saved"),
    right("GroupNorm", LoopedGradientBufferIsFloat64, "loops; np.zeros for dx; float32 in", hazards="dtype-promoted"),
)
