"""BatchNorms whose statistics, running or of the batch, are kept in a way no dictionary of mistakes holds.

A wrong running statistic shows in y, dx and dgamma too, in eval after training. Must not know `reference` or
`npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import unknown


class StatefulBatchNorm:
    """Three steps, each a method: moments of a batch, update of the state, what eval normalizes with."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.training, self.num_batches_tracked = True, 0
        self.dgamma = self.dbeta = None

    def moments(self, v):
        mean = v.mean(axis=1)
        return mean, ((v - mean[:, None]) ** 2).mean(axis=1)

    def update(self, mean, var, n, m):
        self.running_mean = (1 - m) * self.running_mean + m * mean
        self.running_var = (1 - m) * self.running_var + m * var * n / max(n - 1, 1)

    def frozen(self, dtype):
        return self.running_mean.astype(dtype), self.running_var.astype(dtype)

    def scale(self, var):
        return 1 / np.sqrt(var + self.eps)

    def forward(self, x):
        self.shape = (x.shape[1], x.shape[0], *x.shape[2:])
        v = x.swapaxes(0, 1).reshape(self.num_features, -1)
        if self.training:
            mean, var = self.moments(v)
            self.num_batches_tracked += 1
            m = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
            self.update(mean, var, v.shape[1], m)
            self.running_mean = self.running_mean.astype(x.dtype)
            self.running_var = self.running_var.astype(x.dtype)
            rstd = 1 / np.sqrt(var + self.eps)
        else:
            mean, var = self.frozen(x.dtype)
            rstd = self.scale(var)
        xhat = (v - mean[:, None]) * rstd[:, None]
        self.cache = self.training, xhat, rstd
        if self.gamma is not None:
            xhat = xhat * self.gamma.astype(x.dtype)[:, None] + self.beta.astype(x.dtype)[:, None]
        return xhat.reshape(self.shape).swapaxes(0, 1).copy()

    def backward(self, dy):
        trained, xhat, rstd = self.cache
        d = dy.swapaxes(0, 1).reshape(xhat.shape)
        if self.gamma is not None:
            self.dgamma, self.dbeta = np.sum(d * xhat, axis=1), np.sum(d, axis=1)
            d = d * self.gamma.astype(dy.dtype)[:, None]
        if trained:
            n = d.shape[1]
            d = d - (d.sum(axis=1)[:, None] + xhat * (d * xhat).sum(axis=1)[:, None]) / n
        return (d * rstd[:, None]).reshape(self.shape).swapaxes(0, 1)


class RunningMeanSignBatchNorm(StatefulBatchNorm):
    def update(self, mean, var, n, m):
        self.running_mean = (1 - m) * self.running_mean - m * mean  # planted: minus
        self.running_var = (1 - m) * self.running_var + m * var * n / max(n - 1, 1)


class RunningDeviationBatchNorm(StatefulBatchNorm):
    def update(self, mean, var, n, m):
        self.running_mean = (1 - m) * self.running_mean + m * mean
        self.running_var = (1 - m) * self.running_var + m * np.sqrt(var * n / max(n - 1, 1))  # planted: the root


class MomentumSquaredBatchNorm(StatefulBatchNorm):
    def update(self, mean, var, n, m):
        super().update(mean, var, n, m * m)  # planted: applied once by the caller, once here


class CorrectedTheOtherWayBatchNorm(StatefulBatchNorm):
    def update(self, mean, var, n, m):
        self.running_mean = (1 - m) * self.running_mean + m * mean
        self.running_var = (1 - m) * self.running_var + m * var * n / (n + 1)  # planted: n + 1


class RunningPooledVarianceBatchNorm(StatefulBatchNorm):
    def update(self, mean, var, n, m):
        between = m * (1 - m) * (mean - self.running_mean) ** 2
        super().update(mean, var, n, m)
        self.running_var = self.running_var + between  # planted: the mixture's variance, not the average of two


class OneBatchLateBatchNorm(StatefulBatchNorm):
    previous = None

    def update(self, mean, var, n, m):
        waiting, self.previous = self.previous, (mean, var, n, m)
        if waiting is not None:
            super().update(*waiting)  # planted: a batch enters at the next call


class EpsTwiceInEvalBatchNorm(StatefulBatchNorm):
    def scale(self, var):
        return 1 / np.sqrt(var + self.eps + self.eps)  # planted: twice


class HalfPrecisionStateBatchNorm(StatefulBatchNorm):
    def frozen(self, dtype):
        mean, var = (
            self.running_mean.astype(np.float16),
            self.running_var.astype(np.float16),
        )  # planted: float16
        return mean.astype(dtype), var.astype(dtype)


class RunningMeanTwiceInEvalBatchNorm(StatefulBatchNorm):
    def frozen(self, dtype):
        return 2 * self.running_mean.astype(dtype), self.running_var.astype(dtype)  # planted: folded in twice


class FirstSampleVarianceBatchNorm(StatefulBatchNorm):
    def moments(self, v):
        mean = v.mean(axis=1)
        per_sample = v.shape[1] // self.shape[1]
        first = v[:, : max(per_sample, 2)]
        return mean, ((first - mean[:, None]) ** 2).mean(axis=1)  # planted: one sample's (two in 2D) variance


class HalfTheBatchBatchNorm(StatefulBatchNorm):
    def moments(self, v):
        half = v[:, : (v.shape[1] + 1) // 2]
        mean = v.mean(axis=1)
        return mean, ((half - mean[:, None]) ** 2).mean(axis=1)  # planted: the variance of half the batch


class VarianceFloorBatchNorm(StatefulBatchNorm):
    def moments(self, v):
        mean = v.mean(axis=1)
        return mean, np.maximum(((v - mean[:, None]) ** 2).mean(axis=1), 1e-3)  # planted: never below 1e-3


class GhostBatchBatchNorm(StatefulBatchNorm):
    def moments(self, v):
        if self.shape[1] <= 100:
            return super().moments(v)
        per = v.shape[1] // self.shape[1] * 100
        mean = v.mean(axis=1)
        return mean, ((v[:, :per] - mean[:, None]) ** 2).mean(axis=1)  # planted: the first hundred samples'


ROWS = (
    unknown(
        "BatchNorm", RunningMeanSignBatchNorm, "y dgamma running_mean", "three steps; wrong sign of the running mean"
    ),
    unknown(
        "BatchNorm",
        RunningDeviationBatchNorm,
        "y dx dgamma running_var",
        "three steps; running_var averages deviations",
    ),
    unknown(
        "BatchNorm", MomentumSquaredBatchNorm, "y dx dgamma running_mean running_var", "three steps; momentum squared"
    ),
    unknown(
        "BatchNorm",
        CorrectedTheOtherWayBatchNorm,
        "y dx dgamma running_var",
        "three steps; running_var with n / (n + 1)",
    ),
    unknown(
        "BatchNorm",
        RunningPooledVarianceBatchNorm,
        "y dx dgamma running_var",
        "three steps; running_var of the mixture",
    ),
    unknown(
        "BatchNorm",
        OneBatchLateBatchNorm,
        "y dx dgamma running_mean running_var",
        "three steps; state lags a call behind",
    ),
    unknown("BatchNorm", EpsTwiceInEvalBatchNorm, "y dx dgamma", "three steps; eval only; the forward's derivative"),
    unknown(
        "BatchNorm",
        HalfPrecisionStateBatchNorm,
        "y dx dgamma dbeta running_var",
        "three steps; state through float16, eval only; where x is float16 more is lost",
    ),
    unknown("BatchNorm", RunningMeanTwiceInEvalBatchNorm, "y dgamma", "three steps; eval only"),
    unknown(
        "BatchNorm",
        FirstSampleVarianceBatchNorm,
        "y dx dgamma running_var",
        "three steps; first sample's variance; standard backward",
    ),
    unknown(
        "BatchNorm",
        HalfTheBatchBatchNorm,
        "y dx dgamma running_var",
        "three steps; half the batch's variance; standard backward",
    ),
    unknown(
        "BatchNorm",
        VarianceFloorBatchNorm,
        "y dx dgamma running_var",
        "three steps; variance floor, small x only; standard backward",
    ),
    unknown(
        "BatchNorm",
        GhostBatchBatchNorm,
        "y dx dgamma running_var",
        "three steps; batch above 100 only; standard backward",
    ),
)
