"""LayerNorms with two mistakes at once: in different quantities, or in one; algebra with two operators.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.right.operators import OperatorLayerNorm
from tests.planted.row import wrong


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


planted = partial(wrong, "LayerNorm", style="two mistakes: ")

ROWS = (
    planted(
        LayerNormGammaOutsideAndParametersOverFeatures,
        "dx-gamma-outside-means parameter-gradients-over-normalized-axes",
        "dx dgamma dbeta",
        "one in dx, one in the parameters",
    ),
    planted(LayerNormProjectionSignAndGammaTwice, "dx-projection-term-sign dx-gamma-twice", "dx", "both in dx"),
    planted(
        LayerNormDgammaOfCentredAndRstdSquared,
        "dgamma-uses-centred-x dx-rstd-squared",
        "dx dgamma",
        "one in dx, one in dgamma",
    ),
    planted(
        LayerNormEpsOutsideAndDgammaPlainSum,
        "eps-outside-sqrt dgamma-without-xhat",
        "y dx dgamma",
        "forward (standard backward) and dgamma",
    ),
    planted(LayerNormMeanTwiceAndOverBatch, "dx-mean-term-doubled dx-divided-by-batch", "dx", "both in dx"),
    planted(
        LayerNormParameterMeans,
        "dgamma-mean-not-sum dbeta-mean-not-sum",
        "dgamma dbeta",
        "one in dgamma, one in dbeta; more than one row",
    ),
    planted(
        LayerNormOwnEpsAndStatisticsConstant,
        "eps-argument-ignored dx-statistics-held-constant",
        "y dx dgamma",
        "always 1e-3 in the forward; dx is gamma * dy * that rstd",
    ),
    planted(
        LayerNormShiftFirstAndSums,
        "beta-before-gamma dx-sum-not-mean",
        "y dx",
        "one in y (the right layer's dgamma and dbeta), one in dx",
    ),
    planted(
        LayerNormBesselEverywhere,
        "variance-unbiased dx-divides-by-n-minus-1",
        "y dx dgamma",
        "n - 1 wherever a mean is taken, but in the mean itself",
    ),
)
