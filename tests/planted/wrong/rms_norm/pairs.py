"""RMSNorms with two mistakes at once: in different quantities, or in one; algebra with two operators.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

from tests.planted.right.operators import OperatorRMSNorm
from tests.planted.row import wrong


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


planted = partial(wrong, "RMSNorm", style="two mistakes: ")

ROWS = (
    planted(RMSNormMeanTermWithoutGamma, "dx-mean-term-added dx-gamma-missing", "dx", "both in dx"),
    planted(
        RMSNormCentredAndDgammaMean,
        "mean-subtracted dgamma-mean-not-sum",
        "y dx dgamma",
        "forward (standard RMS backward) and dgamma",
    ),
    planted(
        RMSNormProjectionTwiceAndDgammaNegated,
        "dx-projection-term-doubled dgamma-sign",
        "dx dgamma",
        "one in dx, one in dgamma",
    ),
    planted(
        RMSNormLastAxisAndDgammaOfX,
        "statistics-last-axis-only dgamma-uses-x",
        "y dx dgamma",
        "forward (and its derivative dx) and dgamma, which is sum(dy * x)",
    ),
    planted(RMSNormProjectionOnXUndivided, "dx-projection-uses-x dx-rstd-missing", "dx", "both in dx"),
)
