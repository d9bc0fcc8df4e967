"""GroupNorm with Python loops over samples and groups; mistakes in how one block is normalized.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class LoopedGroupNorm:
    """Right. One block is x[i, first:last]; its xhat and rstd are kept in lists."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups = num_groups
        self.width = num_channels // num_groups
        self.eps = eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def normalize(self, block):
        centred = block - block.mean()
        rstd = 1 / np.sqrt((centred * centred).mean() + self.eps)
        return centred * rstd, rstd

    def gradient(self, d, xhat, rstd):
        return rstd * (d - d.mean() - xhat * (d * xhat).mean())

    def remember(self, block, xhat):
        return xhat

    def forward(self, x):
        y = np.empty_like(x)
        self.xhat = np.empty_like(x)
        self.rstd = {}
        for i in range(x.shape[0]):
            for g in range(self.num_groups):
                part = slice(g * self.width, (g + 1) * self.width)
                xhat, self.rstd[i, g] = self.normalize(x[i, part])
                y[i, part] = xhat
                self.xhat[i, part] = self.remember(x[i, part], xhat)
            if self.gamma is not None:
                for c in range(x.shape[1]):
                    y[i, c] = y[i, c] * self.gamma[c] + self.beta[c]
        return y

    def backward(self, dy):
        dx = np.empty_like(dy)
        if self.gamma is not None:
            self.dgamma = np.zeros(self.gamma.shape, dy.dtype)
            self.dbeta = np.zeros(self.beta.shape, dy.dtype)
        for i in range(dy.shape[0]):
            d = dy[i].copy()
            if self.gamma is not None:
                for c in range(dy.shape[1]):
                    self.dgamma[c] += (dy[i, c] * self.xhat[i, c]).sum()
                    self.dbeta[c] += dy[i, c].sum()
                    d[c] *= self.gamma[c]
            for g in range(self.num_groups):
                part = slice(g * self.width, (g + 1) * self.width)
                dx[i, part] = self.gradient(d[part], self.xhat[i, part], self.rstd[i, g])
        return dx


class LoopedSampleVariance(LoopedGroupNorm):
    def normalize(self, block):
        centred = block - block.mean()
        rstd = 1 / np.sqrt((centred * centred).sum() / (block.size - 1) + self.eps)  # planted: - 1
        return centred * rstd, rstd


class LoopedSampleVarianceAndItsGradient(LoopedSampleVariance):
    def gradient(self, d, xhat, rstd):
        return rstd * (d - d.mean() - xhat * (d * xhat).sum() / (d.size - 1))


class LoopedEpsBesideStd(LoopedGroupNorm):
    def normalize(self, block):
        centred = block - block.mean()
        rstd = 1 / (np.sqrt((centred * centred).mean()) + self.eps)  # planted: eps outside the root
        return centred * rstd, rstd


class LoopedEpsBesideStdAndItsGradient(LoopedEpsBesideStd):
    def gradient(self, d, xhat, rstd):
        sigma = 1 / rstd - self.eps
        return rstd * (d - d.mean()) - xhat * (d * xhat).mean() / sigma


class LoopedNoEps(LoopedGroupNorm):
    def normalize(self, block):
        centred = block - block.mean()
        rstd = 1 / np.sqrt((centred * centred).mean())  # planted: + eps
        return centred * rstd, rstd


class LoopedOwnEps(LoopedGroupNorm):
    def normalize(self, block):
        centred = block - block.mean()
        rstd = 1 / np.sqrt((centred * centred).mean() + 1e-5)  # planted: whatever eps was asked for
        return centred * rstd, rstd


class LoopedTinyEps(LoopedGroupNorm):
    EPS = 1e-8

    def normalize(self, block):
        centred = block - block.mean()
        rstd = 1 / np.sqrt((centred * centred).mean() + self.EPS)  # planted: a constant of the class
        return centred * rstd, rstd


class LoopedDividesByVariance(LoopedGroupNorm):
    def normalize(self, block):
        centred = block - block.mean()
        rstd = 1 / ((centred * centred).mean() + self.eps)  # planted: no root
        return centred * rstd, rstd


class LoopedDividesByVarianceAndItsGradient(LoopedDividesByVariance):
    def gradient(self, d, xhat, rstd):
        return rstd * (d - d.mean()) - 2 * xhat * (d * xhat).mean()


class LoopedRootOfStd(LoopedGroupNorm):
    def normalize(self, block):
        centred = block - block.mean()
        deviation = block.std()
        rstd = 1 / np.sqrt(deviation + self.eps)  # planted: the root of a root
        return centred * rstd, rstd


class LoopedRootOfStdAndItsGradient(LoopedRootOfStd):
    def gradient(self, d, xhat, rstd):
        deviation = 1 / rstd**2 - self.eps
        return rstd * (d - d.mean() - xhat * (d * xhat).mean() / (2 * deviation))


class LoopedUncentred(LoopedGroupNorm):
    def normalize(self, block):
        rstd = 1 / np.sqrt(block.var() + self.eps)
        return block * rstd, rstd  # planted: block - block.mean()


class LoopedUncentredAndItsGradient(LoopedUncentred):
    def gradient(self, d, xhat, rstd):
        return rstd * (d - (xhat - xhat.mean()) * (d * xhat).mean())


class LoopedUncentredOutputOnly(LoopedUncentred):
    def remember(self, block, xhat):
        return xhat - xhat.mean()


planted = partial(wrong, "GroupNorm", style="loops over samples and groups: ")

ROWS = (
    planted(LoopedSampleVariance, "variance-unbiased", "y dx dgamma", "n - 1; standard backward"),
    planted(LoopedSampleVarianceAndItsGradient, "variance-unbiased", "y dx dgamma", "n - 1; true derivative"),
    planted(LoopedEpsBesideStd, "eps-outside-sqrt", "y dx dgamma", "std + eps; standard backward"),
    planted(LoopedEpsBesideStdAndItsGradient, "eps-outside-sqrt", "y dx dgamma", "std + eps; true derivative"),
    planted(LoopedNoEps, "eps-missing", "y dx dgamma", "no eps; backward true to it; when var is near eps"),
    planted(LoopedOwnEps, "eps-argument-ignored", "y dx dgamma", "always 1e-5; when another eps is asked for"),
    planted(LoopedTinyEps, "eps-argument-ignored", "y dx dgamma", "always 1e-8; when var is near eps"),
    planted(LoopedDividesByVariance, "std-not-rooted", "y dx dgamma", "no root; standard backward"),
    planted(LoopedDividesByVarianceAndItsGradient, "std-not-rooted", "y dx dgamma", "no root; true derivative"),
    planted(LoopedRootOfStd, "variance-is-std", "y dx dgamma", "sqrt(std + eps); standard backward"),
    planted(LoopedRootOfStdAndItsGradient, "variance-is-std", "y dx dgamma", "sqrt(std + eps); true derivative"),
    planted(LoopedUncentred, "mean-not-subtracted", "y dx dgamma", "x * rstd, var about the mean; standard backward"),
    planted(LoopedUncentredAndItsGradient, "mean-not-subtracted", "y dx dgamma", "x * rstd; true derivative"),
    planted(LoopedUncentredOutputOnly, "mean-not-subtracted", "y", "x * rstd; the right layer's backward"),
)
