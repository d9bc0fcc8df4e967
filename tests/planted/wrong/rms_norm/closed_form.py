"""RMSNorm as one class with a plain list for a cache and a closed form in xhat; mistakes in dx, in short.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class ClosedFormRMSNorm:
    """Right. rows of length n; dx = (n * d - xhat * sum(d * xhat)) / (n * rms)."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.normalized_shape = [normalized_shape] if np.isscalar(normalized_shape) else [*normalized_shape]
        self.n = np.prod(self.normalized_shape, dtype=int).item()
        self.eps = eps
        self.gamma = np.ones(self.normalized_shape, np.float32) if elementwise_affine else None
        self.dgamma = None
        self.cache = []

    def forward(self, x):
        rows = x.reshape(x.size // self.n, self.n)
        ms = (rows * rows).sum(axis=1, keepdims=True) / self.n
        eps = np.finfo(x.dtype).eps.item() if self.eps is None else self.eps
        rms = np.sqrt(ms + eps)
        xhat = rows / rms
        self.cache = [rows.copy(), ms, rms, xhat]
        if self.gamma is None:
            return xhat.copy().reshape(x.shape)
        return (xhat * self.gamma.astype(x.dtype).ravel()).reshape(x.shape)

    def backward(self, dy):
        rows, ms, rms, xhat = self.cache
        dout = dy.reshape(rows.shape)
        gamma = np.ones(self.n, dy.dtype)
        if self.gamma is not None:
            gamma = self.gamma.astype(dy.dtype).ravel()
            self.dgamma = (dout * xhat).sum(0).reshape(self.normalized_shape)
        self.batch = dy.shape[0]
        return self.dx(dout, gamma, rows, ms, rms, xhat).reshape(dy.shape)

    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (self.n * d - xhat * dot) / (self.n * rms)


class ClosedFormRmsLost(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (self.n * d - xhat * dot) / self.n  # planted: / rms


class ClosedFormMeanSquare(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (self.n * d - xhat * dot) / (self.n * rms**2)  # planted: ** 2


class ClosedFormTimesRms(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (self.n * d - xhat * dot) / self.n * rms  # planted: * rms


class ClosedFormEpsLost(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (self.n * d - xhat * dot) / (self.n * np.sqrt(ms))  # planted: + eps


class ClosedFormOverBatch(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (self.n * d - xhat * dot) / (self.n * rms) / self.batch  # planted: / batch


class ClosedFormOpposite(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (xhat * dot - self.n * d) / (self.n * rms)  # planted: the other way round


class ClosedFormElementwise(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = d * xhat  # planted: not summed
        return (self.n * d - xhat * dot) / (self.n * rms)


class ClosedFormHandsThrough(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        return np.array(dout)  # planted: dy


class ClosedFormOfLayerNorm(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (self.n * d - d.sum(axis=1, keepdims=True) - xhat * dot) / (self.n * rms)  # planted: d.sum


class ClosedFormOnRows(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (self.n * d - rows * dot) / (self.n * rms)  # planted: rows for xhat


class ClosedFormGammaOutside(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        dot = (dout * xhat).sum(axis=1, keepdims=True)
        return gamma * (self.n * dout - xhat * dot) / (self.n * rms)  # planted: gamma in front


class ClosedFormGammaLost(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        dot = (dout * xhat).sum(axis=1, keepdims=True)
        return (self.n * dout - xhat * dot) / (self.n * rms)  # planted: gamma


class ClosedFormSum(ClosedFormRMSNorm):
    def dx(self, dout, gamma, rows, ms, rms, xhat):
        d = dout * gamma
        dot = (d * xhat).sum(axis=1, keepdims=True)
        return (d - xhat * dot) / rms  # planted: no n


planted = partial(wrong, "RMSNorm", style="rows, a list as cache, closed form: ")

ROWS = (
    planted(ClosedFormRmsLost, "dx-rstd-missing", "dx", "not divided by rms; always"),
    planted(ClosedFormMeanSquare, "dx-rstd-squared", "dx", "divided by rms twice; always"),
    planted(ClosedFormTimesRms, "dx-times-std", "dx", "times rms; always"),
    planted(ClosedFormEpsLost, "dx-eps-missing", "dx", "outer division only; when x^2 is near eps"),
    planted(ClosedFormOverBatch, "dx-divided-by-batch", "dx", "divided by x.shape[0]; when that is above 1"),
    planted(ClosedFormOpposite, "dx-sign", "dx", "negated; always"),
    planted(ClosedFormElementwise, "dx-diagonal-only", "dx", "the dot product is not summed; always"),
    planted(ClosedFormHandsThrough, "dx-is-dy", "dx", "a copy of dy; always"),
    planted(ClosedFormOfLayerNorm, "dx-mean-term-added", "dx", "LayerNorm's formula; always"),
    planted(ClosedFormOnRows, "dx-projection-uses-x", "dx", "x along the dot product; always"),
    planted(ClosedFormGammaOutside, "dx-gamma-outside-means", "dx", "gamma in front; when gamma varies"),
    planted(ClosedFormGammaLost, "dx-gamma-missing", "dx", "no gamma; when gamma differs from 1"),
    planted(ClosedFormSum, "dx-sum-not-mean", "dx", "no n; when more than one is normalized"),
)
