"""InstanceNorm with a comprehension over samples and channels; a mistake in each of its three parts.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class ChannelwiseInstanceNorm:
    """Right. Each plane x[i, c] is standardized by itself."""

    def __init__(self, num_features, eps=1e-5, affine=False):
        self.eps = eps
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.dgamma = self.dbeta = None

    def rstd_of(self, plane):
        return 1 / np.sqrt(np.mean((plane - plane.mean()) ** 2) + self.eps)

    def parameter(self, p, t):
        return p.astype(t.dtype)[(None, slice(None)) + (None,) * (t.ndim - 2)]

    def forward(self, x):
        self.rstd = {(i, c): self.rstd_of(x[i, c]) for i, c in np.ndindex(x.shape[:2])}
        self.xhat = np.empty_like(x)
        for at, rstd in self.rstd.items():
            self.xhat[at] = (x[at] - x[at].mean()) * rstd
        if self.gamma is None:
            return self.xhat.copy()
        return self.parameter(self.gamma, x) * self.xhat + self.parameter(self.beta, x)

    def backward(self, dy):
        d = dy
        if self.gamma is not None:
            self.dgamma = self.reduce(dy * self.xhat)
            self.dbeta = dy.sum(axis=(0, *range(2, dy.ndim)))
            d = dy * self.parameter(self.gamma, dy)
        dx = np.empty_like(dy)
        for at, rstd in self.rstd.items():
            dx[at] = rstd * self.plane_gradient(d[at], self.xhat[at])
        return dx

    def reduce(self, t):
        return t.sum(axis=(0, *range(2, t.ndim)))

    def plane_gradient(self, d, xhat):
        return d - d.mean() - xhat * (d * xhat).mean()


class ChannelwiseSampleVariance(ChannelwiseInstanceNorm):
    def rstd_of(self, plane):
        return 1 / np.sqrt(plane.var(ddof=1) + self.eps)  # planted: ddof


class ChannelwiseWithoutMeanTerm(ChannelwiseInstanceNorm):
    def plane_gradient(self, d, xhat):
        return d - xhat * (d * xhat).mean()  # planted: - d.mean()


class ChannelwiseMeanOverBatch(ChannelwiseInstanceNorm):
    def reduce(self, t):
        return t.mean(axis=(0, *range(2, t.ndim)))  # planted: mean


planted = partial(wrong, "InstanceNorm", style="loop over planes: ")

ROWS = (
    planted(ChannelwiseSampleVariance, "variance-unbiased", "y dx dgamma", "n - 1; standard backward"),
    planted(ChannelwiseWithoutMeanTerm, "dx-mean-term-missing", "dx", "always"),
    planted(ChannelwiseMeanOverBatch, "dgamma-mean-not-sum", "dgamma", "affine=True, more than one summed"),
)
