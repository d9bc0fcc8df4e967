"""GroupNorm as two functions with a cache tuple, wrapped by a class; mistakes in the parameter gradients.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


def group_norm_forward(x, gamma, beta, groups, eps):
    n, c = x.shape[:2]
    spatial = x.shape[2:]
    size = (c // groups) * int(np.prod(spatial))
    grouped = np.array(x).reshape(n * groups, size)
    mean = np.repeat(grouped.mean(axis=1), size).reshape(x.shape)
    centred = x - mean
    var = (centred.reshape(n * groups, size) ** 2).mean(axis=1)
    rstd = np.repeat((var + eps) ** -0.5, size).reshape(x.shape)
    xhat = centred * rstd
    shape = (1, c) + (1,) * len(spatial)
    out = (
        xhat.copy()
        if gamma is None
        else xhat * gamma.astype(x.dtype).reshape(shape) + beta.astype(x.dtype).reshape(shape)
    )
    return out, (x.copy(), centred, xhat, rstd, out.copy(), gamma, groups)


def parameter_gradients(dout, cache):
    _, _, xhat, _, _, _, _ = cache
    axes = (0, *range(2, dout.ndim))
    return np.sum(dout * xhat, axis=axes), np.sum(dout, axis=axes)


def input_gradient(dout, cache):
    _, _, xhat, rstd, _, gamma, groups = cache
    d = dout
    if gamma is not None:
        d = dout * gamma.astype(dout.dtype).reshape((1, -1) + (1,) * (dout.ndim - 2))
    size = int(np.prod(dout.shape[1:])) // groups
    by_group = (dout.shape[0] * groups, size)
    first = np.repeat(d.reshape(by_group).mean(axis=1), size).reshape(dout.shape)
    second = np.repeat((d * xhat).reshape(by_group).mean(axis=1), size).reshape(dout.shape)
    return (d - first - xhat * second) * rstd


class FunctionalGroupNorm:
    """Right. Nothing but the wrapper: the work is in the functions above."""

    parameter_gradients = staticmethod(parameter_gradients)

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.config = (num_groups, eps)
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = None
        self.dbeta = None

    def forward(self, x):
        out, self.cache = group_norm_forward(x, self.gamma, self.beta, *self.config)
        return out

    def backward(self, dout):
        if self.gamma is not None:
            self.dgamma, self.dbeta = self.parameter_gradients(dout, self.cache)
        return input_gradient(dout, self.cache)


class FunctionalDgammaOfX(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        x, _, _, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout * x, axis=axes), np.sum(dout, axis=axes)  # planted: x for xhat


class FunctionalDgammaOfCentredX(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, centred, _, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout * centred, axis=axes), np.sum(dout, axis=axes)  # planted: centred for xhat


class FunctionalDgammaOfOutput(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, _, _, out, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout * out, axis=axes), np.sum(dout, axis=axes)  # planted: out for xhat


class FunctionalDgammaTimesGamma(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, gamma, _ = cache
        axes = (0, *range(2, dout.ndim))
        dgamma = np.sum(dout * xhat, axis=axes) * gamma.astype(dout.dtype)  # planted: * gamma
        return dgamma, np.sum(dout, axis=axes)


class FunctionalDgammaMean(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.mean(dout * xhat, axis=axes), np.sum(dout, axis=axes)  # planted: mean


class FunctionalDgammaOverBatchSize(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout * xhat, axis=axes) / dout.shape[0], np.sum(dout, axis=axes)  # planted: / N


class FunctionalDgammaNegated(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return -np.sum(dout * xhat, axis=axes), np.sum(dout, axis=axes)  # planted: minus


class FunctionalDgammaPerPosition(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout * xhat, axis=0), np.sum(dout, axis=axes)  # planted: axis 0 only


class FunctionalDbetaPerPosition(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout * xhat, axis=axes), np.sum(dout, axis=0)  # planted: axis 0 only


class FunctionalDbetaMean(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout * xhat, axis=axes), np.mean(dout, axis=axes)  # planted: mean


class FunctionalDbetaTimesGamma(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, gamma, _ = cache
        axes = (0, *range(2, dout.ndim))
        dbeta = np.sum(dout, axis=axes) * gamma.astype(dout.dtype)  # planted: * gamma
        return np.sum(dout * xhat, axis=axes), dbeta


class FunctionalSwapped(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, _, _ = cache
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout, axis=axes), np.sum(dout * xhat, axis=axes)  # planted: dbeta, dgamma


class FunctionalDgammaPlainSum(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        axes = (0, *range(2, dout.ndim))
        return np.sum(dout, axis=axes), np.sum(dout, axis=axes)  # planted: xhat is gone


class FunctionalScalars(FunctionalGroupNorm):
    @staticmethod
    def parameter_gradients(dout, cache):
        _, _, xhat, _, _, _, _ = cache
        return np.sum(dout * xhat), np.sum(dout)  # planted: no axis, one number each


class FunctionalUnset(FunctionalGroupNorm):
    def backward(self, dout):
        _dgamma, _dbeta = self.parameter_gradients(dout, self.cache)  # planted: never stored
        return input_gradient(dout, self.cache)


planted = partial(wrong, "GroupNorm", style="two functions and a cache tuple: ")

ROWS = (
    planted(FunctionalDgammaOfX, "dgamma-uses-x", "dgamma", "sum(dy * x); always"),
    planted(FunctionalDgammaOfCentredX, "dgamma-uses-centred-x", "dgamma", "sum(dy * (x - mean)); always"),
    planted(FunctionalDgammaOfOutput, "dgamma-uses-y", "dgamma", "sum(dy * y); when gamma or beta are not 1 and 0"),
    planted(FunctionalDgammaTimesGamma, "dgamma-times-gamma", "dgamma", "times gamma; when gamma differs from 1"),
    planted(FunctionalDgammaMean, "dgamma-mean-not-sum", "dgamma", "mean over N, H, W; more than one summed"),
    planted(FunctionalDgammaOverBatchSize, "dgamma-divided-by-batch", "dgamma", "divided by N; batch above 1"),
    planted(FunctionalDgammaNegated, "dgamma-sign", "dgamma", "negated; always"),
    planted(FunctionalDgammaPerPosition, "dgamma-batch-axis-only", "dgamma", "shape (C, H, W); from rank 3"),
    planted(FunctionalDbetaPerPosition, "dbeta-batch-axis-only", "dbeta", "shape (C, H, W); from rank 3"),
    planted(FunctionalDbetaMean, "dbeta-mean-not-sum", "dbeta", "mean over N, H, W; more than one summed"),
    planted(FunctionalDbetaTimesGamma, "dbeta-times-gamma", "dbeta", "times gamma; when gamma differs from 1"),
    planted(FunctionalSwapped, "dgamma-dbeta-swapped", "dgamma dbeta", "the two are handed over in the other order"),
    planted(FunctionalDgammaPlainSum, "dgamma-without-xhat", "dgamma", "sum(dy); always"),
    planted(FunctionalScalars, "parameter-gradients-summed-to-scalar", "dgamma dbeta", "shape (); always"),
    planted(FunctionalUnset, "parameter-gradients-missing", "dgamma dbeta", "both stay None; always"),
)
