"""LayerNorm that builds the Jacobian of every row and multiplies by it; mistakes in forward and matrix.

Where the forward is wrong the matrix is the standard one, made from the wrong xhat and deviation.
Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class JacobianLayerNorm:
    """Right. y = gamma * xhat + beta for every row in turn, and dx = J^T (gamma * dy)."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.eps = eps
        self.shape = np.zeros(normalized_shape).shape
        self.gamma = np.ones((1, *self.shape)) if elementwise_affine else None  # with an axis for the rows
        self.beta = np.zeros((1, *self.shape)) if elementwise_affine and bias else None
        self.dgamma = None
        self.dbeta = None

    def rows(self, t):
        n = int(np.prod(self.shape))
        return t.reshape(t.size // n, n)

    def deviation(self, centred):
        return np.sqrt(np.sum(centred**2) / len(centred) + self.eps)

    def centre(self, v):
        return v - np.sum(v) / len(v)

    def jacobian(self, xhat, deviation):
        n = len(xhat)
        return (np.eye(n, dtype=xhat.dtype) - 1 / n - np.outer(xhat, xhat) / n) / deviation

    def scaled_and_shifted(self, xhat):
        y = xhat.copy()
        if self.gamma is not None:
            y = y * self.gamma.astype(y.dtype).reshape(1, -1)
        if self.beta is not None:
            y = y + self.beta.astype(y.dtype).reshape(1, -1)
        return y

    def forward(self, x):
        rows = self.rows(x)
        self.xhat = np.zeros(rows.shape, x.dtype)
        self.deviations = []
        for i, v in enumerate(rows):
            centred = self.centre(v)
            self.deviations.append(self.deviation(centred))
            self.xhat[i] = centred / self.deviations[i]
        return self.scaled_and_shifted(self.xhat).reshape(x.shape)

    def backward(self, dy):
        d = self.rows(dy)
        if self.gamma is not None:
            self.dgamma = (d * self.xhat).sum(axis=0).reshape(1, *self.shape)
        if self.beta is not None:
            self.dbeta = d.sum(axis=0).reshape(1, *self.shape)
        if self.gamma is not None:
            d = d * self.gamma.astype(dy.dtype).reshape(1, -1)
        dx = np.zeros(d.shape, dy.dtype)
        for i in range(len(d)):
            dx[i] = self.jacobian(self.xhat[i], self.deviations[i]).T @ d[i]
        return dx.reshape(dy.shape)


class JacobianSampleDeviation(JacobianLayerNorm):
    def deviation(self, centred):
        one = centred.dtype.type(1)
        return np.sqrt(np.sum(centred**2) / (len(centred) - one) + self.eps)  # planted: - 1


class JacobianEpsOutside(JacobianLayerNorm):
    def deviation(self, centred):
        return np.sqrt(np.sum(centred**2) / len(centred)) + self.eps  # planted: a bracket


class JacobianEpsLost(JacobianLayerNorm):
    def deviation(self, centred):
        return np.sqrt(np.sum(centred**2) / len(centred))  # planted: + eps


class JacobianOwnEps(JacobianLayerNorm):
    def deviation(self, centred):
        return np.sqrt(np.sum(centred**2) / len(centred) + 1e-12)  # planted: eps of another layer


class JacobianVariance(JacobianLayerNorm):
    def deviation(self, centred):
        return np.sum(centred**2) / len(centred) + self.eps  # planted: the root


class JacobianRootTwice(JacobianLayerNorm):
    def deviation(self, centred):
        return np.sqrt(np.sqrt(np.sum(centred**2) / len(centred)) + self.eps)  # planted: a second root


class JacobianShiftBeforeScale(JacobianLayerNorm):
    def scaled_and_shifted(self, xhat):
        y = xhat.copy()
        if self.beta is not None:
            y = y + self.beta.astype(y.dtype).reshape(1, -1)  # planted: beta comes first
        if self.gamma is not None:
            y = y * self.gamma.astype(y.dtype).reshape(1, -1)
        return y


class JacobianShiftForgotten(JacobianLayerNorm):
    def scaled_and_shifted(self, xhat):
        y = xhat.copy()
        if self.gamma is not None:
            y = y * self.gamma.astype(y.dtype).reshape(1, -1)
        return y  # planted: + beta


class JacobianDiagonal(JacobianLayerNorm):
    def jacobian(self, xhat, deviation):
        n = len(xhat)
        return np.diag(1 - 1 / n - xhat**2 / n) / deviation  # planted: off the diagonal it is not 0


class JacobianOfScaling(JacobianLayerNorm):
    def jacobian(self, xhat, deviation):
        return np.eye(len(xhat), dtype=xhat.dtype) / deviation  # planted: the statistics depend on x


class JacobianOneLess(JacobianLayerNorm):
    def jacobian(self, xhat, deviation):
        n = np.array(len(xhat) - 1, xhat.dtype)  # planted: - 1
        return (np.eye(len(xhat), dtype=xhat.dtype) - 1 / n - np.outer(xhat, xhat) / n) / deviation


class JacobianDeviationLost(JacobianLayerNorm):
    def jacobian(self, xhat, deviation):
        n = len(xhat)
        return np.eye(n, dtype=xhat.dtype) - 1 / n - np.outer(xhat, xhat) / n  # planted: / deviation


class JacobianDeviationSquared(JacobianLayerNorm):
    def jacobian(self, xhat, deviation):
        n = len(xhat)
        return (np.eye(n, dtype=xhat.dtype) - 1 / n - np.outer(xhat, xhat) / n) / deviation**2  # planted: ** 2


planted = partial(wrong, "LayerNorm", style="a Jacobian for each row, gamma of shape (1, ...): ")

ROWS = (
    planted(JacobianSampleDeviation, "variance-unbiased", "y dx dgamma", "n - 1; standard backward"),
    planted(JacobianEpsOutside, "eps-outside-sqrt", "y dx dgamma", "std + eps; standard backward"),
    planted(JacobianEpsLost, "eps-missing", "y dx dgamma", "true derivative; when var is near eps"),
    planted(JacobianOwnEps, "eps-argument-ignored", "y dx dgamma", "always 1e-12; true derivative"),
    planted(JacobianVariance, "std-not-rooted", "y dx dgamma", "no root; standard backward"),
    planted(JacobianRootTwice, "variance-is-std", "y dx dgamma", "sqrt(std + eps); standard backward"),
    planted(JacobianShiftBeforeScale, "beta-before-gamma", "y", "the right layer's backward"),
    planted(JacobianShiftForgotten, "beta-not-applied", "y", "the right layer's backward"),
    planted(JacobianDiagonal, "dx-diagonal-only", "dx", "np.diag; always"),
    planted(JacobianOfScaling, "dx-statistics-held-constant", "dx", "the Jacobian of x / std; always"),
    planted(JacobianOneLess, "dx-divides-by-n-minus-1", "dx", "n - 1 in both; always"),
    planted(JacobianDeviationLost, "dx-rstd-missing", "dx", "not divided; always"),
    planted(JacobianDeviationSquared, "dx-rstd-squared", "dx", "divided twice; always"),
)
