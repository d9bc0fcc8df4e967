"""GroupNorm as a 2D matrix, a row for each (sample, group), and a backward row by row; mistakes in that row.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class RowwiseGroupNorm:
    """Right. x, gamma and dy are laid out as matrices of n * groups rows; each row stands alone."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None

    def matrix(self, t):
        count = t.shape[0] * self.num_groups
        return t.reshape(count, t.size // count) if count else t.reshape(0, 1)

    def like(self, p, t):
        return np.broadcast_to(p.astype(t.dtype).reshape((1, -1) + (1,) * (t.ndim - 2)), t.shape)

    def forward(self, x):
        self.batch = x.shape[0]
        self.x = self.matrix(x).copy()
        self.mu = self.x.mean(axis=1)
        self.var = np.mean((self.x - self.mu[:, None]) ** 2, axis=1)
        self.h = (self.x - self.mu[:, None]) / np.sqrt(self.var + self.eps)[:, None]
        y = self.h.reshape(x.shape)
        return y.copy() if self.gamma is None else self.like(self.gamma, x) * y + self.like(self.beta, x)

    def backward(self, dy):
        h = self.h.reshape(dy.shape)
        if self.gamma is not None:
            self.dgamma = np.array([np.vdot(dy[:, c], h[:, c]) for c in range(self.num_channels)], dy.dtype)
            self.dbeta = np.array([dy[:, c].sum() for c in range(self.num_channels)], dy.dtype)
        upstream = self.matrix(dy)
        weight = self.matrix(self.like(self.gamma, dy) if self.gamma is not None else np.ones_like(dy))
        dx = np.empty_like(upstream)
        for r in range(len(dx)):
            dx[r] = self.row(upstream[r], weight[r], self.h[r], self.var[r], self.x[r])
        return dx.reshape(dy.shape)

    def row(self, up, w, h, var, x):
        g = up * w
        return (g - g.mean() - h * (g @ h / g.size)) / np.sqrt(var + self.eps)


class RowwiseGammaOutside(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        return w * (up - up.mean() - h * (up @ h / up.size)) / np.sqrt(var + self.eps)  # planted: w in front


class RowwiseGammaForgotten(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        return (up - up.mean() - h * (up @ h / up.size)) / np.sqrt(var + self.eps)  # planted: no w


class RowwiseGammaInsideAndOutside(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w * w  # planted: w a second time
        return (g - g.mean() - h * (g @ h / g.size)) / np.sqrt(var + self.eps)


class RowwisePassThrough(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        return up  # planted: a gradient of the identity


class RowwiseDiagonal(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        diagonal = (h.size - 1 - h * h) / h.size / np.sqrt(var + self.eps)
        return up * w * diagonal  # planted: every other entry of the Jacobian is taken for 0


class RowwiseProjectsOnX(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w
        return (g - g.mean() - x * (g @ h / g.size)) / np.sqrt(var + self.eps)  # planted: x for h


class RowwiseProjectsTwice(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w
        return (g - g.mean() - 2 * h * (g @ h / g.size)) / np.sqrt(var + self.eps)  # planted: 2


class RowwiseFrozenStatistics(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        return up * w / np.sqrt(var + self.eps)  # planted: mean and variance taken for constants


class RowwiseVarianceForDeviation(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w
        return (g - g.mean() - h * (g @ h / g.size)) / (var + self.eps)  # planted: no root


class RowwiseTimesDeviation(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w
        return (g - g.mean() - h * (g @ h / g.size)) * np.sqrt(var + self.eps)  # planted: *


class RowwiseNoDeviation(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w
        return g - g.mean() - h * (g @ h / g.size)  # planted: not divided at all


class RowwiseNoEps(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w
        return (g - g.mean() - h * (g @ h / g.size)) / np.sqrt(var)  # planted: + eps; h still has it


class RowwiseSharedByBatch(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w / self.batch  # planted: / batch
        return (g - g.mean() - h * (g @ h / g.size)) / np.sqrt(var + self.eps)


class RowwiseCountsBatch(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = up * w
        first, second = g.sum() / self.batch, g @ h / self.batch  # planted: g.size
        return (g - first - h * second) / np.sqrt(var + self.eps)


class RowwiseDescends(RowwiseGroupNorm):
    def row(self, up, w, h, var, x):
        g = -up * w  # planted: minus
        return (g - g.mean() - h * (g @ h / g.size)) / np.sqrt(var + self.eps)


planted = partial(wrong, "GroupNorm", style="2D matrix, row by row: ")

ROWS = (
    planted(RowwiseGammaOutside, "dx-gamma-outside-means", "dx", "w in front; when gamma varies within a group"),
    planted(RowwiseGammaForgotten, "dx-gamma-missing", "dx", "no gamma; when gamma differs from 1"),
    planted(RowwiseGammaInsideAndOutside, "dx-gamma-twice", "dx", "gamma squared; when gamma differs from 1"),
    planted(RowwisePassThrough, "dx-is-dy", "dx", "a copy of dy; always"),
    planted(RowwiseDiagonal, "dx-diagonal-only", "dx", "diagonal of the Jacobian; always"),
    planted(RowwiseProjectsOnX, "dx-projection-uses-x", "dx", "x * mean(d * xhat); always"),
    planted(RowwiseProjectsTwice, "dx-projection-term-doubled", "dx", "factor 2; always"),
    planted(RowwiseFrozenStatistics, "dx-statistics-held-constant", "dx", "gamma * dy * rstd; always"),
    planted(RowwiseVarianceForDeviation, "dx-rstd-squared", "dx", "divides by var + eps; always"),
    planted(RowwiseTimesDeviation, "dx-times-std", "dx", "times the deviation; always"),
    planted(RowwiseNoDeviation, "dx-rstd-missing", "dx", "not divided; always"),
    planted(RowwiseNoEps, "dx-eps-missing", "dx", "the outer rstd only, xhat is the forward's; when var is near eps"),
    planted(RowwiseSharedByBatch, "dx-divided-by-batch", "dx", "dy / N; batch above 1"),
    planted(RowwiseCountsBatch, "dx-divides-by-batch-only", "dx", "both sums over N; when N is not the group's size"),
    planted(RowwiseDescends, "dx-sign", "dx", "minus; always"),
)
