"""BatchNorm whose running statistics live in a small object of their own; other conventions and mistakes of these.

Where a running value goes wrong in training, an eval step after it has y, dx and dgamma wrong as well. It must not know
`reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class Track:
    """Right. A moving average of mean and variance: `learn` takes a batch's, `mean` and `var` are what to use."""

    def __init__(self, size, momentum):
        self.momentum, self.t = momentum, 0
        self.kept_mean, self.kept_var = np.zeros(size), np.ones(size)

    def rate(self):
        return 1 / self.t if self.momentum is None else self.momentum

    def learn(self, mean, var, n, eps):
        self.t += 1
        self.blend(mean, self.unbiased(var, n, eps), self.rate())

    def unbiased(self, var, n, eps):
        return var * (n / max(n - 1, 1))

    def blend(self, mean, var, r):
        self.kept_mean = (self.kept_mean * (1 - r) + mean * r).astype(mean.dtype)
        self.kept_var = (self.kept_var * (1 - r) + var * r).astype(var.dtype)

    def shown(self):
        return self.kept_mean, self.kept_var

    def used(self):
        return self.shown()


class TrackBatchNorm:
    track = Track

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.eps, self.training = eps, True
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        self.running = self.track(num_features, momentum) if track_running_stats else None
        self.show()

    def show(self):
        self.running_mean, self.running_var = self.running.shown() if self.running else (None, None)

    def forward(self, x):
        self.t = np.moveaxis(np.asarray(x), 1, -1)
        over = tuple(range(self.t.ndim - 1))
        self.learns = self.training or self.running is None
        if self.learns:
            mean = self.t.mean(over)
            var = np.mean((self.t - mean) ** 2, axis=over)
            if self.running:
                self.running.learn(mean, var, self.t.size // len(mean), self.eps)
                self.show()
        else:
            mean, var = (np.asarray(v, x.dtype) for v in self.running.used())
        self.k = 1 / np.sqrt(var + self.eps)
        self.h = (self.t - mean) * self.k
        y = self.h if self.gamma is None else self.h * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)
        return np.moveaxis(y, -1, 1).copy()

    def backward(self, dy):
        g = np.moveaxis(np.asarray(dy), 1, -1)
        over = tuple(range(g.ndim - 1))
        if self.gamma is not None:
            self.dgamma, self.dbeta = (g * self.h).sum(over), g.sum(over)
            g = g * self.gamma.astype(dy.dtype)
        if self.learns:
            g = g - g.mean(over) - self.h * (g * self.h).mean(over)
        return np.moveaxis(g * self.k, -1, 1).copy()


class FromZero(Track):
    def __init__(self, size, momentum):
        super().__init__(size, momentum)
        self.kept_var = np.zeros(size)  # planted: ones


class TrackFromZero(TrackBatchNorm):
    track = FromZero


class FirstWhole(Track):
    def rate(self):
        return 1.0 if self.t == 1 else super().rate()  # planted: the first batch counts in full


class TrackFirstWhole(TrackBatchNorm):
    track = FirstWhole


class CorrectedInUse(FromZero):
    """As Adam has it: the averages start at 0, and are divided by what they have learned when they are used."""

    def used(self):
        if self.momentum is None:
            return self.shown()
        c = np.float64(1) - (1 - self.momentum) ** self.t
        with np.errstate(all="ignore"):
            return self.kept_mean / c, self.kept_var / c  # planted


class TrackCorrectedInUse(TrackBatchNorm):
    track = CorrectedInUse


class CorrectedOnceTaught(CorrectedInUse):
    def used(self):
        return super().used() if self.t and self.momentum != 0 else self.shown()  # planted: nothing to correct before


class TrackCorrectedOnceTaught(TrackBatchNorm):
    track = CorrectedOnceTaught


class CorrectedInStore(FromZero):
    """As haiku has it: hidden averages from 0, and what is shown and used is corrected; before a batch 0 and 1."""

    def shown(self):
        if not self.t:
            return np.zeros_like(self.kept_mean), np.ones_like(self.kept_var)
        c = np.float64(1) if self.momentum is None else np.float64(1) - (1 - self.momentum) ** self.t
        with np.errstate(all="ignore"):
            return self.kept_mean / c.astype(self.kept_mean.dtype), self.kept_var / c.astype(self.kept_var.dtype)


class TrackCorrectedInStore(TrackBatchNorm):
    track = CorrectedInStore


class WithEps(Track):
    def unbiased(self, var, n, eps):
        return super().unbiased(var + eps, n, eps)  # planted: the variance as it went under the root


class TrackWithEps(TrackBatchNorm):
    track = WithEps


class WithEpsAfter(Track):
    def unbiased(self, var, n, eps):
        return super().unbiased(var, n, eps) + eps  # planted


class TrackWithEpsAfter(TrackBatchNorm):
    track = WithEpsAfter


class UnbiasedMean(Track):
    def learn(self, mean, var, n, eps):
        super().learn(mean * (n / max(n - 1, 1)), var, n, eps)  # planted: the variance's correction


class TrackUnbiasedMean(TrackBatchNorm):
    track = UnbiasedMean


EVAL = " y dx dgamma"


planted = partial(wrong, "BatchNorm", style="tracked apart; ")

ROWS = (
    planted(TrackFromZero, "running-statistics-start-at-zero", "running_var" + EVAL, "running_var from 0"),
    planted(
        TrackFirstWhole,
        "running-statistics-replaced-by-first-batch",
        "running_mean running_var" + EVAL,
        "the first rate is 1",
    ),
    planted(
        TrackCorrectedInUse,
        "running-statistics-bias-corrected",
        "running_var" + EVAL,
        "in eval; 0 / 0 before the first batch and at a momentum of 0",
    ),
    planted(
        TrackCorrectedOnceTaught,
        "running-statistics-bias-corrected",
        "running_var" + EVAL,
        "in eval; zeros before the first batch",
    ),
    planted(
        TrackCorrectedInStore,
        "running-statistics-bias-corrected",
        "running_mean running_var" + EVAL,
        "what is stored is corrected; 0 / 0 at a momentum of 0",
    ),
    planted(TrackWithEps, "running-var-includes-eps", "running_var" + EVAL, "eps before n / (n - 1)"),
    planted(TrackWithEpsAfter, "running-var-includes-eps", "running_var" + EVAL, "eps after n / (n - 1)"),
    planted(TrackUnbiasedMean, "running-mean-unbiased", "running_mean" + EVAL, "n / (n - 1) for both"),
)
