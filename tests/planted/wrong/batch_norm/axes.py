"""BatchNorm that broadcasts with keepdims over a tuple of axes; and mistakes about axes.

Which axes share a mean, which axes a parameter gradient sums, and whose statistics are used in training.
It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class AxesBatchNorm:
    """Right. Everything stays in the rank of x; per-channel arrays are seen as (1, C, 1, ...)."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        self.training = True
        self.steps = 0
        self.gamma = self.beta = self.dgamma = self.dbeta = self.running_mean = self.running_var = None
        if affine:
            self.gamma, self.beta = np.ones(num_features), np.zeros(num_features)
        if track_running_stats:
            self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)

    @staticmethod
    def as_column(v, like):
        return v.reshape(1, -1, *[1] * (like.ndim - 2)).astype(like.dtype)

    @staticmethod
    def all_but_channels(a):
        return (0, *range(2, a.ndim))

    def normalized_axes(self, x):
        return self.all_but_channels(x)

    def update_running(self, x):
        axes = self.all_but_channels(x)
        self.steps += 1
        new = self.momentum if self.momentum is not None else 1 / self.steps
        mean, var = np.mean(x, axis=axes), np.var(x, axis=axes, ddof=1)
        self.running_mean = (self.running_mean + new * (mean - self.running_mean)).astype(x.dtype)
        self.running_var = (self.running_var + new * (var - self.running_var)).astype(x.dtype)

    def batch_statistics(self, x):
        axes = self.normalized_axes(x)
        mean = np.mean(x, axis=axes, keepdims=True)
        var = np.mean((x - mean) ** 2, axis=axes, keepdims=True)
        if self.training and self.track_running_stats:
            self.update_running(x)
        return mean, var

    def running_statistics(self, x):
        return self.as_column(self.running_mean, x), self.as_column(self.running_var, x)

    def forward(self, x):
        self.from_batch = self.training or not self.track_running_stats
        mean, var = self.batch_statistics(x) if self.from_batch else self.running_statistics(x)
        self.rstd = 1 / np.sqrt(var + self.eps)
        self.xhat = (x - mean) * self.rstd
        y = self.xhat + 0
        if self.gamma is not None:
            y = y * self.as_column(self.gamma, x) + self.as_column(self.beta, x)
        return y

    def parameter_gradients(self, dy):
        axes = self.all_but_channels(dy)
        return np.sum(dy * self.xhat, axis=axes), np.sum(dy, axis=axes)

    def through_batch_statistics(self, d):
        axes = self.normalized_axes(d)
        mean_d = np.mean(d, axis=axes, keepdims=True)
        mean_dx = np.mean(d * self.xhat, axis=axes, keepdims=True)
        return self.rstd * (d - mean_d - self.xhat * mean_dx)

    def backward(self, dy):
        d = dy
        if self.gamma is not None:
            self.dgamma, self.dbeta = self.parameter_gradients(dy)
            d = dy * self.as_column(self.gamma, dy)
        return self.through_batch_statistics(d) if self.from_batch else self.rstd * d


class AxesStatisticsPerPosition(AxesBatchNorm):
    def normalized_axes(self, x):
        return (0,)  # planted: the spatial axes are left out; the running values see them


class AxesStatisticsAndRunningPerPosition(AxesBatchNorm):
    def normalized_axes(self, x):
        return (0,)  # planted: the spatial axes are left out

    def update_running(self, x):
        self.steps += 1
        new = self.momentum if self.momentum is not None else 1 / self.steps
        mean, var = np.mean(x, axis=0), np.var(x, axis=0) * len(x) / max(len(x) - 1, 1)  # planted: (C, H, W)
        old_mean, old_var = self.running_mean, self.running_var
        if old_mean.ndim == 1:
            old_mean, old_var = self.as_column(old_mean, x)[0], self.as_column(old_var, x)[0]
        self.running_mean = (old_mean + new * (mean - old_mean)).astype(x.dtype)
        self.running_var = (old_var + new * (var - old_var)).astype(x.dtype)

    def running_statistics(self, x):
        if self.running_mean.ndim == 1:
            return super().running_statistics(x)
        return self.running_mean[None].astype(x.dtype), self.running_var[None].astype(x.dtype)


class AxesStatisticsPerSample(AxesBatchNorm):
    def normalized_axes(self, x):
        return tuple(range(2, x.ndim)) or (0,)  # planted: no batch axis where there are others


class AxesStatisticsAndRunningPerSample(AxesBatchNorm):
    def normalized_axes(self, x):
        return tuple(range(2, x.ndim)) if x.ndim > 2 else (0,)  # planted: no batch axis where there are others

    def update_running(self, x):
        axes = self.normalized_axes(x)
        self.steps += 1
        new = self.momentum if self.momentum is not None else 1 / self.steps
        mean = np.mean(x, axis=axes, keepdims=True).mean(axis=self.all_but_channels(x))
        var = np.var(x, axis=axes, ddof=1, keepdims=True).mean(axis=self.all_but_channels(x))  # planted: within only
        self.running_mean = (self.running_mean + new * (mean - self.running_mean)).astype(x.dtype)
        self.running_var = (self.running_var + new * (var - self.running_var)).astype(x.dtype)


class AxesTrainingUsesRunningStatistics(AxesBatchNorm):
    def batch_statistics(self, x):
        if not self.track_running_stats:
            return super().batch_statistics(x)
        if self.training:
            self.update_running(x)
        return self.running_statistics(x)  # planted: updated first, then used instead of the batch's


class AxesTrainingUsesEarlierRunningStatistics(AxesBatchNorm):
    def forward(self, x):
        tracked_training = self.training and self.track_running_stats
        self.training = not tracked_training and self.training  # planted: normalizes as in eval ...
        y = super().forward(x)
        self.training = tracked_training or self.training
        if tracked_training:
            self.update_running(x)  # ... and updates afterwards
        return y


class AxesDgammaBatchAxisOnly(AxesBatchNorm):
    def parameter_gradients(self, dy):
        return np.sum(dy * self.xhat, axis=0), np.sum(dy, axis=self.all_but_channels(dy))  # planted: (C, H, W)


class AxesDbetaBatchAxisOnly(AxesBatchNorm):
    def parameter_gradients(self, dy):
        return np.sum(dy * self.xhat, axis=self.all_but_channels(dy)), np.sum(dy, axis=0)  # planted: (C, H, W)


class AxesParameterGradientsToScalar(AxesBatchNorm):
    def parameter_gradients(self, dy):
        return np.sum(dy * self.xhat), np.sum(dy)  # planted: no axis is kept


class AxesDgammaDividedByBatch(AxesBatchNorm):
    def parameter_gradients(self, dy):
        axes = self.all_but_channels(dy)
        return np.sum(dy * self.xhat, axis=axes) / len(dy), np.sum(dy, axis=axes)  # planted: over N


class AxesDxDividedByBatch(AxesBatchNorm):
    def backward(self, dy):
        return super().backward(dy) / dy.shape[0]  # planted: over N, as if the loss were not already a mean


planted = partial(wrong, "BatchNorm", style="keepdims; ")

ROWS = (
    planted(
        AxesStatisticsPerPosition,
        "statistics-per-position",
        "y dx dgamma",
        "training only, 2D is right, running values are right; its backward is its true derivative",
    ),
    planted(
        AxesStatisticsAndRunningPerPosition,
        "statistics-per-position",
        "y dx dgamma running_mean running_var",
        "the running values become (C, H, W) too, eval uses them; 2D is right; true derivative",
    ),
    planted(
        AxesStatisticsPerSample,
        "statistics-per-sample",
        "y dx dgamma",
        "training only, 2D is right, running values are right; its backward is its true derivative",
    ),
    planted(
        AxesStatisticsAndRunningPerSample,
        "statistics-per-sample",
        "y dx dgamma running_var",
        "running_var is the samples' mean variance, eval after training shows it; 2D is right",
    ),
    planted(
        AxesTrainingUsesRunningStatistics,
        "training-uses-running-statistics",
        "y dx dgamma",
        "running values updated before use; standard training backward over the wrong cache",
    ),
    planted(
        AxesTrainingUsesEarlierRunningStatistics,
        "training-uses-running-statistics",
        "y dx dgamma",
        "running values used before they are updated; its backward is its true derivative",
    ),
    planted(
        AxesDgammaBatchAxisOnly,
        "dgamma-batch-axis-only",
        "dgamma",
        "training and eval; the shape is wrong too, 2D is right",
    ),
    planted(
        AxesDbetaBatchAxisOnly,
        "dbeta-batch-axis-only",
        "dbeta",
        "training and eval; the shape is wrong too, 2D is right",
    ),
    planted(
        AxesParameterGradientsToScalar,
        "parameter-gradients-summed-to-scalar",
        "dgamma dbeta",
        "training and eval; numpy scalars, no arrays",
    ),
    planted(
        AxesDgammaDividedByBatch,
        "dgamma-divided-by-batch",
        "dgamma",
        "training and eval; batch 1 is right, in 2D it is the mean",
    ),
    planted(AxesDxDividedByBatch, "dx-divided-by-batch", "dx", "training and eval; batch 1 is right"),
)
