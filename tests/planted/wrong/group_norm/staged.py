"""GroupNorm whose backward walks the graph node by node, as in course assignments; mistakes in its nodes.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class StagedGroupNorm:
    """Right. Channels are split as (N, G, C // G, ...); every forward node has its own gradient below."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.gamma = self.beta = self.dgamma = self.dbeta = None
        if affine:
            self.gamma = np.ones((num_channels,))
            self.beta = np.zeros((num_channels,))

    def split(self, t):
        return t.reshape(t.shape[0], self.num_groups, self.num_channels // self.num_groups, *t.shape[2:])

    def forward(self, x):
        xs = self.split(x)
        self.axes = tuple(range(2, xs.ndim))
        self.m = int(np.prod(xs.shape[2:]))
        mu = xs.sum(axis=self.axes, keepdims=True) / self.m  # node 1
        self.xc = xs - mu  # node 2
        sq = self.xc * self.xc  # node 3
        self.var = sq.sum(axis=self.axes, keepdims=True) / self.m  # node 4
        self.std = np.sqrt(self.var + self.eps)  # node 5
        self.inv = 1 / self.std  # node 6
        self.xhat = self.xc * self.inv  # node 7
        out = np.array(self.xhat.reshape(x.shape))
        if self.affine:
            bc = (1, self.num_channels) + (1,) * (x.ndim - 2)
            self.w = self.gamma.reshape(bc).astype(x.dtype)
            out = self.w * out + self.beta.reshape(bc).astype(x.dtype)  # nodes 8, 9
        return out

    def backward(self, dy):
        if self.affine:
            over = tuple(i for i in range(dy.ndim) if i != 1)
            self.dbeta = np.sum(dy, axis=over)  # node 9
            self.dgamma = np.sum(dy * self.xhat.reshape(dy.shape), axis=over)  # node 8
        dxhat = self.split(self.through_gamma(dy))
        return self.through_statistics(dxhat).reshape(dy.shape)

    def through_gamma(self, dy):
        return dy * self.w if self.affine else dy

    def through_statistics(self, dxhat):
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)  # node 7
        dxc = dxhat * self.inv
        dstd = -dinv / (self.std * self.std)  # node 6
        dvar = 0.5 * dstd / self.std  # node 5
        dsq = np.ones_like(dxhat) * dvar / self.m  # node 4
        dxc = dxc + 2 * self.xc * dsq  # node 3
        dmu = -np.sum(dxc, axis=self.axes, keepdims=True)  # node 2
        return dxc + np.ones_like(dxhat) * dmu / self.m  # node 1


class StagedForgetsGamma(StagedGroupNorm):
    def through_gamma(self, dy):
        return dy  # planted: node 8 hands dy on unscaled


class StagedGammaTwice(StagedGroupNorm):
    def through_gamma(self, dy):
        return dy * self.w * self.w if self.affine else dy  # planted: scaled twice


class StagedForgetsMeanNode(StagedGroupNorm):
    def through_statistics(self, dxhat):
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)
        dxc = dxhat * self.inv
        dstd = -dinv / (self.std * self.std)
        dvar = 0.5 * dstd / self.std
        dsq = np.ones_like(dxhat) * dvar / self.m
        return dxc + 2 * self.xc * dsq  # planted: nothing flows through mu


class StagedMeanNodeSign(StagedGroupNorm):
    def through_statistics(self, dxhat):
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)
        dxc = dxhat * self.inv
        dstd = -dinv / (self.std * self.std)
        dvar = 0.5 * dstd / self.std
        dsq = np.ones_like(dxhat) * dvar / self.m
        dxc = dxc + 2 * self.xc * dsq
        dmu = np.sum(dxc, axis=self.axes, keepdims=True)  # planted: xc = x - mu gives a minus here
        return dxc + np.ones_like(dxhat) * dmu / self.m


class StagedForgetsVarianceNode(StagedGroupNorm):
    def through_statistics(self, dxhat):
        dxc = dxhat * self.inv  # planted: inv is taken for a constant
        dmu = -np.sum(dxc, axis=self.axes, keepdims=True)
        return dxc + np.ones_like(dxhat) * dmu / self.m


class StagedInverseNodeSign(StagedGroupNorm):
    def through_statistics(self, dxhat):
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)
        dxc = dxhat * self.inv
        dstd = dinv / (self.std * self.std)  # planted: (1 / t)' is -1 / t^2
        dvar = 0.5 * dstd / self.std
        dsq = np.ones_like(dxhat) * dvar / self.m
        dxc = dxc + 2 * self.xc * dsq
        dmu = -np.sum(dxc, axis=self.axes, keepdims=True)
        return dxc + np.ones_like(dxhat) * dmu / self.m


class StagedForgetsHalf(StagedGroupNorm):
    def through_statistics(self, dxhat):
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)
        dxc = dxhat * self.inv
        dstd = -dinv / (self.std * self.std)
        dvar = dstd / self.std  # planted: the 0.5 of the square root
        dsq = np.ones_like(dxhat) * dvar / self.m
        dxc = dxc + 2 * self.xc * dsq
        dmu = -np.sum(dxc, axis=self.axes, keepdims=True)
        return dxc + np.ones_like(dxhat) * dmu / self.m


class StagedStatisticsDetached(StagedGroupNorm):
    def through_statistics(self, dxhat):
        return dxhat * self.inv  # planted: neither mu nor std depends on x


class StagedStdWithoutEps(StagedGroupNorm):
    def through_statistics(self, dxhat):
        std = np.sqrt(self.var)  # planted: node 5 had eps; so inv, std, dvar are another function's
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)
        dxc = dxhat / std
        dstd = -dinv / (std * std)
        dvar = 0.5 * dstd / std
        dsq = np.ones_like(dxhat) * dvar / self.m
        dxc = dxc + 2 * self.xc * dsq
        dmu = -np.sum(dxc, axis=self.axes, keepdims=True)
        return dxc + np.ones_like(dxhat) * dmu / self.m


class StagedLastAxisOnly(StagedGroupNorm):
    def through_statistics(self, dxhat):
        last = dxhat.shape[-1]  # planted: here and in both sums, the last axis for all the group's axes
        dinv = np.sum(dxhat * self.xc, axis=-1, keepdims=True)
        dxhat = dxhat - np.sum(dxhat, axis=-1, keepdims=True) / last
        dvar = -0.5 * dinv / (self.std * self.std * self.std)
        return dxhat * self.inv + 2 * self.xc * dvar / last


class StagedForgetsCounts(StagedGroupNorm):
    def through_statistics(self, dxhat):
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)
        dmu = -np.sum(dxhat * self.inv, axis=self.axes, keepdims=True)
        dstd = -dinv / (self.std * self.std)
        dvar = 0.5 * dstd / self.std
        dsq = np.ones_like(dxhat) * dvar  # planted: / m
        return dxhat * self.inv + 2 * self.xc * dsq + np.ones_like(dxhat) * dmu  # planted: / m


class StagedBesselInBothNodes(StagedGroupNorm):
    def through_statistics(self, dxhat):
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)
        dmu = -np.sum(dxhat * self.inv, axis=self.axes, keepdims=True)
        dstd = -dinv / (self.std * self.std)
        dvar = 0.5 * dstd / self.std
        dsq = np.ones_like(dxhat) * dvar / (self.m - 1)  # planted: m
        return dxhat * self.inv + 2 * self.xc * dsq + np.ones_like(dxhat) * dmu / (self.m - 1)  # planted: m


class StagedMeanNodeTwice(StagedGroupNorm):
    def through_statistics(self, dxhat):
        dinv = np.sum(dxhat * self.xc, axis=self.axes, keepdims=True)
        dxc = dxhat * self.inv
        dmu = -np.sum(dxc, axis=self.axes, keepdims=True)
        dstd = -dinv / (self.std * self.std)
        dvar = 0.5 * dstd / self.std
        dxc = dxc + 2 * self.xc * dvar / self.m
        dmu = dmu - np.sum(dxc, axis=self.axes, keepdims=True)  # planted: counts the first dxc again
        return dxc + dmu / self.m


planted = partial(wrong, "GroupNorm", style="staged backprop over (N, G, C // G, ...): ")

ROWS = (
    planted(StagedForgetsGamma, "dx-gamma-missing", "dx", "dxhat = dy; when gamma differs from 1"),
    planted(StagedGammaTwice, "dx-gamma-twice", "dx", "dxhat = dy * gamma^2; when gamma differs from 1"),
    planted(StagedForgetsMeanNode, "dx-mean-term-missing", "dx", "nothing flows through mu; always"),
    planted(StagedMeanNodeSign, "dx-mean-term-sign", "dx", "dmu without its minus; always"),
    planted(StagedMeanNodeTwice, "dx-mean-term-doubled", "dx", "dmu counts the direct path twice; always"),
    planted(StagedForgetsVarianceNode, "dx-projection-term-missing", "dx", "nothing flows through var; always"),
    planted(StagedInverseNodeSign, "dx-projection-term-sign", "dx", "dstd without its minus; always"),
    planted(StagedForgetsHalf, "dx-projection-term-doubled", "dx", "the square root's 0.5 forgotten; always"),
    planted(StagedStatisticsDetached, "dx-statistics-held-constant", "dx", "dx = dxhat * inv; always"),
    planted(StagedStdWithoutEps, "dx-eps-missing", "dx", "the whole backward from sqrt(var); when var is near eps"),
    planted(StagedLastAxisOnly, "dx-last-axis-only", "dx", "sums over W (or L); when there are spatial axes"),
    planted(StagedForgetsCounts, "dx-sum-not-mean", "dx", "neither / m; when a group has several numbers"),
    planted(StagedBesselInBothNodes, "dx-divides-by-n-minus-1", "dx", "m - 1 in both nodes; always"),
)
