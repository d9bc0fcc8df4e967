"""Layers that lose digits where the mean is large: the variance is the difference of two moments, each in its own style.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

import numpy as np

from tests.planted.row import Planted
from tests.planted.wrong_new_forward import RowsBatchNorm, RowsGroupNorm, RowsInstanceNorm, RowsLayerNorm


class MomentsLayerNorm(RowsLayerNorm):
    def statistics(self, r):
        mean = r.mean(1, keepdims=True)
        return mean, (r * r).mean(1, keepdims=True) - mean * mean  # planted: before the mean is taken off


class MomentsClampedGroupNorm(RowsGroupNorm):
    def statistics(self, r):
        n = r.shape[1]
        mean = r.sum(1, keepdims=True) / n
        var = np.einsum("rn,rn->r", r, r)[:, None] / n - mean**2  # planted
        return mean, np.maximum(var, 0)


class MomentsInstanceNorm(RowsInstanceNorm):
    def statistics(self, r):
        n, total = r.shape[1], r.sum(1, keepdims=True)
        squares = np.sum(r**2, axis=1, keepdims=True)
        return total / n, (squares - total**2 / n) / n  # planted: as a textbook's shortcut has it


class MomentsBatchNorm(RowsBatchNorm):
    def second_moment(self, c):
        r = c + self.mean
        return np.mean(r**2, axis=1, keepdims=True) - self.mean**2  # planted

    def statistics(self, r):
        self.mean = r.mean(1, keepdims=True)
        return super().statistics(r)


def _row(like, layer, note):
    return Planted(layer, like, frozenset({"one-pass-variance"}), frozenset({"y", "dx", "dgamma"}), note)


ONE_PASS: tuple[Planted, ...] = (
    _row("LayerNorm", MomentsLayerNorm, "may be negative; at a large mean"),
    _row("GroupNorm", MomentsClampedGroupNorm, "clamped at 0; at a large mean"),
    _row("InstanceNorm", MomentsInstanceNorm, "from the sums; at a large mean"),
    _row("BatchNorm", MomentsBatchNorm, "may be negative; at a large mean; eval uses what was learned"),
)
