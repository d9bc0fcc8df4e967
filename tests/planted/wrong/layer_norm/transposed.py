"""LayerNorm on a transposed (features, rows) matrix, in the manner of a batch norm reused; mistakes in dx.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class TransposedLayerNorm:
    """Right. All leading axes are flattened to rows, a column of the transposed matrix is one row of x."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.normalized_shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self.size = int(np.prod(self.normalized_shape))
        self.eps = eps
        self.params = {}
        if elementwise_affine:
            self.params["gamma"] = np.ones(self.normalized_shape)
            if bias:
                self.params["beta"] = np.zeros(self.normalized_shape)
        self.grads = {}

    gamma = property(lambda self: self.params.get("gamma"), lambda self, v: self.params.update(gamma=v))
    beta = property(lambda self: self.params.get("beta"), lambda self, v: self.params.update(beta=v))
    dgamma = property(lambda self: self.grads.get("gamma"))
    dbeta = property(lambda self: self.grads.get("beta"))

    def columns(self, t):
        return t.reshape(t.size // self.size, self.size).T

    def forward(self, x):
        xt = self.columns(x)
        mean = xt.mean(axis=0)
        var = ((xt - mean) ** 2).mean(axis=0)
        sd = np.sqrt(var + self.eps)
        xn = (xt - mean) / sd
        self.saved = xt.copy(), xn, sd, var
        out = xn.copy()
        if self.gamma is not None:
            out = self.gamma.astype(x.dtype).reshape(-1, 1) * out
        if self.beta is not None:
            out = out + self.beta.astype(x.dtype).reshape(-1, 1)
        return np.ascontiguousarray(out.T).reshape(x.shape)

    def backward(self, dy):
        dt = self.columns(dy)
        xt, xn, sd, var = self.saved
        weight = np.ones((self.size, 1), dy.dtype)
        if self.gamma is not None:
            weight = self.gamma.astype(dy.dtype).reshape(-1, 1)
            self.grads["gamma"] = (dt * xn).sum(axis=1).reshape(self.normalized_shape)
        if self.beta is not None:
            self.grads["beta"] = dt.sum(axis=1).reshape(self.normalized_shape)
        self.batch = dy.shape[0]
        dx = self.dx(dt, weight, xt, xn, sd, var)
        return np.ascontiguousarray(dx.T).reshape(dy.shape)

    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g - g.sum(0) - xn * (g * xn).sum(0)) / (self.size * sd)


class TransposedGammaInFront(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        centred = self.size * dt - dt.sum(0) - xn * (dt * xn).sum(0)
        return weight / (self.size * sd) * centred  # planted: weight in front, as in a batch norm


class TransposedGammaLost(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        return (self.size * dt - dt.sum(0) - xn * (dt * xn).sum(0)) / (self.size * sd)  # planted: no weight


class TransposedGammaTwice(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * weight * dt  # planted: squared
        return (self.size * g - g.sum(0) - xn * (g * xn).sum(0)) / (self.size * sd)


class TransposedMeanLost(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g - xn * (g * xn).sum(0)) / (self.size * sd)  # planted: - g.sum(0)


class TransposedMeanSign(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g + g.sum(0) - xn * (g * xn).sum(0)) / (self.size * sd)  # planted: +


class TransposedMeanTwice(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g - 2 * g.sum(0) - xn * (g * xn).sum(0)) / (self.size * sd)  # planted: 2


class TransposedProjectionLost(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (g - g.mean(0)) / sd  # planted: sd is a function of x too


class TransposedProjectionSign(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g - g.sum(0) + xn * (g * xn).sum(0)) / (self.size * sd)  # planted: +


class TransposedProjectionTwice(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (g - g.mean(0) - 2 * xn * (g * xn).mean(0)) / sd  # planted: 2


class TransposedProjectionOnX(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g - g.sum(0) - xt * (g * xn).sum(0)) / (self.size * sd)  # planted: xt for xn


class TransposedOnlyScaled(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        return weight * dt / sd  # planted: mean and sd are held constant


class TransposedNotDivided(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g - g.sum(0) - xn * (g * xn).sum(0)) / self.size  # planted: / sd


class TransposedDividedTwice(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt / sd
        return (self.size * g - g.sum(0) - xn * (g * xn).sum(0)) / (self.size * sd)  # planted: sd again


class TransposedMultiplied(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return sd / self.size * (self.size * g - g.sum(0) - xn * (g * xn).sum(0))  # planted: sd is on top


class TransposedVarWithoutEps(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g - g.sum(0) - xn * (g * xn).sum(0)) / (self.size * np.sqrt(var))  # planted: eps


class TransposedSums(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (g - g.sum(0) - xn * (g * xn).sum(0)) / sd  # planted: sums


class TransposedOneLess(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        n = self.size - 1  # planted: - 1
        return (g - g.sum(0) / n - xn * (g * xn).sum(0) / n) / sd


class TransposedLastAxis(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        last = self.normalized_shape[-1]  # planted: the sums run over this axis of normalized_shape only
        g = (weight * dt).reshape(self.size // last, last, dt.shape[1])
        h = xn.reshape(g.shape)
        inner = g - g.mean(1, keepdims=True) - h * (g * h).mean(1, keepdims=True)
        return inner.reshape(dt.shape) / sd


class TransposedBatchMean(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt / self.batch  # planted: / batch
        return (self.size * g - g.sum(0) - xn * (g * xn).sum(0)) / (self.size * sd)


class TransposedMinus(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return -(self.size * g - g.sum(0) - xn * (g * xn).sum(0)) / (self.size * sd)  # planted: -


class TransposedDiagonal(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        g = weight * dt
        return (self.size * g - g - xn * (g * xn)) / (self.size * sd)  # planted: the sums lost their .sum(0)


class TransposedIdentity(TransposedLayerNorm):
    def dx(self, dt, weight, xt, xn, sd, var):
        return dt.copy()  # planted: dy


planted = partial(wrong, "LayerNorm", style="(features, rows) matrix: ")

ROWS = (
    planted(TransposedGammaInFront, "dx-gamma-outside-means", "dx", "gamma before the bracket; when gamma varies"),
    planted(TransposedGammaLost, "dx-gamma-missing", "dx", "no gamma; when gamma differs from 1"),
    planted(TransposedGammaTwice, "dx-gamma-twice", "dx", "gamma squared; when gamma differs from 1"),
    planted(TransposedMeanLost, "dx-mean-term-missing", "dx", "no sum of g; always"),
    planted(TransposedMeanSign, "dx-mean-term-sign", "dx", "plus the sum of g; always"),
    planted(TransposedMeanTwice, "dx-mean-term-doubled", "dx", "twice the sum of g; always"),
    planted(TransposedProjectionLost, "dx-projection-term-missing", "dx", "no third term; always"),
    planted(TransposedProjectionSign, "dx-projection-term-sign", "dx", "third term added; always"),
    planted(TransposedProjectionTwice, "dx-projection-term-doubled", "dx", "third term twice; always"),
    planted(TransposedProjectionOnX, "dx-projection-uses-x", "dx", "third term along x; always"),
    planted(TransposedOnlyScaled, "dx-statistics-held-constant", "dx", "gamma * dy / sd; always"),
    planted(TransposedNotDivided, "dx-rstd-missing", "dx", "no sd; always"),
    planted(TransposedDividedTwice, "dx-rstd-squared", "dx", "sd twice; always"),
    planted(TransposedMultiplied, "dx-times-std", "dx", "times sd; always"),
    planted(TransposedVarWithoutEps, "dx-eps-missing", "dx", "outer division only; when var is near eps"),
    planted(TransposedSums, "dx-sum-not-mean", "dx", "sums; when more than one is normalized"),
    planted(TransposedOneLess, "dx-divides-by-n-minus-1", "dx", "n - 1 in both; always"),
    planted(TransposedLastAxis, "dx-last-axis-only", "dx", "when normalized_shape has several axes"),
    planted(TransposedBatchMean, "dx-divided-by-batch", "dx", "dy / x.shape[0]; when that is above 1"),
    planted(TransposedMinus, "dx-sign", "dx", "negated; always"),
    planted(TransposedDiagonal, "dx-diagonal-only", "dx", "both .sum forgotten; always"),
    planted(TransposedIdentity, "dx-is-dy", "dx", "a copy of dy; always"),
)
