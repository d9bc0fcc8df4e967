"""GroupNorms with two mistakes at once: in different quantities, or in one; algebra with two operators.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.right.operators import OperatorGroupNorm
from tests.planted.row import wrong


class GroupNormDgammaOfXWithoutMeanTerm(OperatorGroupNorm):
    def gamma_gradient(self, dy):
        return self.total(dy * self.x)  # planted: x

    def dx(self, dy):
        d = self.w * dy
        return self.rstd * (d - self.xhat * self.avg(d * self.xhat))  # planted: - avg(d)


class GroupNormWithoutMeanTermAndGamma(OperatorGroupNorm):
    def dx(self, dy):
        return self.rstd * (dy - self.xhat * self.avg(dy * self.xhat))  # planted: w, and - avg(d)


class GroupNormSampleVarianceAndDbetaMean(OperatorGroupNorm):
    def inverse(self, var):
        n = self.count(var)
        return (var * n / (n - 1) + self.eps) ** -0.5 if n > 1 else var * np.nan  # planted: n - 1

    def beta_gradient(self, dy):
        return self.total(dy) * dy.shape[1] / dy.size  # planted: a mean


class GroupNormInterleavedAndDgammaOverBatch(OperatorGroupNorm):
    def avg(self, t):
        split = t.reshape(len(t), *self.group[::-1], *t.shape[2:])
        axes = (1, *range(3, split.ndim))  # planted: channel c is in group c mod G
        return np.broadcast_to(split.mean(axes, keepdims=True), split.shape).reshape(t.shape)

    def gamma_gradient(self, dy):
        return self.total(dy * self.xhat) / len(dy)  # planted: / N


class GroupNormWithoutProjectionAndDbetaTimesGamma(OperatorGroupNorm):
    def beta_gradient(self, dy):
        return self.total(self.w * dy)  # planted: w

    def dx(self, dy):
        d = self.w * dy
        return self.rstd * (d - self.avg(d))  # planted: the projection


class GroupNormNegated(OperatorGroupNorm):
    def gamma_gradient(self, dy):
        return -self.total(dy * self.xhat)  # planted: -

    def dx(self, dy):
        return -super().dx(dy)  # planted: -


class GroupNormUnshiftedAndUndivided(OperatorGroupNorm):
    def output(self, xhat):
        return self.w * xhat  # planted: + b

    def dx(self, dy):
        d = self.w * dy
        return d - self.avg(d) - self.xhat * self.avg(d * self.xhat)  # planted: rstd


class GroupNormParametersOverBatchOnly(OperatorGroupNorm):
    def gamma_gradient(self, dy):
        return (dy * self.xhat).sum(0)  # planted: axis 0

    def beta_gradient(self, dy):
        return dy.sum(0)  # planted: axis 0


class GroupNormPerChannelWithoutGamma(OperatorGroupNorm):
    def avg(self, t):
        if t.ndim == 2:
            return super().avg(t)
        return t.mean(tuple(range(2, t.ndim)), keepdims=True)  # planted: one channel at a time

    def dx(self, dy):
        return self.rstd * (dy - self.avg(dy) - self.xhat * self.avg(dy * self.xhat))  # planted: w


planted = partial(wrong, "GroupNorm", style="two mistakes: ")

ROWS = (
    planted(
        GroupNormDgammaOfXWithoutMeanTerm, "dgamma-uses-x dx-mean-term-missing", "dgamma dx", "one in dgamma, one in dx"
    ),
    planted(GroupNormWithoutMeanTermAndGamma, "dx-mean-term-missing dx-gamma-missing", "dx", "both in dx"),
    planted(
        GroupNormSampleVarianceAndDbetaMean,
        "variance-unbiased dbeta-mean-not-sum",
        "y dx dgamma dbeta",
        "forward (standard backward) and dbeta",
    ),
    planted(
        GroupNormInterleavedAndDgammaOverBatch,
        "groups-interleaved dgamma-divided-by-batch",
        "y dx dgamma",
        "forward (and its derivative dx) and dgamma, which both make wrong",
    ),
    planted(
        GroupNormWithoutProjectionAndDbetaTimesGamma,
        "dx-projection-term-missing dbeta-times-gamma",
        "dx dbeta",
        "one in dx, one in dbeta",
    ),
    planted(GroupNormNegated, "dx-sign dgamma-sign", "dx dgamma", "one in dx, one in dgamma"),
    planted(
        GroupNormUnshiftedAndUndivided,
        "beta-not-applied dx-rstd-missing",
        "y dx",
        "one in y (the right layer's backward), one in dx",
    ),
    planted(
        GroupNormParametersOverBatchOnly,
        "dgamma-batch-axis-only dbeta-batch-axis-only",
        "dgamma dbeta",
        "both of shape (C, H, W); from rank 3",
    ),
    planted(
        GroupNormPerChannelWithoutGamma,
        "statistics-per-channel dx-gamma-missing",
        "y dx dgamma",
        "forward (its derivative but for gamma) and dx; 2D has only the second",
    ),
)
