"""Layers with two mistakes at once: in different quantities, or in one; algebra with two operators.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.operator_layers import OperatorGroupNorm, OperatorLayerNorm, OperatorRMSNorm
from tests.planted.row import Planted

# GroupNorm


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


# LayerNorm


class LayerNormGammaOutsideAndParametersOverFeatures(OperatorLayerNorm):
    def total(self, t):
        return t.sum(tuple(range(t.ndim - len(self.shape), t.ndim)))  # planted: the normalized axes

    def dx(self, dy):
        inner = dy - self.avg(dy) - self.xhat * self.avg(dy * self.xhat)
        return self.w * self.rstd * inner  # planted: w here


class LayerNormProjectionSignAndGammaTwice(OperatorLayerNorm):
    def dx(self, dy):
        d = self.w * self.w * dy  # planted: w twice
        return self.rstd * (d - self.avg(d) + self.xhat * self.avg(d * self.xhat))  # planted: +


class LayerNormDgammaOfCentredAndRstdSquared(OperatorLayerNorm):
    def gamma_gradient(self, dy):
        return self.total(dy * self.centred)  # planted: * rstd

    def dx(self, dy):
        d = self.w * dy
        return self.rstd**2 * (d - self.avg(d) - self.xhat * self.avg(d * self.xhat))  # planted: ** 2


class LayerNormEpsOutsideAndDgammaPlainSum(OperatorLayerNorm):
    def inverse(self, var):
        return 1 / (np.sqrt(var) + self.eps)  # planted: eps outside the root

    def gamma_gradient(self, dy):
        return self.total(dy)  # planted: xhat


class LayerNormMeanTwiceAndOverBatch(OperatorLayerNorm):
    def dx(self, dy):
        d = self.w * dy / len(dy)  # planted: / N
        return self.rstd * (d - 2 * self.avg(d) - self.xhat * self.avg(d * self.xhat))  # planted: 2


class LayerNormParameterMeans(OperatorLayerNorm):
    def gamma_gradient(self, dy):
        return (dy * self.xhat).mean(tuple(range(dy.ndim - len(self.shape))))  # planted: mean

    def beta_gradient(self, dy):
        return dy.mean(tuple(range(dy.ndim - len(self.shape))))  # planted: mean


class LayerNormOwnEpsAndStatisticsConstant(OperatorLayerNorm):
    def inverse(self, var):
        return (var + 1e-3) ** -0.5  # planted: whatever eps was asked for

    def dx(self, dy):
        return self.rstd * self.w * dy  # planted: both terms


class LayerNormShiftFirstAndSums(OperatorLayerNorm):
    def output(self, xhat):
        return self.w * (xhat + self.b)  # planted: the bracket

    def dx(self, dy):
        d = self.w * dy
        n = self.count(d)
        return self.rstd * (d - n * self.avg(d) - n * self.xhat * self.avg(d * self.xhat))  # planted: sums


class LayerNormBesselEverywhere(OperatorLayerNorm):
    def inverse(self, var):
        return (var * self.count(var) / np.array(self.count(var) - 1, var.dtype) + self.eps) ** -0.5  # planted: - 1

    def dx(self, dy):
        d = self.w * dy
        ratio = self.count(d) / np.array(self.count(d) - 1, d.dtype)  # planted: - 1
        return self.rstd * (d - ratio * self.avg(d) - self.xhat * ratio * self.avg(d * self.xhat))


# RMSNorm


class RMSNormMeanTermWithoutGamma(OperatorRMSNorm):
    def dx(self, dy):
        return self.rstd * (dy - self.avg(dy) - self.xhat * self.avg(dy * self.xhat))  # planted: w; avg(dy)


class RMSNormCentredAndDgammaMean(OperatorRMSNorm):
    def centre(self, x):
        return self.avg(x)  # planted: the mean

    def gamma_gradient(self, dy):
        return (dy * self.xhat).mean(tuple(range(dy.ndim - len(self.shape))))  # planted: mean


class RMSNormProjectionTwiceAndDgammaNegated(OperatorRMSNorm):
    def gamma_gradient(self, dy):
        return -self.total(dy * self.xhat)  # planted: -

    def dx(self, dy):
        d = self.w * dy
        return self.rstd * (d - 2 * self.xhat * self.avg(d * self.xhat))  # planted: 2


class RMSNormLastAxisAndDgammaOfX(OperatorRMSNorm):
    def avg(self, t):
        return t.mean(-1, keepdims=True)  # planted: -1

    def gamma_gradient(self, dy):
        return self.total(dy * self.x)  # planted: x


class RMSNormProjectionOnXUndivided(OperatorRMSNorm):
    def dx(self, dy):
        d = self.w * dy
        return d - self.x * self.avg(d * self.xhat)  # planted: x for xhat; rstd


def _row(layer, faults, wrong, note):
    like = layer.__name__.partition("Norm")[0] + "Norm"
    return Planted(layer, like, frozenset(faults.split()), frozenset(wrong.split()), f"two mistakes: {note}")


ROWS = (
    _row(
        GroupNormDgammaOfXWithoutMeanTerm,
        "dgamma-uses-x dx-mean-term-missing",
        "dgamma dx",
        "one in dgamma, one in dx",
    ),
    _row(GroupNormWithoutMeanTermAndGamma, "dx-mean-term-missing dx-gamma-missing", "dx", "both in dx"),
    _row(
        GroupNormSampleVarianceAndDbetaMean,
        "variance-unbiased dbeta-mean-not-sum",
        "y dx dgamma dbeta",
        "forward (standard backward) and dbeta",
    ),
    _row(
        GroupNormInterleavedAndDgammaOverBatch,
        "groups-interleaved dgamma-divided-by-batch",
        "y dx dgamma",
        "forward (and its derivative dx) and dgamma, which both make wrong",
    ),
    _row(
        GroupNormWithoutProjectionAndDbetaTimesGamma,
        "dx-projection-term-missing dbeta-times-gamma",
        "dx dbeta",
        "one in dx, one in dbeta",
    ),
    _row(GroupNormNegated, "dx-sign dgamma-sign", "dx dgamma", "one in dx, one in dgamma"),
    _row(
        GroupNormUnshiftedAndUndivided,
        "beta-not-applied dx-rstd-missing",
        "y dx",
        "one in y (the right layer's backward), one in dx",
    ),
    _row(
        GroupNormParametersOverBatchOnly,
        "dgamma-batch-axis-only dbeta-batch-axis-only",
        "dgamma dbeta",
        "both of shape (C, H, W); from rank 3",
    ),
    _row(
        GroupNormPerChannelWithoutGamma,
        "statistics-per-channel dx-gamma-missing",
        "y dx dgamma",
        "forward (its derivative but for gamma) and dx; 2D has only the second",
    ),
    _row(
        LayerNormGammaOutsideAndParametersOverFeatures,
        "dx-gamma-outside-means parameter-gradients-over-normalized-axes",
        "dx dgamma dbeta",
        "one in dx, one in the parameters",
    ),
    _row(LayerNormProjectionSignAndGammaTwice, "dx-projection-term-sign dx-gamma-twice", "dx", "both in dx"),
    _row(
        LayerNormDgammaOfCentredAndRstdSquared,
        "dgamma-uses-centred-x dx-rstd-squared",
        "dx dgamma",
        "one in dx, one in dgamma",
    ),
    _row(
        LayerNormEpsOutsideAndDgammaPlainSum,
        "eps-outside-sqrt dgamma-without-xhat",
        "y dx dgamma",
        "forward (standard backward) and dgamma",
    ),
    _row(LayerNormMeanTwiceAndOverBatch, "dx-mean-term-doubled dx-divided-by-batch", "dx", "both in dx"),
    _row(
        LayerNormParameterMeans,
        "dgamma-mean-not-sum dbeta-mean-not-sum",
        "dgamma dbeta",
        "one in dgamma, one in dbeta; more than one row",
    ),
    _row(
        LayerNormOwnEpsAndStatisticsConstant,
        "eps-argument-ignored dx-statistics-held-constant",
        "y dx dgamma",
        "always 1e-3 in the forward; dx is gamma * dy * that rstd",
    ),
    _row(
        LayerNormShiftFirstAndSums,
        "beta-before-gamma dx-sum-not-mean",
        "y dx",
        "one in y (the right layer's dgamma and dbeta), one in dx",
    ),
    _row(
        LayerNormBesselEverywhere,
        "variance-unbiased dx-divides-by-n-minus-1",
        "y dx dgamma",
        "n - 1 wherever a mean is taken, but in the mean itself",
    ),
    _row(RMSNormMeanTermWithoutGamma, "dx-mean-term-added dx-gamma-missing", "dx", "both in dx"),
    _row(
        RMSNormCentredAndDgammaMean,
        "mean-subtracted dgamma-mean-not-sum",
        "y dx dgamma",
        "forward (standard RMS backward) and dgamma",
    ),
    _row(
        RMSNormProjectionTwiceAndDgammaNegated,
        "dx-projection-term-doubled dgamma-sign",
        "dx dgamma",
        "one in dx, one in dgamma",
    ),
    _row(
        RMSNormLastAxisAndDgammaOfX,
        "statistics-last-axis-only dgamma-uses-x",
        "y dx dgamma",
        "forward (and its derivative dx) and dgamma, which is sum(dy * x)",
    ),
    _row(RMSNormProjectionOnXUndivided, "dx-projection-uses-x dx-rstd-missing", "dx", "both in dx"),
)
