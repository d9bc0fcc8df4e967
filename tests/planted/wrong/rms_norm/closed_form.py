"""RMSNorm as one class with a plain list for a cache and a closed form in xhat; mistakes in dx, in short.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import Planted


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


def _row(layer, fault, note):
    note = f"rows, a list as cache, closed form: {note}"
    return Planted(layer, "RMSNorm", frozenset({fault}), frozenset({"dx"}), note)


ROWS = (
    _row(ClosedFormRmsLost, "dx-rstd-missing", "not divided by rms; always"),
    _row(ClosedFormMeanSquare, "dx-rstd-squared", "divided by rms twice; always"),
    _row(ClosedFormTimesRms, "dx-times-std", "times rms; always"),
    _row(ClosedFormEpsLost, "dx-eps-missing", "outer division only; when x^2 is near eps"),
    _row(ClosedFormOverBatch, "dx-divided-by-batch", "divided by x.shape[0]; when that is above 1"),
    _row(ClosedFormOpposite, "dx-sign", "negated; always"),
    _row(ClosedFormElementwise, "dx-diagonal-only", "the dot product is not summed; always"),
    _row(ClosedFormHandsThrough, "dx-is-dy", "a copy of dy; always"),
    _row(ClosedFormOfLayerNorm, "dx-mean-term-added", "LayerNorm's formula; always"),
    _row(ClosedFormOnRows, "dx-projection-uses-x", "x along the dot product; always"),
    _row(ClosedFormGammaOutside, "dx-gamma-outside-means", "gamma in front; when gamma varies"),
    _row(ClosedFormGammaLost, "dx-gamma-missing", "no gamma; when gamma differs from 1"),
    _row(ClosedFormSum, "dx-sum-not-mean", "no n; when more than one is normalized"),
)
