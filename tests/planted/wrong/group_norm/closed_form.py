"""GroupNorm as rows of a (N, G, M) array with a dictionary for a cache; mistakes in the closed form of dx.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial
from math import prod

import numpy as np

from tests.planted.row import wrong


class ClosedFormGroupNorm:
    """Right. Every (sample, group) is one row; dx is the one-line formula over that row."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups = num_groups
        self.eps = eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = None
        self.dbeta = None
        self.cache = {}

    @staticmethod
    def per_channel(v, like):
        return v.astype(like.dtype).reshape((1, -1) + (1,) * (like.ndim - 2))

    def forward(self, x):
        rows = x.reshape(x.shape[0], self.num_groups, prod(x.shape[1:]) // self.num_groups)
        mean = rows.mean(axis=2, keepdims=True)
        var = np.square(rows - mean).mean(axis=2, keepdims=True)
        rstd = 1.0 / np.sqrt(var + self.eps)
        xhat = (rows - mean) * rstd
        self.cache = {"x": rows.copy(), "xhat": xhat, "rstd": rstd, "shape": x.shape}
        y = xhat.reshape(x.shape).copy()
        if self.gamma is not None:
            y = y * self.per_channel(self.gamma, x) + self.per_channel(self.beta, x)
        return y

    def backward(self, dy):
        d = dy
        if self.gamma is not None:
            others = (0, *range(2, dy.ndim))
            self.dgamma = (dy * self.cache["xhat"].reshape(dy.shape)).sum(axis=others)
            self.dbeta = dy.sum(axis=others)
            d = dy * self.per_channel(self.gamma, dy)
        d = d.reshape(self.cache["xhat"].shape)
        return self.dx(d, self.cache["xhat"], self.cache["rstd"]).reshape(dy.shape)

    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd / m * (m * d - total - xhat * along)


class ClosedFormWithoutMeanTerm(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd / m * (m * d - xhat * along)  # planted: - total is gone


class ClosedFormMeanTermAdded(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd / m * (m * d + total - xhat * along)  # planted: + total


class ClosedFormMeanTermTwice(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        d = d - total / m
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd / m * (m * d - total - xhat * along)  # planted: d is centred already


class ClosedFormWithoutProjection(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        return rstd / m * (m * d - total)  # planted: - xhat * along is gone


class ClosedFormProjectionAdded(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd / m * (m * d - total + xhat * along)  # planted: + xhat


class ClosedFormProjectionOnX(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd / m * (m * d - total - self.cache["x"] * along)  # planted: x for xhat


class ClosedFormWithoutRstd(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return (m * d - total - xhat * along) / m  # planted: rstd is gone


class ClosedFormRstdSquared(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd**2 / m * (m * d - total - xhat * along)  # planted: ** 2


class ClosedFormTimesStd(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return (m * d - total - xhat * along) / (m * rstd)  # planted: 1 / rstd is the deviation


class ClosedFormSums(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd * (d - total - xhat * along)  # planted: no 1/m anywhere


class ClosedFormBesselInBackward(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd * (d - total / (m - 1) - xhat * along / (m - 1))  # planted: m - 1


class ClosedFormCountsTheBatch(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[0]  # planted: N, where d.shape[2] numbers are summed
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd / m * (m * d - total - xhat * along)


class ClosedFormDividedByBatch(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        n, _, m = d.shape
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd * (m * d - total - xhat * along) / (m * n)  # planted: / n


class ClosedFormNegated(ClosedFormGroupNorm):
    def dx(self, d, xhat, rstd):
        m = d.shape[2]
        total = d.sum(axis=2, keepdims=True)
        along = (d * xhat).sum(axis=2, keepdims=True)
        return rstd / m * (total + xhat * along - m * d)  # planted: every sign is turned


planted = partial(wrong, "GroupNorm", style="rows of (N, G, M), closed form: ")

ROWS = (
    planted(ClosedFormWithoutMeanTerm, "dx-mean-term-missing", "dx", "- total dropped; always"),
    planted(ClosedFormMeanTermAdded, "dx-mean-term-sign", "dx", "+ total; always"),
    planted(
        ClosedFormMeanTermTwice, "dx-mean-term-doubled", "dx", "d centred before a formula that centres it; always"
    ),
    planted(ClosedFormWithoutProjection, "dx-projection-term-missing", "dx", "variance taken for a constant; always"),
    planted(ClosedFormProjectionAdded, "dx-projection-term-sign", "dx", "+ xhat * along; always"),
    planted(ClosedFormProjectionOnX, "dx-projection-uses-x", "dx", "the cached x for xhat; always"),
    planted(ClosedFormWithoutRstd, "dx-rstd-missing", "dx", "no rstd in front; always"),
    planted(ClosedFormRstdSquared, "dx-rstd-squared", "dx", "rstd twice; always"),
    planted(ClosedFormTimesStd, "dx-times-std", "dx", "divides by rstd; always"),
    planted(ClosedFormSums, "dx-sum-not-mean", "dx", "1/m forgotten in both terms; when a group has several numbers"),
    planted(ClosedFormBesselInBackward, "dx-divides-by-n-minus-1", "dx", "m - 1 in both terms; always"),
    planted(ClosedFormCountsTheBatch, "dx-divides-by-batch-only", "dx", "d.shape[0] for the count; always"),
    planted(ClosedFormDividedByBatch, "dx-divided-by-batch", "dx", "divided by N once more; batch above 1"),
    planted(ClosedFormNegated, "dx-sign", "dx", "dx negated; always"),
)
