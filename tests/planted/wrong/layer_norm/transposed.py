"""LayerNorm on a transposed (features, rows) matrix, in the manner of a batch norm reused; mistakes in dx.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import Planted


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


def _row(layer, fault, note):
    return Planted(layer, "LayerNorm", frozenset({fault}), frozenset({"dx"}), f"(features, rows) matrix: {note}")


ROWS = (
    _row(TransposedGammaInFront, "dx-gamma-outside-means", "gamma before the bracket; when gamma varies"),
    _row(TransposedGammaLost, "dx-gamma-missing", "no gamma; when gamma differs from 1"),
    _row(TransposedGammaTwice, "dx-gamma-twice", "gamma squared; when gamma differs from 1"),
    _row(TransposedMeanLost, "dx-mean-term-missing", "no sum of g; always"),
    _row(TransposedMeanSign, "dx-mean-term-sign", "plus the sum of g; always"),
    _row(TransposedMeanTwice, "dx-mean-term-doubled", "twice the sum of g; always"),
    _row(TransposedProjectionLost, "dx-projection-term-missing", "no third term; always"),
    _row(TransposedProjectionSign, "dx-projection-term-sign", "third term added; always"),
    _row(TransposedProjectionTwice, "dx-projection-term-doubled", "third term twice; always"),
    _row(TransposedProjectionOnX, "dx-projection-uses-x", "third term along x; always"),
    _row(TransposedOnlyScaled, "dx-statistics-held-constant", "gamma * dy / sd; always"),
    _row(TransposedNotDivided, "dx-rstd-missing", "no sd; always"),
    _row(TransposedDividedTwice, "dx-rstd-squared", "sd twice; always"),
    _row(TransposedMultiplied, "dx-times-std", "times sd; always"),
    _row(TransposedVarWithoutEps, "dx-eps-missing", "outer division only; when var is near eps"),
    _row(TransposedSums, "dx-sum-not-mean", "sums; when more than one is normalized"),
    _row(TransposedOneLess, "dx-divides-by-n-minus-1", "n - 1 in both; always"),
    _row(TransposedLastAxis, "dx-last-axis-only", "when normalized_shape has several axes"),
    _row(TransposedBatchMean, "dx-divided-by-batch", "dy / x.shape[0]; when that is above 1"),
    _row(TransposedMinus, "dx-sign", "negated; always"),
    _row(TransposedDiagonal, "dx-diagonal-only", "both .sum forgotten; always"),
    _row(TransposedIdentity, "dx-is-dy", "a copy of dy; always"),
)
