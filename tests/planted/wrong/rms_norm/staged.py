"""RMSNorm whose backward is written in x and the powers of r = 1 / rms, never in xhat; mistakes in dx.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class StagedRMSNorm:
    """Right. ms = mean(x^2), r = (ms + eps)^(-1/2), y = x * r * gamma; then each of them backwards."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        self.axes = tuple(-1 - i for i in range(len(normalized_shape)))
        self.n = int(np.prod(normalized_shape))
        self.eps = eps
        self.gamma = np.ones(normalized_shape) if elementwise_affine else None
        self.dgamma = None

    def mean(self, t):
        return np.add.reduce(t, axis=self.axes, keepdims=True) / self.n

    def forward(self, x):
        self.x = x.copy()
        self.ms = self.mean(x * x)
        self.used_eps = float(np.finfo(x.dtype).eps) if self.eps is None else self.eps
        self.r = (self.ms + self.used_eps) ** -0.5
        if self.gamma is None:
            return x * self.r
        self.g = self.gamma.astype(x.dtype)
        return x * self.r * self.g

    def backward(self, dy):
        if self.gamma is not None:
            product = dy * self.x * self.r
            lead = tuple(range(dy.ndim - self.g.ndim))
            self.dgamma = product.sum(axis=lead)
        else:
            self.g = np.ones((), dy.dtype)
        return self.dx(dy)

    def dx(self, dy):
        dxr = dy * self.g
        dr = self.mean(dxr * self.x) * self.n
        dms = -0.5 * self.r**3 * dr
        return dxr * self.r + dms * 2 * self.x / self.n


class StagedWithoutMeanSquare(StagedRMSNorm):
    def dx(self, dy):
        return dy * self.g * self.r  # planted: r is taken for a constant


class StagedMeanSquareSign(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy * self.g
        dr = self.mean(dxr * self.x) * self.n
        dms = 0.5 * self.r**3 * dr  # planted: -0.5
        return dxr * self.r + dms * 2 * self.x / self.n


class StagedWithoutHalf(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy * self.g
        dr = self.mean(dxr * self.x) * self.n
        dms = -(self.r**3) * dr  # planted: 0.5
        return dxr * self.r + dms * 2 * self.x / self.n


class StagedSquareForCube(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy * self.g
        dr = self.mean(dxr * self.x) * self.n
        dms = -0.5 * self.r**2 * dr  # planted: r^3; what is left projects on x for xhat
        return dxr * self.r + dms * 2 * self.x / self.n


class StagedGammaForgotten(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy  # planted: * g
        dr = self.mean(dxr * self.x) * self.n
        dms = -0.5 * self.r**3 * dr
        return dxr * self.r + dms * 2 * self.x / self.n


class StagedGammaSquared(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy * self.g**2  # planted: ** 2
        dr = self.mean(dxr * self.x) * self.n
        dms = -0.5 * self.r**3 * dr
        return dxr * self.r + dms * 2 * self.x / self.n


class StagedGammaLast(StagedRMSNorm):
    def dx(self, dy):
        dr = self.mean(dy * self.x) * self.n
        dms = -0.5 * self.r**3 * dr
        return self.g * (dy * self.r + dms * 2 * self.x / self.n)  # planted: g after the sum


class StagedEpsForgotten(StagedRMSNorm):
    def dx(self, dy):
        r = self.ms**-0.5  # planted: + eps
        dxr = dy * self.g
        dr = self.mean(dxr * self.x) * self.n
        dms = -0.5 * r**3 * dr
        return dxr * r + dms * 2 * self.x / self.n


class StagedCountForgotten(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy * self.g
        dr = self.mean(dxr * self.x) * self.n
        dms = -0.5 * self.r**3 * dr
        return dxr * self.r + dms * 2 * self.x  # planted: / n


class StagedCountLess(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy * self.g
        dr = self.mean(dxr * self.x) * self.n
        dms = -0.5 * self.r**3 * dr
        return dxr * self.r + dms * 2 * self.x / (self.n - 1)  # planted: - 1


class StagedLastAxis(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy * self.g
        dr = (dxr * self.x).sum(axis=-1, keepdims=True)  # planted: -1 for the axes, and its length for n
        dms = -0.5 * self.r**3 * dr
        return dxr * self.r + dms * 2 * self.x / self.x.shape[-1]


class StagedMeanBackward(StagedRMSNorm):
    def dx(self, dy):
        dxr = dy * self.g
        dr = self.mean(dxr * self.x) * self.n
        dms = -0.5 * self.r**3 * dr
        return (dxr - self.mean(dxr)) * self.r + dms * 2 * self.x / self.n  # planted: - mean, of a LayerNorm


planted = partial(wrong, "RMSNorm", style="staged in x and powers of r: ")

ROWS = (
    planted(StagedWithoutMeanSquare, "dx-projection-term-missing", "dx", "gamma * dy * r; always"),
    planted(StagedMeanSquareSign, "dx-projection-term-sign", "dx", "dms without its minus; always"),
    planted(StagedWithoutHalf, "dx-projection-term-doubled", "dx", "dms without 0.5; always"),
    planted(StagedSquareForCube, "dx-projection-uses-x", "dx", "r^2 for r^3; always"),
    planted(StagedGammaForgotten, "dx-gamma-missing", "dx", "no gamma; when gamma differs from 1"),
    planted(StagedGammaSquared, "dx-gamma-twice", "dx", "gamma^2; when gamma differs from 1"),
    planted(StagedGammaLast, "dx-gamma-outside-means", "dx", "gamma after the sum; when gamma varies"),
    planted(StagedEpsForgotten, "dx-eps-missing", "dx", "every r of the backward; when x^2 is near eps"),
    planted(StagedCountForgotten, "dx-sum-not-mean", "dx", "no / n; when more than one is normalized"),
    planted(StagedCountLess, "dx-divides-by-n-minus-1", "dx", "n - 1; always"),
    planted(StagedLastAxis, "dx-last-axis-only", "dx", "when normalized_shape has several axes"),
    planted(StagedMeanBackward, "dx-mean-term-added", "dx", "LayerNorm's mean term; always"),
)
