"""BatchNorm whose forward leaves a closure that pulls gradients back; mistakes of running values and eval.

Where a running value goes wrong in training, an eval step after it has y, dx and dgamma wrong as well: the
rows list these too. It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.unknown.running import StatefulBatchNorm


class ClosureBatchNorm:
    """Right. `forward` stores a function dy -> (dx, sum dy*xhat, sum dy); `backward` calls it."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.dgamma = self.dbeta = None
        self.running_mean = np.zeros(num_features) if track_running_stats else None
        self.running_var = np.ones(num_features) if track_running_stats else None
        self.training = True
        self.updates = 0
        self.pull = None

    def sum(self, a):
        return a.sum(axis=tuple(i for i in range(a.ndim) if i != 1), keepdims=True)

    def wide(self, v, x):
        return np.asarray(v, x.dtype).reshape([-1 if i == 1 else 1 for i in range(x.ndim)])

    def rate(self):
        return 1.0 / self.updates if self.momentum is None else self.momentum

    def update(self, mean, var, n):
        """Both of shape (C,); var divides by n."""
        self.updates += 1
        r = self.rate()
        self.running_mean = (1 - r) * self.running_mean.astype(mean.dtype) + r * mean
        self.running_var = (1 - r) * self.running_var.astype(var.dtype) + r * (var * n / max(n - 1, 1))

    def forward(self, x):
        if self.training or not self.track_running_stats:
            y, self.pull = self.normalize_by_batch(x, self.training and self.track_running_stats)
        else:
            y, self.pull = self.normalize_by_running(x)
        return y

    def batch_moments(self, x):
        n = x.size // x.shape[1]
        mean = self.sum(x) / n
        return mean, self.sum(np.square(x - mean)) / n, n

    def normalize_by_batch(self, x, learn):
        mean, var, n = self.batch_moments(x)
        if learn:
            self.update(mean.ravel(), var.ravel(), n)
        return self.transform(x, mean, var, through_batch=True)

    def normalize_by_running(self, x):
        return self.transform(x, self.wide(self.running_mean, x), self.wide(self.running_var, x), through_batch=False)

    def transform(self, x, mean, var, through_batch):
        rstd = 1 / np.sqrt(var + self.eps)
        xhat = (x - mean) * rstd
        gamma = self.wide(self.gamma, x) if self.affine else np.ones((), x.dtype)
        beta = self.wide(self.beta, x) if self.affine else np.zeros((), x.dtype)
        n = x.size // x.shape[1]

        def pull(dy):
            d = dy * gamma
            if through_batch:
                d = d - self.sum(d) / n - xhat * (self.sum(d * xhat) / n)
            return d * rstd, self.sum(dy * xhat).ravel(), self.sum(dy).ravel()

        return xhat * gamma + beta, pull

    def backward(self, dy):
        dx, to_gamma, to_beta = self.pull(dy)
        if self.affine:
            self.dgamma, self.dbeta = to_gamma, to_beta
        return dx


class ClosureRunningVarBiased(ClosureBatchNorm):
    def update(self, mean, var, n):
        self.updates += 1
        r = self.rate()
        self.running_mean = (1 - r) * self.running_mean.astype(mean.dtype) + r * mean
        self.running_var = (1 - r) * self.running_var.astype(var.dtype) + r * var  # planted: divides by n


class ClosureMomentumInverted(ClosureBatchNorm):
    def rate(self):
        # planted: 0.1 keeps a tenth of the old value
        return 1.0 / self.updates if self.momentum is None else 1 - self.momentum


class ClosureRunningNotUpdated(ClosureBatchNorm):
    def update(self, mean, var, n):
        r = self.momentum or 1.0
        running_mean = (1 - r) * self.running_mean + r * mean  # planted: local names, the layer's stay as they are
        running_var = (1 - r) * self.running_var + r * var * n / max(n - 1, 1)
        return running_mean, running_var


class ClosureReplacedByFirstBatch(ClosureBatchNorm):
    def update(self, mean, var, n):
        if self.updates == 0:
            self.updates = 1
            self.running_mean, self.running_var = (
                mean,
                var * n / max(n - 1, 1),
            )  # planted: momentum waits a batch
        else:
            super().update(mean, var, n)


class ClosureRunningVarDecayedTwice(ClosureBatchNorm):
    def update(self, mean, var, n):
        r = 1.0 / (self.updates + 1) if self.momentum is None else self.momentum
        self.running_var = (1 - r) * self.running_var  # planted: the update below does this again
        super().update(mean, var, n)


class EpsInRunningVarBatchNorm(StatefulBatchNorm):
    def update(self, mean, var, n, m):
        super().update(mean, var + self.eps, n, m)  # planted: var already has eps; the batch's own output is right


class ClosureUpdatedInEvalAfterUse(ClosureBatchNorm):
    def normalize_by_running(self, x):
        y, pull = super().normalize_by_running(x)
        mean, var, n = self.batch_moments(x)
        self.update(mean.ravel(), var.ravel(), n)  # planted: eval learns
        return y, pull


class ClosureUpdatedInEvalBeforeUse(ClosureBatchNorm):
    def forward(self, x):
        if not self.training and self.track_running_stats:
            mean, var, n = self.batch_moments(x)
            self.update(mean.ravel(), var.ravel(), n)  # planted: eval learns, before it normalizes
        return super().forward(x)


class ClosureEvalUsesBatchConsistent(ClosureBatchNorm):
    def normalize_by_running(self, x):
        return self.normalize_by_batch(x, learn=False)  # planted: the batch's statistics in eval


class ClosureEvalUsesBatchHeldConstant(ClosureBatchNorm):
    def normalize_by_running(self, x):
        mean, var, _ = self.batch_moments(x)  # planted: the batch's statistics in eval
        return self.transform(x, mean, var, through_batch=False)


class ClosureEvalTrainingFormula(ClosureBatchNorm):
    def normalize_by_running(self, x):
        mean, var = self.wide(self.running_mean, x), self.wide(self.running_var, x)
        return self.transform(x, mean, var, through_batch=True)  # planted: as if they depended on x


class ClosureEvalTrainingCache(ClosureBatchNorm):
    def forward(self, x):
        pull = self.pull
        y = super().forward(x)
        if not self.training and self.track_running_stats:
            self.pull = pull  # planted: eval keeps no cache of its own, the last training step's answers
        return y


class ClosureEvalTrainingRstd(ClosureBatchNorm):
    last_rstd = 1.0

    def transform(self, x, mean, var, through_batch):
        y, pull = super().transform(x, mean, var, through_batch)
        if through_batch:
            self.last_rstd = 1 / np.sqrt(var + self.eps)
            return y, pull
        gamma = self.wide(self.gamma, x) if self.affine else np.ones((), x.dtype)
        rstd = self.wide(self.last_rstd, x)  # planted: eval's own rstd is not cached

        def stale(dy):
            return dy * gamma * rstd, *pull(dy)[1:]

        return y, stale


class ClosureEvalBackwardIsNone(ClosureBatchNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        return dx if self.training or not self.track_running_stats else None  # planted: nothing in eval


AFTER_TRAINING = "; y, dx, dgamma in an eval step after training steps"


planted = partial(wrong, "BatchNorm", style="closure; ")

ROWS = (
    planted(ClosureRunningVarBiased, "running-var-biased", "running_var y dx dgamma", "divides by n" + AFTER_TRAINING),
    planted(
        ClosureMomentumInverted,
        "momentum-inverted",
        "running_mean running_var y dx dgamma",
        "momentum=None is right" + AFTER_TRAINING,
    ),
    planted(
        ClosureRunningNotUpdated,
        "running-statistics-not-updated",
        "running_mean running_var y dx dgamma",
        "bound to local names" + AFTER_TRAINING,
    ),
    planted(
        ClosureReplacedByFirstBatch,
        "running-statistics-replaced-by-first-batch",
        "running_mean running_var y dx dgamma",
        "from the second batch on the usual update; momentum=None is right" + AFTER_TRAINING,
    ),
    planted(
        ClosureRunningVarDecayedTwice,
        "running-var-decayed-twice",
        "running_var y dx dgamma",
        "(1 - momentum) twice on the old variance" + AFTER_TRAINING,
    ),
    wrong(
        "BatchNorm",
        EpsInRunningVarBatchNorm,
        "running-var-includes-eps",
        "running_var y dx dgamma",
        "three steps; eps averaged into running_var" + AFTER_TRAINING,
    ),
    planted(
        ClosureUpdatedInEvalAfterUse,
        "running-statistics-updated-in-eval",
        "running_mean running_var y dx dgamma",
        "the first eval step has y, dx, dgamma right, the second not",
    ),
    planted(
        ClosureUpdatedInEvalBeforeUse,
        "running-statistics-updated-in-eval",
        "running_mean running_var y dx dgamma",
        "updated, then used: wrong from the first eval step on",
    ),
    planted(
        ClosureEvalUsesBatchConsistent,
        "eval-uses-batch-statistics",
        "y dx dgamma",
        "eval only; its backward is its true derivative",
    ),
    planted(
        ClosureEvalUsesBatchHeldConstant,
        "eval-uses-batch-statistics",
        "y dx dgamma",
        "eval only; the standard eval backward over the batch's rstd",
    ),
    planted(ClosureEvalTrainingFormula, "eval-dx-uses-training-formula", "dx", "eval only; over the running rstd"),
    planted(
        ClosureEvalTrainingCache,
        "eval-dx-uses-training-cache",
        "dx dgamma dbeta",
        "eval only; all of the last training step's; without one, or at another shape, it raises",
    ),
    planted(
        ClosureEvalTrainingRstd,
        "eval-dx-uses-training-cache",
        "dx",
        "eval only; the last training step's rstd, 1 without one; xhat is eval's own, so dgamma is right",
    ),
    planted(ClosureEvalBackwardIsNone, "eval-backward-missing", "dx", "None in eval; dgamma and dbeta are right"),
)
