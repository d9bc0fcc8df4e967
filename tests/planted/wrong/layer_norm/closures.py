"""LayerNorm whose forward leaves a closure behind that is its backward; mistakes in the forward.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class ClosureLayerNorm:
    """Right. `normalize` gives xhat and the function that pulls a gradient of xhat back to x."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.axes = tuple(range(-len(self.shape), 0))
        self.eps = eps
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.beta = np.zeros(self.shape) if elementwise_affine and bias else None
        self.dgamma = self.dbeta = None

    def mean(self, t):
        return t.mean(self.axes, keepdims=True)

    def standard(self, xhat, rstd):
        return lambda d: rstd * (d - self.mean(d) - xhat * self.mean(d * xhat))

    def normalize(self, x):
        centred = x - self.mean(x)
        rstd = 1 / np.sqrt(self.mean(centred**2) + self.eps)
        xhat = centred * rstd
        return xhat, self.standard(xhat, rstd)

    def scale(self, xhat):
        gamma = self.gamma.astype(xhat.dtype)

        def pull(dy):
            self.dgamma = (dy * xhat).reshape(-1, *self.shape).sum(0)
            return dy * gamma

        return xhat * gamma, pull

    def shift(self, t):
        def pull(dy):
            self.dbeta = dy.reshape(-1, *self.shape).sum(0)
            return dy

        return t + self.beta.astype(t.dtype), pull

    def forward(self, x):
        y, pull = self.normalize(x)
        self.pulls = [pull]
        for parameter, step in ((self.gamma, self.scale), (self.beta, self.shift)):
            if parameter is not None:
                y, pull = step(y)
                self.pulls.append(pull)
        return y.copy()

    def backward(self, dy):
        for pull in reversed(self.pulls):
            dy = pull(dy)
        return dy


class ClosureSampleVariance(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - self.mean(x)
        rstd = 1 / np.sqrt(x.var(self.axes, keepdims=True, ddof=1) + self.eps)  # planted: ddof
        xhat = centred * rstd
        return xhat, self.standard(xhat, rstd)


class ClosureSampleVarianceAndDerivative(ClosureLayerNorm):
    def normalize(self, x):
        n = np.prod(self.shape).item()
        centred = x - self.mean(x)
        rstd = 1 / np.sqrt((centred**2).sum(self.axes, keepdims=True) / (n - 1) + self.eps)  # planted: n - 1
        xhat = centred * rstd
        return (
            xhat,
            lambda d: rstd * (d - self.mean(d) - xhat * (d * xhat).sum(self.axes, keepdims=True) / (n - 1)),
        )


class ClosureStdPlusEps(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - self.mean(x)
        std = x.std(self.axes, keepdims=True)
        xhat = centred / (std + self.eps)  # planted: eps is added to std
        return xhat, self.standard(xhat, 1 / (std + self.eps))


class ClosureStdPlusEpsAndDerivative(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - self.mean(x)
        std = np.sqrt(self.mean(centred**2))
        whole = std + self.eps  # planted: eps is added to std

        def pull(d):
            dstd = -self.mean(d * centred) / whole**2
            return (d - self.mean(d)) / whole + dstd * centred / std

        return centred / whole, pull


class ClosureNoEps(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - self.mean(x)
        rstd = 1 / x.std(self.axes, keepdims=True)  # planted: eps is nowhere
        xhat = centred * rstd
        return xhat, self.standard(xhat, rstd)


class ClosureOwnEps(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - self.mean(x)
        rstd = 1 / np.sqrt(self.mean(centred**2) + 1e-6)  # planted: always 1e-6
        xhat = centred * rstd
        return xhat, self.standard(xhat, rstd)


class ClosureDefaultEps(ClosureLayerNorm):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        super().__init__(normalized_shape, 1e-5, elementwise_affine, bias)  # planted: eps is not handed on


class ClosureDividesByVariance(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - self.mean(x)
        rstd = 1 / (self.mean(centred**2) + self.eps)  # planted: the root
        xhat = centred * rstd
        return xhat, self.standard(xhat, rstd)


class ClosureDividesByVarianceAndDerivative(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - self.mean(x)
        whole = self.mean(centred**2) + self.eps

        def pull(d):
            dwhole = -self.mean(d * centred) / whole**2
            return (d - self.mean(d)) / whole + 2 * centred * dwhole

        return centred / whole, pull  # planted: by the variance


class ClosureRootOfStd(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - self.mean(x)
        var = x.std(self.axes, keepdims=True)  # planted: std by the name of var
        rstd = 1 / np.sqrt(var + self.eps)
        xhat = centred * rstd
        return xhat, self.standard(xhat, rstd)


class ClosureUncentred(ClosureLayerNorm):
    def normalize(self, x):
        rstd = 1 / np.sqrt(x.var(self.axes, keepdims=True) + self.eps)
        xhat = x * rstd  # planted: x - mean
        return xhat, self.standard(xhat, rstd)


class ClosureRootMeanSquare(ClosureLayerNorm):
    def normalize(self, x):
        rstd = 1 / np.sqrt(self.mean(x**2) + self.eps)  # planted: no mean at all
        xhat = x * rstd
        return xhat, lambda d: rstd * (d - xhat * self.mean(d * xhat))


class ClosureLastAxis(ClosureLayerNorm):
    def normalize(self, x):
        centred = x - x.mean(-1, keepdims=True)  # planted: here and below, -1 for the axes
        rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        xhat = centred * rstd
        return xhat, self.standard(xhat, rstd)


class ClosureLastAxisBothWays(ClosureLayerNorm):
    def mean(self, t):
        return t.mean(-1, keepdims=True)  # planted: -1 for the axes, backward too


class ClosureWithoutGamma(ClosureLayerNorm):
    def scale(self, xhat):
        def pull(dy):
            self.dgamma = np.zeros(self.shape, dy.dtype)
            return dy

        return xhat, pull  # planted: gamma is not used


class ClosureWithoutGammaInOutput(ClosureLayerNorm):
    def scale(self, xhat):
        return xhat, super().scale(xhat)[1]  # planted: only the pull knows gamma


class ClosureWithoutBeta(ClosureLayerNorm):
    def shift(self, t):
        def pull(dy):
            self.dbeta = np.zeros(self.shape, dy.dtype)
            return dy

        return t, pull  # planted: beta is not used


class ClosureShiftedFirst(ClosureLayerNorm):
    def shift(self, t):
        _, pull = super().shift(t)
        return t + (self.beta * self.gamma).astype(t.dtype), pull  # planted: makes gamma * (xhat + beta)


planted = partial(wrong, "LayerNorm", style="closures: ")

ROWS = (
    planted(ClosureSampleVariance, "variance-unbiased", "y dx dgamma", "ddof=1; standard backward"),
    planted(ClosureSampleVarianceAndDerivative, "variance-unbiased", "y dx dgamma", "n - 1; true derivative"),
    planted(ClosureStdPlusEps, "eps-outside-sqrt", "y dx dgamma", "std + eps; standard backward"),
    planted(ClosureStdPlusEpsAndDerivative, "eps-outside-sqrt", "y dx dgamma", "std + eps; true derivative"),
    planted(ClosureNoEps, "eps-missing", "y dx dgamma", "1 / std; true derivative; when var is near eps"),
    planted(ClosureOwnEps, "eps-argument-ignored", "y dx dgamma", "always 1e-6; true derivative"),
    planted(ClosureDefaultEps, "eps-argument-ignored", "y dx dgamma", "always 1e-5; when another eps is asked for"),
    planted(ClosureDividesByVariance, "std-not-rooted", "y dx dgamma", "no root; standard backward"),
    planted(ClosureDividesByVarianceAndDerivative, "std-not-rooted", "y dx dgamma", "no root; true derivative"),
    planted(ClosureRootOfStd, "variance-is-std", "y dx dgamma", "sqrt(std + eps); standard backward"),
    planted(ClosureUncentred, "mean-not-subtracted", "y dx dgamma", "x * rstd, var centred; standard backward"),
    planted(ClosureRootMeanSquare, "mean-not-subtracted", "y dx dgamma", "nor is var: an RMSNorm; true derivative"),
    planted(ClosureLastAxis, "statistics-last-axis-only", "y dx dgamma", "standard backward over all the axes"),
    planted(ClosureLastAxisBothWays, "statistics-last-axis-only", "y dx dgamma", "true derivative"),
    planted(ClosureWithoutGamma, "gamma-not-applied", "y dx dgamma", "xhat + beta; true derivative, dgamma is 0"),
    planted(ClosureWithoutGammaInOutput, "gamma-not-applied", "y", "xhat + beta; the right layer's backward"),
    planted(ClosureWithoutBeta, "beta-not-applied", "y dbeta", "gamma * xhat; true derivative, dbeta is 0"),
    planted(ClosureShiftedFirst, "beta-before-gamma", "y", "gamma * (xhat + beta); the right layer's backward"),
)
