"""BatchNorm by einsum over (N, C, L); and mistakes in dgamma, dbeta and where gamma and beta enter.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class EinsumBatchNorm:
    """Right. Three axes always: a 2D input has L = 1."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.training = True
        self.num_batches_tracked = 0
        self.running_mean, self.running_var = None, None
        if track_running_stats:
            self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        self.dgamma, self.dbeta = None, None

    def mean_and_variance(self, x3):
        m = x3.shape[0] * x3.shape[2]
        mean = np.einsum("ncl->c", x3) / m
        centred = x3 - mean[:, None]
        var = np.einsum("ncl,ncl->c", centred, centred) / m
        if self.training and self.running_mean is not None:
            self.num_batches_tracked += 1
            w = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked
            self.running_mean = (self.running_mean * (1 - w) + mean * w).astype(x3.dtype)
            self.running_var = (self.running_var * (1 - w) + var * (w * m / (m - 1))).astype(x3.dtype)
        return mean, var

    def affine_map(self, xhat, gamma, beta):
        return np.einsum("ncl,c->ncl", xhat, gamma) + beta[:, None]

    def forward(self, x):
        x3 = np.array(x).reshape(x.shape[0], x.shape[1], -1)
        self.batch_mode = self.training or self.running_mean is None
        if self.batch_mode:
            mean, var = self.mean_and_variance(x3)
        else:
            mean, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        self.x3, self.mean = x3, mean
        self.rstd = (var + self.eps) ** -0.5
        self.xhat = np.einsum("ncl,c->ncl", x3 - mean[:, None], self.rstd)
        if self.gamma is None:
            return self.xhat.reshape(x.shape).copy()
        self.g, self.b = self.gamma.astype(x.dtype), self.beta.astype(x.dtype)
        return self.affine_map(self.xhat, self.g, self.b).reshape(x.shape)

    def gradient_at_gamma(self, dy3):
        return np.einsum("ncl,ncl->c", dy3, self.xhat)

    def gradient_at_beta(self, dy3):
        return np.einsum("ncl->c", dy3)

    def gradient_at_xhat(self, dy3):
        return np.einsum("ncl,c->ncl", dy3, self.g)

    def set_parameter_gradients(self, dy3):
        self.dgamma = self.gradient_at_gamma(dy3)
        self.dbeta = self.gradient_at_beta(dy3)

    def backward(self, dy):
        d = np.array(dy).reshape(self.x3.shape)
        if self.gamma is not None:
            self.set_parameter_gradients(d)
            d = self.gradient_at_xhat(d)
        if self.batch_mode:
            m = d.shape[0] * d.shape[2]
            along_one = np.einsum("ncl->c", d) / m
            along_xhat = np.einsum("ncl,ncl->c", d, self.xhat) / m
            d = d - along_one[:, None] - np.einsum("ncl,c->ncl", self.xhat, along_xhat)
        return np.einsum("ncl,c->ncl", d, self.rstd).reshape(dy.shape)


class EinsumDgammaUsesX(EinsumBatchNorm):
    def gradient_at_gamma(self, dy3):
        return np.einsum("ncl,ncl->c", dy3, self.x3)  # planted: x, not xhat


class EinsumDgammaUsesCentredX(EinsumBatchNorm):
    def gradient_at_gamma(self, dy3):
        return np.einsum("ncl,ncl->c", dy3, self.x3 - self.mean[:, None])  # planted: not divided by the deviation


class EinsumDgammaUsesY(EinsumBatchNorm):
    def gradient_at_gamma(self, dy3):
        y = self.affine_map(self.xhat, self.g, self.b)
        return np.einsum("ncl,ncl->c", dy3, y)  # planted: the output, not xhat


class EinsumDgammaTimesGamma(EinsumBatchNorm):
    def gradient_at_gamma(self, dy3):
        return np.einsum("ncl,ncl,c->c", dy3, self.xhat, self.g)  # planted: gamma once more


class EinsumDgammaMean(EinsumBatchNorm):
    def gradient_at_gamma(self, dy3):
        return np.einsum("ncl,ncl->c", dy3, self.xhat) / (dy3.size // dy3.shape[1])  # planted: a mean


class EinsumDgammaSign(EinsumBatchNorm):
    def gradient_at_gamma(self, dy3):
        return -np.einsum("ncl,ncl->c", dy3, self.xhat)  # planted: the minus


class EinsumDgammaWithoutXhat(EinsumBatchNorm):
    def gradient_at_gamma(self, dy3):
        return np.einsum("ncl->c", dy3)  # planted: that is dbeta


class EinsumDbetaTimesGamma(EinsumBatchNorm):
    def gradient_at_beta(self, dy3):
        return np.einsum("ncl,c->c", dy3, self.g)  # planted: beta is added after gamma


class EinsumDbetaMean(EinsumBatchNorm):
    def gradient_at_beta(self, dy3):
        return dy3.mean(axis=(0, 2))  # planted: a mean


class EinsumParameterGradientsSwapped(EinsumBatchNorm):
    def set_parameter_gradients(self, dy3):
        self.dbeta, self.dgamma = self.gradient_at_gamma(dy3), self.gradient_at_beta(dy3)  # planted: swapped


class EinsumParameterGradientsMissing(EinsumBatchNorm):
    def set_parameter_gradients(self, dy3):
        dgamma = self.gradient_at_gamma(dy3)
        dbeta = self.gradient_at_beta(dy3)
        return dgamma, dbeta  # planted: nobody takes them, self.dgamma and self.dbeta stay None


class EinsumParameterGradientsAccumulate(EinsumBatchNorm):
    def set_parameter_gradients(self, dy3):
        first = self.dgamma is None
        self.dgamma = self.gradient_at_gamma(dy3) + (0 if first else self.dgamma)  # planted: never reset
        self.dbeta = self.gradient_at_beta(dy3) + (0 if first else self.dbeta)


class EinsumDxGammaMissing(EinsumBatchNorm):
    def gradient_at_xhat(self, dy3):
        return dy3 if self.batch_mode else super().gradient_at_xhat(dy3)  # planted: gamma is in the eval branch only


class EinsumGammaNotAppliedConsistent(EinsumBatchNorm):
    def affine_map(self, xhat, gamma, beta):
        return xhat + beta[:, None]  # planted: no gamma

    def gradient_at_gamma(self, dy3):
        return np.zeros_like(self.g)

    def gradient_at_xhat(self, dy3):
        return dy3


class EinsumBetaNotAppliedConsistent(EinsumBatchNorm):
    def affine_map(self, xhat, gamma, beta):
        return np.einsum("ncl,c->ncl", xhat, gamma)  # planted: no beta

    def gradient_at_beta(self, dy3):
        return np.zeros_like(self.b)


class EinsumBetaBeforeGammaConsistent(EinsumBatchNorm):
    def affine_map(self, xhat, gamma, beta):
        return np.einsum("ncl,c->ncl", xhat + beta[:, None], gamma)  # planted: beta is multiplied by gamma

    def gradient_at_gamma(self, dy3):
        return np.einsum("ncl,ncl->c", dy3, self.xhat + self.b[:, None])

    def gradient_at_beta(self, dy3):
        return np.einsum("ncl,c->c", dy3, self.g)


planted = partial(wrong, "BatchNorm", style="einsum; ")

ROWS = (
    planted(EinsumDgammaUsesX, "dgamma-uses-x", "dgamma", "training and eval"),
    planted(EinsumDgammaUsesCentredX, "dgamma-uses-centred-x", "dgamma", "training and eval; the running mean in eval"),
    planted(EinsumDgammaUsesY, "dgamma-uses-y", "dgamma", "training and eval; shows when gamma, beta are not 1, 0"),
    planted(EinsumDgammaTimesGamma, "dgamma-times-gamma", "dgamma", "training and eval; shows when gamma is not 1"),
    planted(EinsumDgammaMean, "dgamma-mean-not-sum", "dgamma", "training and eval"),
    planted(EinsumDgammaSign, "dgamma-sign", "dgamma", "training and eval"),
    planted(EinsumDgammaWithoutXhat, "dgamma-without-xhat", "dgamma", "training and eval"),
    planted(EinsumDbetaTimesGamma, "dbeta-times-gamma", "dbeta", "training and eval; shows when gamma is not 1"),
    planted(EinsumDbetaMean, "dbeta-mean-not-sum", "dbeta", "training and eval"),
    planted(EinsumParameterGradientsSwapped, "dgamma-dbeta-swapped", "dgamma dbeta", "training and eval"),
    planted(EinsumParameterGradientsMissing, "parameter-gradients-missing", "dgamma dbeta", "computed, never kept"),
    planted(EinsumParameterGradientsAccumulate, "parameter-gradients-accumulate", "dgamma dbeta", "from call two on"),
    planted(EinsumDxGammaMissing, "dx-gamma-missing", "dx", "training only, eval is right"),
    planted(
        EinsumGammaNotAppliedConsistent,
        "gamma-not-applied",
        "y dx dgamma",
        "training and eval; true derivative, so dgamma is zero",
    ),
    planted(
        EinsumBetaNotAppliedConsistent,
        "beta-not-applied",
        "y dbeta",
        "training and eval; true derivative, so dbeta is zero",
    ),
    planted(
        EinsumBetaBeforeGammaConsistent, "beta-before-gamma", "y dgamma dbeta", "training and eval; true derivative"
    ),
)
