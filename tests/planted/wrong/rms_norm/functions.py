"""RMSNorm as a forward and a backward function over the last axes, bound by a class; mistakes in dgamma.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


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


# Without a beta, y is gamma * xhat: sum(dy * y) and gamma * sum(dy * xhat) are equal, and both names are due.
EQUAL = "dgamma-uses-y dgamma-times-gamma"


planted = partial(wrong, "RMSNorm", style="two functions over the last axes: ")

ROWS = (
    planted(FunctionScaleForgotten, "dgamma-uses-x", "dgamma", "sum(dy * x); always"),
    planted(FunctionOfOutput, EQUAL, "dgamma", "sum(dy * y); the two names are equal here; when gamma differs from 1"),
    planted(FunctionTimesGamma, EQUAL, "dgamma", "sum(d * xhat); the two names are equal here; if gamma is not 1"),
    planted(FunctionMean, "dgamma-mean-not-sum", "dgamma", "mean over the rows; more than one row"),
    planted(FunctionOverBatch, "dgamma-divided-by-batch", "dgamma", "divided by x.shape[0]; when that is above 1"),
    planted(FunctionNegated, "dgamma-sign", "dgamma", "negated; always"),
    planted(FunctionFirstAxis, "dgamma-batch-axis-only", "dgamma", "axis 0 only; from rank 3"),
    planted(FunctionPlainSum, "dgamma-without-xhat", "dgamma", "sum(dy); always"),
    planted(FunctionNormalizedAxes, "parameter-gradients-over-normalized-axes", "dgamma", "one number a row; always"),
    planted(FunctionOneNumber, "parameter-gradients-summed-to-scalar", "dgamma", "shape (); always"),
    planted(FunctionUnset, "parameter-gradients-missing", "dgamma", "the attribute does not exist; always"),
)
