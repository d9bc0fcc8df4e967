"""BatchNorm with a loop over the channels, scalars inside it; and mistakes in that style.

Mostly wrong forwards whose backward is their own true derivative, and forgotten parameters.
It must not know `reference` or `npnorm`: the corpus judges them.
"""

import math
from functools import partial

import numpy as np

from tests.planted.row import wrong


class LoopBatchNorm:
    """Right. One channel at a time; keeps mean, scale and a copy of x, computes all else again."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.C, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track = affine, track_running_stats
        self.gamma = np.ones(self.C) if affine else None
        self.beta = np.zeros(self.C) if affine else None
        self.dgamma = self.dbeta = None
        self.running_mean = np.zeros(self.C) if self.track else None
        self.running_var = np.ones(self.C) if self.track else None
        self.training = True
        self.t = 0

    def scale(self, var, n):
        """What multiplies x - mean."""
        return 1 / math.sqrt(var + self.eps)

    def output(self, xhat, c):
        return float(self.gamma[c]) * xhat + float(self.beta[c])

    def forward(self, x):
        self.x = np.array(x)
        self.mean, self.r = [0.0] * self.C, [0.0] * self.C
        self.batch = self.training or not self.track
        learn = self.training and self.track
        if learn:
            self.t += 1
            a = self.momentum if self.momentum is not None else 1 / self.t
            self.running_mean, self.running_var = (
                self.running_mean.astype(x.dtype),
                self.running_var.astype(x.dtype),
            )
        y = np.zeros(x.shape, dtype=x.dtype)
        for c in range(self.C):
            v = self.x[:, c]
            if self.batch:
                mu = float(v.mean())
                var = float(((v - mu) ** 2).mean())
            else:
                mu, var = float(self.running_mean[c]), float(self.running_var[c])
            if learn:
                self.running_mean[c] = (1 - a) * self.running_mean[c] + a * mu
                self.running_var[c] = (1 - a) * self.running_var[c] + a * var * v.size / (v.size - 1)
            self.mean[c], self.r[c] = mu, self.scale(var, v.size)
            xhat = self.xhat(c)
            y[:, c] = self.output(xhat, c) if self.affine else xhat
        return y

    def xhat(self, c):
        return (self.x[:, c] - self.mean[c]) * self.r[c]

    def at_xhat(self, g, c):
        return g * float(self.gamma[c]) if self.affine else g

    def channel_gradient(self, d, c):
        xhat = self.xhat(c)
        return self.r[c] * (d - d.mean() - xhat * (d * xhat).mean())

    def channel_parameters(self, g, c):
        return (g * self.xhat(c)).sum(), g.sum()

    def backward(self, dy):
        dx = np.zeros(dy.shape, dtype=dy.dtype)
        if self.affine:
            self.dgamma, self.dbeta = np.zeros(self.C, dy.dtype), np.zeros(self.C, dy.dtype)
        for c in range(self.C):
            g = dy[:, c]
            if self.affine:
                self.dgamma[c], self.dbeta[c] = self.channel_parameters(g, c)
            d = self.at_xhat(g, c)
            dx[:, c] = self.channel_gradient(d, c) if self.batch else self.r[c] * d
        return dx


class LoopVarianceUnbiasedConsistent(LoopBatchNorm):
    def scale(self, var, n):
        return 1 / math.sqrt((var * n / (n - 1) if self.batch else var) + self.eps)  # planted: n - 1

    def channel_gradient(self, d, c):
        xhat = self.xhat(c)
        return self.r[c] * (d - d.mean() - xhat * (d * xhat).sum() / (d.size - 1))


class LoopEpsOutsideSqrtConsistent(LoopBatchNorm):
    def scale(self, var, n):
        return 1 / (math.sqrt(var) + self.eps)  # planted: the eps stands outside the root

    def channel_gradient(self, d, c):
        r, xc = self.r[c], self.x[:, c] - self.mean[c]
        std = 1 / r - self.eps or math.nan  # a root has no derivative at 0
        return r * (d - d.mean()) - r * r / std * xc * (d * xc).mean()


class LoopStdNotRootedConsistent(LoopBatchNorm):
    def scale(self, var, n):
        return 1 / (var + self.eps)  # planted: no root

    def channel_gradient(self, d, c):
        r, xhat = self.r[c], self.xhat(c)
        return r * (d - d.mean()) - 2 * xhat * (d * (self.x[:, c] - self.mean[c]) * r).mean()


class LoopVarianceIsStdConsistent(LoopBatchNorm):
    def scale(self, var, n):
        return (math.sqrt(var) + self.eps) ** -0.5  # planted: the deviation stands for the variance

    def channel_gradient(self, d, c):
        r, xc = self.r[c], self.x[:, c] - self.mean[c]
        std = r**-2 - self.eps
        return r * (d - d.mean()) - r**3 / (2 * std) * xc * (d * xc).mean()


class LoopMeanNotSubtractedConsistent(LoopBatchNorm):
    def xhat(self, c):
        return self.x[:, c] * self.r[c]  # planted: the mean stays in, in eval too

    def channel_gradient(self, d, c):
        r, x = self.r[c], self.x[:, c]
        return r * d - r**3 * (x - self.mean[c]) * (d * x).mean()


class LoopGammaNotApplied(LoopBatchNorm):
    def output(self, xhat, c):
        return xhat + float(self.beta[c])  # planted: no gamma


class LoopBetaNotApplied(LoopBatchNorm):
    def output(self, xhat, c):
        return float(self.gamma[c]) * xhat  # planted: no beta


class LoopBetaBeforeGamma(LoopBatchNorm):
    def output(self, xhat, c):
        return float(self.gamma[c]) * (xhat + float(self.beta[c]))  # planted: beta is multiplied by gamma


class LoopFixedEps(LoopBatchNorm):
    def scale(self, var, n):
        return 1 / math.sqrt(var + 1e-3)  # planted: a fixed eps, whatever was asked for


class LoopDiagonalOnly(LoopBatchNorm):
    def channel_gradient(self, d, c):
        xhat, n = self.xhat(c), d.size
        return d * self.r[c] * (1 - 1 / n - xhat**2 / n)  # planted: only dxhat_i / dx_i, not the others


class LoopDxSign(LoopBatchNorm):
    def channel_gradient(self, d, c):
        xhat = self.xhat(c)
        return self.r[c] * (d.mean() + xhat * (d * xhat).mean() - d)  # planted: all three signs turned


class LoopDxIsDy(LoopBatchNorm):
    def backward(self, dy):
        super().backward(dy)
        return dy.copy()  # planted: the gradient is handed through, in eval too


class LoopDgammaMean(LoopBatchNorm):
    def channel_parameters(self, g, c):
        return (g * self.xhat(c)).mean(), g.sum()  # planted: the mean over the batch and the positions


class LoopDbetaMean(LoopBatchNorm):
    def channel_parameters(self, g, c):
        return (g * self.xhat(c)).sum(), g.mean()  # planted: the mean over the batch and the positions


planted = partial(wrong, "BatchNorm", style="loop; ")

ROWS = (
    planted(LoopVarianceUnbiasedConsistent, "variance-unbiased", "y dx dgamma", "training only; true derivative"),
    planted(
        LoopEpsOutsideSqrtConsistent,
        "eps-outside-sqrt",
        "y dx dgamma",
        "training and eval; true derivative",
        raises=True,
    ),
    planted(LoopStdNotRootedConsistent, "std-not-rooted", "y dx dgamma", "training and eval; true derivative"),
    planted(LoopVarianceIsStdConsistent, "variance-is-std", "y dx dgamma", "training and eval; true derivative"),
    planted(
        LoopMeanNotSubtractedConsistent,
        "mean-not-subtracted",
        "y dx dgamma",
        "training and eval (dx is right in eval); true derivative",
    ),
    planted(LoopGammaNotApplied, "gamma-not-applied", "y", "training and eval; the right layer's backward, with gamma"),
    planted(LoopBetaNotApplied, "beta-not-applied", "y", "training and eval; the right layer's backward"),
    planted(LoopBetaBeforeGamma, "beta-before-gamma", "y", "training and eval; the right layer's backward"),
    planted(
        LoopFixedEps,
        "eps-argument-ignored",
        "y dx dgamma",
        "1e-3 always, training and eval; standard backward, which is its derivative",
    ),
    planted(LoopDiagonalOnly, "dx-diagonal-only", "dx", "training only, eval is right"),
    planted(LoopDxSign, "dx-sign", "dx", "training only, eval is right"),
    planted(LoopDxIsDy, "dx-is-dy", "dx", "training and eval; a copy of dy"),
    planted(LoopDgammaMean, "dgamma-mean-not-sum", "dgamma", "training and eval"),
    planted(LoopDbetaMean, "dbeta-mean-not-sum", "dbeta", "training and eval"),
)
