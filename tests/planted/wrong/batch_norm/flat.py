"""BatchNorm as an (M, C) matrix, a dictionary for a cache, dx in closed form; and mistakes in that style.

Mostly wrong statistics (with the standard backward over the wrong cache), wrong factors and divisors in dx.
It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class FlatBatchNorm:
    """Right. Channels go last, everything else becomes rows."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.training = True
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.dgamma = None
        self.dbeta = None
        self.running_mean = np.zeros(num_features) if track_running_stats else None
        self.running_var = np.ones(num_features) if track_running_stats else None
        self.batches_seen = 0
        self.cache = {}

    def to_rows(self, a):
        return np.moveaxis(a, 1, -1).reshape(-1, self.num_features)

    def from_rows(self, rows, shape):
        return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)

    def statistics(self, rows):
        mean = rows.mean(axis=0)
        var = np.square(rows - mean).mean(axis=0)
        return mean, var

    def inverse_deviation(self, var):
        return 1.0 / np.sqrt(var + self.eps)

    def standardise(self, rows, mean, rstd):
        return (rows - mean) * rstd

    def remember(self, rows):
        self.batches_seen += 1
        f = 1.0 / self.batches_seen if self.momentum is None else self.momentum
        mean, var = rows.mean(axis=0), rows.var(axis=0, ddof=1)
        self.running_mean = ((1 - f) * self.running_mean + f * mean).astype(rows.dtype)
        self.running_var = ((1 - f) * self.running_var + f * var).astype(rows.dtype)

    def forward(self, x):
        rows = self.to_rows(x)
        tracks = self.running_mean is not None
        over_batch = self.training or not tracks
        if over_batch:
            mean, var = self.statistics(rows)
        else:
            mean, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        if self.training and tracks:
            self.remember(rows)
        rstd = self.inverse_deviation(var)
        xhat = self.standardise(rows, mean, rstd)
        self.cache = {"xhat": xhat, "rstd": rstd, "mean": mean, "var": var, "over_batch": over_batch}
        if self.gamma is None:
            return self.from_rows(xhat.copy(), x.shape)
        return self.from_rows(xhat * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype), x.shape)

    def input_gradient(self, d, samples):
        xhat, rstd, n = self.cache["xhat"], self.cache["rstd"], len(d)
        return (1.0 / n) * rstd * (n * d - d.sum(axis=0) - xhat * (d * xhat).sum(axis=0))

    def backward(self, dy):
        d = self.to_rows(dy)
        if self.gamma is not None:
            self.dgamma = (d * self.cache["xhat"]).sum(axis=0)
            self.dbeta = d.sum(axis=0)
            d = d * self.gamma.astype(dy.dtype)
        dx = self.input_gradient(d, len(dy)) if self.cache["over_batch"] else d * self.cache["rstd"]
        return self.from_rows(dx, dy.shape)


class FlatVarianceUnbiased(FlatBatchNorm):
    def statistics(self, rows):
        mean = rows.mean(axis=0)
        var = np.square(rows - mean).sum(axis=0) / (len(rows) - 1)  # planted: n - 1
        return mean, var


class FlatEpsOutsideSqrt(FlatBatchNorm):
    def inverse_deviation(self, var):
        return 1.0 / (np.sqrt(var) + self.eps)  # planted: the eps stands outside the root


class FlatEpsMissing(FlatBatchNorm):
    def inverse_deviation(self, var):
        return 1.0 / np.sqrt(var)  # planted: no eps


class FlatStdNotRooted(FlatBatchNorm):
    def inverse_deviation(self, var):
        return 1.0 / (var + self.eps)  # planted: no root


class FlatVarianceIsStd(FlatBatchNorm):
    def statistics(self, rows):
        return rows.mean(axis=0), rows.std(axis=0)  # planted: the deviation is handed on as the variance

    def forward(self, x):
        kept = self.running_var
        if not self.training and kept is not None:
            self.running_var = np.sqrt(kept)  # planted: in eval likewise
        y = super().forward(x)
        if not self.training:
            self.running_var = kept
        return y


class FlatMeanNotSubtracted(FlatBatchNorm):
    def standardise(self, rows, mean, rstd):
        return rows * rstd  # planted: the mean stays in


class FlatRstdMissing(FlatBatchNorm):
    def input_gradient(self, d, samples):
        xhat, n = self.cache["xhat"], len(d)
        return (1.0 / n) * (n * d - d.sum(axis=0) - xhat * (d * xhat).sum(axis=0))  # planted: no rstd


class FlatRstdSquared(FlatBatchNorm):
    def input_gradient(self, d, samples):
        xhat, n = self.cache["xhat"], len(d)
        rvar = 1.0 / (self.cache["var"] + self.eps)  # planted: the root is forgotten
        return (1.0 / n) * rvar * (n * d - d.sum(axis=0) - xhat * (d * xhat).sum(axis=0))


class FlatTimesStd(FlatBatchNorm):
    def input_gradient(self, d, samples):
        xhat, n = self.cache["xhat"], len(d)
        std = np.sqrt(self.cache["var"] + self.eps)
        return std / n * (n * d - d.sum(axis=0) - xhat * (d * xhat).sum(axis=0))  # planted: times, not over


class FlatBackwardEpsMissing(FlatBatchNorm):
    def input_gradient(self, d, samples):
        xhat, n = self.cache["xhat"], len(d)
        rstd = 1.0 / np.sqrt(self.cache["var"])  # planted: the backward's own rstd has no eps
        return (1.0 / n) * rstd * (n * d - d.sum(axis=0) - xhat * (d * xhat).sum(axis=0))


class FlatSumNotMean(FlatBatchNorm):
    def input_gradient(self, d, samples):
        xhat, rstd = self.cache["xhat"], self.cache["rstd"]
        return rstd * (d - d.sum(axis=0) - xhat * (d * xhat).sum(axis=0))  # planted: sums, not means


class FlatDividesByNMinus1(FlatBatchNorm):
    def input_gradient(self, d, samples):
        xhat, rstd, m = self.cache["xhat"], self.cache["rstd"], len(d) - 1  # planted: n - 1
        return rstd * (d - d.sum(axis=0) / m - xhat * (d * xhat).sum(axis=0) / m)


class FlatDividesByBatchOnly(FlatBatchNorm):
    def input_gradient(self, d, samples):
        xhat, rstd, n = self.cache["xhat"], self.cache["rstd"], samples  # planted: N, though N*H*W are summed
        return rstd * (d - d.sum(axis=0) / n - xhat * (d * xhat).sum(axis=0) / n)


class FlatProjectionUsesX(FlatBatchNorm):
    def forward(self, x):
        y = super().forward(x)
        self.cache["rows"] = self.to_rows(x).copy()
        return y

    def input_gradient(self, d, samples):
        rows, xhat, rstd = self.cache["rows"], self.cache["xhat"], self.cache["rstd"]
        return rstd * (d - d.mean(axis=0) - rows * (d * xhat).mean(axis=0))  # planted: x where xhat belongs


planted = partial(wrong, "BatchNorm")

ROWS = (
    planted(FlatVarianceUnbiased, "variance-unbiased", "y dx dgamma", "(M, C) rows; training only; standard backward"),
    planted(
        FlatEpsOutsideSqrt,
        "eps-outside-sqrt",
        "y dx dgamma",
        "(M, C) rows; training and eval; standard backward over the wrong rstd",
    ),
    planted(
        FlatEpsMissing,
        "eps-missing",
        "y dx dgamma",
        "(M, C) rows; training and eval; shows at small variance; standard backward, which is its derivative",
    ),
    planted(
        FlatStdNotRooted,
        "std-not-rooted",
        "y dx dgamma",
        "(M, C) rows; training and eval; standard backward over the wrong rstd",
    ),
    planted(
        FlatVarianceIsStd,
        "variance-is-std",
        "y dx dgamma",
        "(M, C) rows; training and eval; running_var is kept right; standard backward over the wrong rstd",
    ),
    planted(
        FlatMeanNotSubtracted,
        "mean-not-subtracted",
        "y dx dgamma",
        "(M, C) rows; the variance is centred; training and eval (dx is right in eval); standard backward",
    ),
    planted(FlatRstdMissing, "dx-rstd-missing", "dx", "closed form; training only, eval is right"),
    planted(FlatRstdSquared, "dx-rstd-squared", "dx", "closed form; training only, eval is right"),
    planted(FlatTimesStd, "dx-times-std", "dx", "closed form; training only, eval is right"),
    planted(FlatBackwardEpsMissing, "dx-eps-missing", "dx", "closed form; training only; shows at small variance"),
    planted(FlatSumNotMean, "dx-sum-not-mean", "dx", "closed form; training only"),
    planted(FlatDividesByNMinus1, "dx-divides-by-n-minus-1", "dx", "closed form; training only"),
    planted(FlatDividesByBatchOnly, "dx-divides-by-batch-only", "dx", "closed form; training only; 2D is right"),
    planted(FlatProjectionUsesX, "dx-projection-uses-x", "dx", "closed form; training only; the rest uses xhat"),
)
