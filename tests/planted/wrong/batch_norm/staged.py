"""BatchNorm as in course assignments: two functions, a cache tuple, dx node by node, a thin class on top.

gamma and beta have shape (1, C). The mistakes are those one makes when going back by hand through a graph,
and in the running averages of such code. It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


def running_average(old, new, momentum):
    """The new running value: `momentum` is the weight of the new one."""
    return ((1 - momentum) * old + momentum * new).astype(new.dtype)


def unbiased(var, n):
    return var * (n / max(n - 1, 1))


def batchnorm_forward(x, gamma, beta, eps, mode, mean, var):
    """x of shape (M, C) -> out, cache, mean, variance. Those given are used when mode is 'test'."""
    if mode == "train":
        mean = np.sum(x, axis=0) / x.shape[0]
    xmu = x - mean
    if mode == "train":
        var = np.sum(xmu**2, axis=0) / x.shape[0]
    sqrtvar = np.sqrt(var + eps)
    ivar = 1.0 / sqrtvar
    xhat = xmu * ivar
    out = xhat.copy() if gamma is None else gamma * xhat + beta
    return out, (xhat, gamma, xmu, ivar, sqrtvar, var, eps, mode), mean, var


def nodes_backward(dxhat, cache):
    """From the gradient at xhat to the gradient at x, one node of the graph after another."""
    _, _, xmu, ivar, sqrtvar, var, eps, _ = cache
    n = dxhat.shape[0]
    divar = np.sum(dxhat * xmu, axis=0)
    dxmu1 = dxhat * ivar
    dsqrtvar = -1.0 / (sqrtvar**2) * divar
    dvar = 0.5 / np.sqrt(var + eps) * dsqrtvar
    dsq = np.ones_like(dxhat) / n * dvar
    dxmu2 = 2 * xmu * dsq
    dx1 = dxmu1 + dxmu2
    dmu = -np.sum(dx1, axis=0)
    dx2 = np.ones_like(dxhat) / n * dmu
    return dx1 + dx2


class StagedBatchNorm:
    """Right. Holds the parameters, flattens to (M, C), calls the functions above."""

    average = staticmethod(running_average)
    correct = staticmethod(unbiased)
    nodes = staticmethod(nodes_backward)

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.eps, self.momentum, self.num_batches = eps, momentum, 0
        self.gamma = np.ones((1, num_features)) if affine else None
        self.beta = np.zeros((1, num_features)) if affine else None
        self.running_mean = self.running_var = self.dgamma = self.dbeta = self.cache = None
        if track_running_stats:
            self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.training = True

    def forward(self, x):
        x2 = x.swapaxes(0, 1).reshape(x.shape[1], -1).T
        tracked = self.running_mean is not None
        mode = "train" if self.training or not tracked else "test"
        gamma = None if self.gamma is None else self.gamma.astype(x.dtype)
        beta = None if self.beta is None else self.beta.astype(x.dtype)
        kept = (self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)) if tracked else (None, None)
        out, self.cache, mean, var = batchnorm_forward(x2, gamma, beta, self.eps, mode, *kept)
        if self.training and tracked:
            self.num_batches += 1
            m = 1 / self.num_batches if self.momentum is None else self.momentum
            self.running_mean = self.average(self.running_mean, mean, m)
            self.running_var = self.average(self.running_var, self.correct(var, len(x2)), m)
        return self.unflatten(out, x.shape)

    @staticmethod
    def unflatten(a, shape):
        return a.T.reshape(shape[1], shape[0], *shape[2:]).swapaxes(0, 1)

    def at_xhat(self, dout):
        gamma = self.cache[1]
        return dout if gamma is None else dout * gamma

    def backward(self, dy):
        dout = dy.swapaxes(0, 1).reshape(dy.shape[1], -1).T
        xhat, gamma, ivar, mode = self.cache[0], self.cache[1], self.cache[3], self.cache[-1]
        if gamma is not None:
            self.dgamma = np.sum(dout * xhat, axis=0).reshape(gamma.shape)
            self.dbeta = np.sum(dout, axis=0).reshape(gamma.shape)
        dxhat = self.at_xhat(dout)
        return self.unflatten(self.nodes(dxhat, self.cache) if mode == "train" else dxhat * ivar, dy.shape)


class StagedMeanTermMissing(StagedBatchNorm):
    @staticmethod
    def nodes(dxhat, cache):
        _, _, xmu, ivar, *_ = cache
        divar = np.sum(dxhat * xmu, axis=0)
        dvar = -0.5 * ivar**3 * divar
        return dxhat * ivar + 2 * xmu * dvar / dxhat.shape[0]  # planted: the way through the mean is forgotten


class StagedMeanTermSign(StagedBatchNorm):
    @staticmethod
    def nodes(dxhat, cache):
        _, _, xmu, ivar, *_ = cache
        n = dxhat.shape[0]
        dvar = np.sum(dxhat * xmu, axis=0) * -0.5 * ivar**3
        dmu = np.sum(dxhat * ivar, axis=0)  # planted: x - mean has derivative -1 in the mean
        return dxhat * ivar + dvar * 2 * xmu / n + dmu / n


class StagedMeanTermDoubled(StagedBatchNorm):
    @staticmethod
    def nodes(dxhat, cache):
        _, _, xmu, ivar, *_ = cache
        n = dxhat.shape[0]
        dmu = -np.sum(dxhat * ivar, axis=0)
        dvar = np.sum(dxhat * xmu, axis=0) * -0.5 * ivar**3
        dxmu = dxhat * ivar + 2 * xmu * dvar / n + dmu / n
        return dxmu - np.mean(dxhat * ivar, axis=0)  # planted: the mean's way is walked a second time


class StagedProjectionTermMissing(StagedBatchNorm):
    @staticmethod
    def nodes(dxhat, cache):
        ivar = cache[3]
        dxmu = dxhat * ivar  # planted: nothing comes through the variance
        dmu = -np.sum(dxmu, axis=0)
        return dxmu + dmu / dxhat.shape[0]


class StagedProjectionTermSign(StagedBatchNorm):
    @staticmethod
    def nodes(dxhat, cache):
        _, _, xmu, ivar, *_ = cache
        n = dxhat.shape[0]
        dvar = np.sum(dxhat * xmu, axis=0) * 0.5 * ivar**3  # planted: the minus of -1/2 is lost
        dxmu = dxhat * ivar + 2 * xmu * dvar / n
        return dxmu - np.mean(dxmu, axis=0)


class StagedProjectionTermDoubled(StagedBatchNorm):
    @staticmethod
    def nodes(dxhat, cache):
        _, _, xmu, ivar, *_ = cache
        n = dxhat.shape[0]
        dvar = -np.sum(dxhat * xmu, axis=0) * ivar**3  # planted: the half of the square root is lost
        dxmu = dxhat * ivar + 2 * xmu * dvar / n
        return dxmu - np.mean(dxmu, axis=0)


class StagedStatisticsHeldConstant(StagedBatchNorm):
    @staticmethod
    def nodes(dxhat, cache):
        return dxhat * cache[3]  # planted: mean and variance are taken for constants


class StagedGammaMissing(StagedBatchNorm):
    def at_xhat(self, dout):
        return dout  # planted: gamma does not reach dx, in eval neither


class StagedGammaTwice(StagedBatchNorm):
    def at_xhat(self, dout):
        gamma = self.cache[1]
        return dout if gamma is None else dout * gamma * gamma  # planted: gamma squared, in eval too


def staged_with_its_own_eps(num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
    # planted: the eps asked for is dropped
    return StagedBatchNorm(num_features, 1e-8, momentum, affine, track_running_stats)


class StagedRunningVarBiased(StagedBatchNorm):
    @staticmethod
    def correct(var, n):
        return var  # planted: the variance that divides by n goes into the running one


class StagedMomentumInverted(StagedBatchNorm):
    def average(self, old, new, momentum):
        if self.momentum is None:
            return running_average(old, new, momentum)
        return (momentum * old + (1 - momentum) * new).astype(new.dtype)  # planted: the fraction kept


class StagedEvalTrainingFormula(StagedBatchNorm):
    def backward(self, dy):
        self.cache = (*self.cache[:-1], "train")  # planted: the backward never asks for the mode
        return super().backward(dy)


planted = partial(wrong, "BatchNorm", style="staged; ")

ROWS = (
    planted(StagedMeanTermMissing, "dx-mean-term-missing", "dx", "no dmean node; training only"),
    planted(StagedMeanTermSign, "dx-mean-term-sign", "dx", "dmean without its minus; training only"),
    planted(StagedMeanTermDoubled, "dx-mean-term-doubled", "dx", "mean subtracted again at the end; training only"),
    planted(StagedProjectionTermMissing, "dx-projection-term-missing", "dx", "no dvar node; training only"),
    planted(StagedProjectionTermSign, "dx-projection-term-sign", "dx", "dvar without its minus; training only"),
    planted(StagedProjectionTermDoubled, "dx-projection-term-doubled", "dx", "dvar lacks its half; training only"),
    planted(StagedStatisticsHeldConstant, "dx-statistics-held-constant", "dx", "eval formula in training"),
    planted(StagedGammaMissing, "dx-gamma-missing", "dx", "training and eval; shows when gamma is not 1"),
    planted(StagedGammaTwice, "dx-gamma-twice", "dx", "training and eval; shows when gamma is not 1"),
    planted(
        staged_with_its_own_eps,
        "eps-argument-ignored",
        "y dx dgamma",
        "a factory with 1e-8 for every eps, training and eval; standard backward, which is its derivative",
    ),
    planted(
        StagedRunningVarBiased,
        "running-var-biased",
        "running_var y dx dgamma",
        "running_var in training; y, dx, dgamma only in an eval step that follows training steps",
    ),
    planted(
        StagedMomentumInverted,
        "momentum-inverted",
        "running_mean running_var y dx dgamma",
        "momentum=None is right; y, dx, dgamma only in an eval step after training steps",
    ),
    planted(StagedEvalTrainingFormula, "eval-dx-uses-training-formula", "dx", "eval only; over the running rstd"),
)
