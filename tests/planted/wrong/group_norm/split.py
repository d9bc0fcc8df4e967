"""GroupNorm on a (N, G, C // G, ...) view with a named tuple as memory; mistakes in axes, gamma and beta.

Where the axes of the statistics are wrong the backward is the standard one: means over the right axes,
but with the wrong xhat and rstd.
Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from tests.planted.row import wrong


class Memory(NamedTuple):
    xhat: np.ndarray
    rstd: np.ndarray


class SplitGroupNorm:
    """Right. gamma and beta are spread out to (1, G, C // G, 1, ...) once and used in that shape."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.groups = num_groups
        self.width = num_channels // num_groups
        self.eps = eps
        self.dgamma = self.dbeta = None
        self.gamma = np.ones(num_channels, dtype=np.float32) if affine else None
        self.beta = np.zeros(num_channels, dtype=np.float32) if affine else None

    def view(self, x):
        return x.reshape((x.shape[0], self.groups, self.width, *x.shape[2:]))

    def spread(self, p, t):
        return p.astype(t.dtype).reshape((1, self.groups, self.width) + (1,) * (t.ndim - 3))

    def axes(self, ndim):
        return tuple(range(2, ndim))

    def forward(self, x):
        v = self.view(x)
        axes = self.axes(v.ndim)
        v = v - np.mean(v, axis=axes, keepdims=True)
        rstd = np.reciprocal(np.sqrt(np.mean(v * v, axis=axes, keepdims=True) + self.eps))
        self.memory = Memory(v * rstd, rstd)
        y = self.memory.xhat.copy() if self.gamma is None else self.affine(self.memory.xhat)
        return y.reshape(x.shape)

    def affine(self, xhat):
        return self.spread(self.gamma, xhat) * xhat + self.spread(self.beta, xhat)

    def affine_gradients(self, d, xhat):
        axes = (0, *range(3, d.ndim))
        self.dgamma = (d * xhat).sum(axes).ravel()
        self.dbeta = d.sum(axes).ravel()
        return d * self.spread(self.gamma, d)

    def backward(self, dy):
        d = self.view(dy)
        xhat, rstd = self.memory
        if self.gamma is not None:
            d = self.affine_gradients(d, xhat)
        axes = tuple(range(2, d.ndim))
        inner = d - np.mean(d, axis=axes, keepdims=True) - xhat * np.mean(d * xhat, axis=axes, keepdims=True)
        return (rstd * inner).reshape(dy.shape)


# The statistics run over the wrong axes.


class SplitReducesSpatialAxes(SplitGroupNorm):
    def axes(self, ndim):
        return tuple(range(3, ndim)) or (2,)  # planted: from axis 3 where there is one


class SplitReducesChannelsOnly(SplitGroupNorm):
    def axes(self, ndim):
        return (2,)  # planted: the positions are left out


class SplitReducesBatchToo(SplitGroupNorm):
    def axes(self, ndim):
        return (0, *range(2, ndim))  # planted: axis 0


class SplitIntoGChannels(SplitGroupNorm):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        super().__init__(num_groups, num_channels, eps, affine)
        self.groups, self.width = self.width, self.groups  # planted: (N, C // G, G, ...)


# gamma and beta are applied wrongly.


class SplitIgnoresGamma(SplitGroupNorm):
    def affine(self, xhat):
        return xhat + self.spread(self.beta, xhat)  # planted: gamma is not there, but in the backward it is


class SplitIgnoresGammaBothWays(SplitGroupNorm):
    def affine(self, xhat):
        return xhat + self.spread(self.beta, xhat)  # planted: gamma is not there

    def affine_gradients(self, d, xhat):
        super().affine_gradients(d, xhat)
        return d


class SplitIgnoresBeta(SplitGroupNorm):
    def affine(self, xhat):
        return self.spread(self.gamma, xhat) * xhat  # planted: no beta


class SplitShiftsFirst(SplitGroupNorm):
    def affine(self, xhat):
        return self.spread(self.gamma, xhat) * (xhat + self.spread(self.beta, xhat))  # planted: the bracket

    def affine_gradients(self, d, xhat):
        axes = (0, *range(3, d.ndim))
        self.dgamma = (d * (xhat + self.spread(self.beta, d))).sum(axes).ravel()
        self.dbeta = (d * self.spread(self.gamma, d)).sum(axes).ravel()
        return d * self.spread(self.gamma, d)


class SplitGammaByGroupIndex(SplitGroupNorm):
    def affine(self, xhat):
        return self.of_group(self.gamma, xhat) * xhat + self.spread(self.beta, xhat)

    def affine_gradients(self, d, xhat):
        super().affine_gradients(d, xhat)
        return d * self.of_group(self.gamma, d)

    def of_group(self, p, t):
        p = p[: self.groups]  # planted: entry g serves every channel of group g
        return p.astype(t.dtype).reshape((1, self.groups, 1) + (1,) * (t.ndim - 3))


class SplitAffineByGroupIndex(SplitGammaByGroupIndex):
    def affine(self, xhat):
        return self.of_group(self.gamma, xhat) * xhat + self.of_group(self.beta, xhat)

    def affine_gradients(self, d, xhat):
        axes = (0, *range(2, d.ndim))
        self.dgamma = np.zeros(self.gamma.shape, d.dtype)
        self.dbeta = np.zeros(self.beta.shape, d.dtype)
        self.dgamma[: self.groups] = (d * xhat).sum(axes)
        self.dbeta[: self.groups] = d.sum(axes)
        return d * self.of_group(self.gamma, d)


class SplitOneGammaAGroup(SplitGammaByGroupIndex):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        super().__init__(num_groups, num_channels, eps, affine)
        if affine:
            self.gamma = np.ones(num_groups)  # planted: G entries, not C
            self.beta = np.zeros(num_groups)

    def affine(self, xhat):
        return self.of_group(self.gamma, xhat) * xhat + self.of_group(self.beta, xhat)

    def affine_gradients(self, d, xhat):
        axes = (0, *range(2, d.ndim))
        self.dgamma = (d * xhat).sum(axes)
        self.dbeta = d.sum(axes)
        return d * self.of_group(self.gamma, d)


planted = partial(wrong, "GroupNorm", style="view (N, G, C // G, ...), named tuple: ")

ROWS = (
    planted(SplitReducesSpatialAxes, "statistics-per-channel", "y dx dgamma", "standard backward; from rank 3"),
    planted(SplitReducesChannelsOnly, "statistics-per-position", "y dx dgamma", "standard backward; from rank 3"),
    planted(SplitReducesBatchToo, "statistics-over-batch", "y dx dgamma", "standard backward; batch above 1"),
    planted(SplitIntoGChannels, "groups-and-channels-swapped", "y dx dgamma", "C / G groups; true derivative"),
    planted(SplitIgnoresGamma, "gamma-not-applied", "y", "xhat + beta; the right layer's backward"),
    planted(SplitIgnoresGammaBothWays, "gamma-not-applied", "y dx", "xhat + beta, and no gamma in dx; dgamma is right"),
    planted(SplitIgnoresBeta, "beta-not-applied", "y", "gamma * xhat; the right layer's backward"),
    planted(SplitShiftsFirst, "beta-before-gamma", "y dgamma dbeta", "gamma * (xhat + beta); true derivative"),
    planted(SplitGammaByGroupIndex, "gamma-per-group", "y dx", "gamma[g], beta right; dx with it, dgamma right"),
    planted(
        SplitAffineByGroupIndex,
        "gamma-per-group",
        "y dx dgamma dbeta",
        "gamma[g] and beta[g] of C entries; true derivative, so entries from G on get gradient 0",
    ),
    planted(
        SplitOneGammaAGroup,
        "gamma-per-group",
        "y dx dgamma dbeta",
        "gamma, beta and their gradients are (G,) arrays; true derivative; right when G == C",
    ),
)
