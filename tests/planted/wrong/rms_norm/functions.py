"""RMSNorm as a forward and a backward function over the last axes, bound by a class; mistakes in dgamma.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import Planted


def rms_forward(x, gamma, axes, eps):
    eps = np.finfo(x.dtype).eps if eps is None else eps
    scale = np.reciprocal(np.sqrt(np.mean(np.square(x), axis=axes, keepdims=True) + x.dtype.type(eps)))
    y = x * scale if gamma is None else (x * scale) * gamma.astype(x.dtype)
    return y, (np.copy(x), scale, np.copy(y))


def rms_backward(dy, gamma, axes, cache):
    x, scale, _ = cache
    d = dy if gamma is None else dy * gamma.astype(dy.dtype)
    return scale * d - x * scale**3 * np.mean(d * x, axis=axes, keepdims=True)


class FunctionRMSNorm:
    """Right. `weight_gradient` is the one method; dx is the function's."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.eps = eps
        ones = np.ones(normalized_shape)
        self.axes = tuple(range(-ones.ndim, 0))
        self.gamma = ones if elementwise_affine else None

    def forward(self, x):
        y, self.cache = rms_forward(x, self.gamma, self.axes, self.eps)
        return y

    def backward(self, dy):
        if self.gamma is not None:
            self.dgamma = self.weight_gradient(dy, *self.cache)
        return rms_backward(dy, self.gamma, self.axes, self.cache)

    def rows(self, dy):
        return tuple(range(dy.ndim - len(self.axes)))

    def weight_gradient(self, dy, x, scale, y):
        return np.sum(dy * x * scale, axis=self.rows(dy))


class FunctionScaleForgotten(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.sum(dy * x, axis=self.rows(dy))  # planted: * scale


class FunctionOfOutput(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.sum(dy * y, axis=self.rows(dy))  # planted: y has gamma in it already


class FunctionTimesGamma(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        d = dy * self.gamma.astype(dy.dtype)  # planted: dgamma takes the d of the input gradient
        return np.sum(d * x * scale, axis=self.rows(d))


class FunctionMean(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.mean(dy * x * scale, axis=self.rows(dy))  # planted: mean


class FunctionOverBatch(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.sum(dy * x * scale, axis=self.rows(dy)) / len(dy)  # planted: / len(dy)


class FunctionNegated(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.sum(-dy * x * scale, axis=self.rows(dy))  # planted: -


class FunctionFirstAxis(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.sum(dy * x * scale, axis=0)  # planted: axis 0 for all the leading axes


class FunctionPlainSum(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.sum(dy, axis=self.rows(dy))  # planted: x * scale


class FunctionNormalizedAxes(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.sum(dy * x * scale, axis=self.axes)  # planted: the axes of the mean


class FunctionOneNumber(FunctionRMSNorm):
    def weight_gradient(self, dy, x, scale, y):
        return np.sum(dy * x * scale)  # planted: no axis


class FunctionUnset(FunctionRMSNorm):
    def backward(self, dy):
        return rms_backward(dy, self.gamma, self.axes, self.cache)  # planted: dgamma is never set


def _row(layer, faults, note):
    note = f"two functions over the last axes: {note}"
    return Planted(layer, "RMSNorm", frozenset(faults.split()), frozenset({"dgamma"}), note)


# Without a beta, y is gamma * xhat: sum(dy * y) and gamma * sum(dy * xhat) are equal, and both names are due.
EQUAL = "dgamma-uses-y dgamma-times-gamma"


ROWS = (
    _row(FunctionScaleForgotten, "dgamma-uses-x", "sum(dy * x); always"),
    _row(FunctionOfOutput, EQUAL, "sum(dy * y); the two names are equal here; when gamma differs from 1"),
    _row(FunctionTimesGamma, EQUAL, "sum(d * xhat); the two names are equal here; if gamma is not 1"),
    _row(FunctionMean, "dgamma-mean-not-sum", "mean over the rows; more than one row"),
    _row(FunctionOverBatch, "dgamma-divided-by-batch", "divided by x.shape[0]; when that is above 1"),
    _row(FunctionNegated, "dgamma-sign", "negated; always"),
    _row(FunctionFirstAxis, "dgamma-batch-axis-only", "axis 0 only; from rank 3"),
    _row(FunctionPlainSum, "dgamma-without-xhat", "sum(dy); always"),
    _row(FunctionNormalizedAxes, "parameter-gradients-over-normalized-axes", "one number a row; always"),
    _row(FunctionOneNumber, "parameter-gradients-summed-to-scalar", "shape (); always"),
    _row(FunctionUnset, "parameter-gradients-missing", "the attribute does not exist; always"),
)
