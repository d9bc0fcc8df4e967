"""Layers that normalize by something else than mean and variance: medians, maxima, a few samples, n + 1.

No dictionary of mistakes holds these. Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

import math

import numpy as np

from tests.planted.row import unknown


class _Rowwise:
    """Makes rows out of x, and hands a row matrix to `fit`, which gives (centre, scale) of each row."""

    def fit(self, rows, eps):
        centre = rows.mean(axis=1, keepdims=True)
        return centre, np.sqrt(np.mean((rows - centre) ** 2, axis=1, keepdims=True) + eps)

    def normalize(self, rows, eps):
        centre, self.scale = self.fit(rows, eps)
        self.xhat = (rows - centre) / self.scale
        return self.xhat

    def denormalize(self, d):
        n = d.shape[1]
        total, along = d.sum(axis=1, keepdims=True), (d * self.xhat).sum(axis=1, keepdims=True)
        return (n * d - total - self.xhat * along) / (n * self.scale)


class _RowwiseLayerNorm(_Rowwise):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.normalized_shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self.eps = eps
        self.gamma = np.ones(self.normalized_shape) if elementwise_affine else None
        self.beta = np.zeros(self.normalized_shape) if elementwise_affine and bias else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        out = self.normalize(x.reshape(-1, math.prod(self.normalized_shape)), eps)
        if self.gamma is not None:
            out = out * self.gamma.astype(x.dtype).ravel()
        if self.beta is not None:
            out = out + self.beta.astype(x.dtype).ravel()
        return out.reshape(x.shape) + 0

    def backward(self, dy):
        d = dy.reshape(self.xhat.shape)
        if self.beta is not None:
            self.dbeta = d.sum(axis=0).reshape(self.normalized_shape)
        if self.gamma is not None:
            self.dgamma = (d * self.xhat).sum(axis=0).reshape(self.normalized_shape)
            d = d * self.gamma.astype(dy.dtype).ravel()
        return self.denormalize(d).reshape(dy.shape)


class _RowwiseRMSNorm(_RowwiseLayerNorm):
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False)

    def fit(self, rows, eps):
        return 0, np.sqrt((rows * rows).mean(axis=1, keepdims=True) + eps)

    def denormalize(self, d):
        return (d - self.xhat * (d * self.xhat).mean(axis=1, keepdims=True)) / self.scale


class _RowwiseGroupNorm(_Rowwise):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        out = self.normalize(x.reshape(len(x) * self.num_groups, -1), self.eps)
        per_channel = out.reshape(len(x), self.num_channels, -1) + 0
        if self.gamma is not None:
            per_channel = per_channel * self.gamma.astype(x.dtype)[:, None] + self.beta.astype(x.dtype)[:, None]
        return per_channel.reshape(x.shape)

    def backward(self, dy):
        d = dy.reshape(len(dy), self.num_channels, -1)
        if self.gamma is not None:
            self.dgamma, self.dbeta = (d * self.xhat.reshape(d.shape)).sum((0, 2)), d.sum((0, 2))
            d = d * self.gamma.astype(dy.dtype)[:, None]
        return self.denormalize(d.reshape(self.xhat.shape)).reshape(dy.shape)


class MedianForMeanLayerNorm(_RowwiseLayerNorm):
    def fit(self, rows, eps):
        centre = np.median(rows, axis=1, keepdims=True)  # planted: the median
        return centre, np.sqrt(np.mean((rows - centre) ** 2, axis=1, keepdims=True) + eps)


class MeanAbsoluteDeviationLayerNorm(_RowwiseLayerNorm):
    def fit(self, rows, eps):
        centre = rows.mean(axis=1, keepdims=True)
        return centre, np.abs(rows - centre).mean(axis=1, keepdims=True) + eps  # planted: |.|, not (.)**2


class MaximumSubtractedLayerNorm(_RowwiseLayerNorm):
    def fit(self, rows, eps):
        mean = rows.mean(axis=1, keepdims=True)
        var = np.mean((rows - mean) ** 2, axis=1, keepdims=True)
        return rows.max(axis=1, keepdims=True), np.sqrt(var + eps)  # planted: as a stable softmax has it


class SoftmaxLayerNorm(_RowwiseLayerNorm):
    def normalize(self, rows, eps):
        e = np.exp(rows - rows.max(axis=1, keepdims=True))
        self.xhat = e / (e.sum(axis=1, keepdims=True) + eps)  # planted: another normalization
        return self.xhat

    def denormalize(self, d):
        return self.xhat * (d - (d * self.xhat).sum(axis=1, keepdims=True))


class LargestMagnitudeRMSNorm(_RowwiseRMSNorm):
    def fit(self, rows, eps):
        return 0, np.abs(rows).max(axis=1, keepdims=True) + eps  # planted: the maximum norm


class MeanMagnitudeRMSNorm(_RowwiseRMSNorm):
    def fit(self, rows, eps):
        return 0, np.abs(rows).mean(axis=1, keepdims=True) + eps  # planted: the mean of |x|

    def denormalize(self, d):
        n = d.shape[1]
        along = (d * self.xhat).sum(axis=1, keepdims=True)
        return (d - np.sign(self.xhat) * along / n) / self.scale


class OneMoreInCountRMSNorm(_RowwiseRMSNorm):
    def fit(self, rows, eps):
        return 0, np.sqrt((rows * rows).sum(axis=1, keepdims=True) / (rows.shape[1] + 1) + eps)  # planted: n + 1


class LastAxisCountRMSNorm(_RowwiseRMSNorm):
    def fit(self, rows, eps):
        total = (rows * rows).sum(axis=1, keepdims=True)
        return 0, np.sqrt(total / self.normalized_shape[-1] + eps)  # planted: counts one axis, sums over all


class TruncatedToIntegersRMSNorm(_RowwiseRMSNorm):
    def normalize(self, rows, eps):
        steps = (rows * 256).astype(np.int64)  # planted: fixed point, 8 fractional bits
        return super().normalize(steps.astype(rows.dtype) / 256, eps)


class FastInverseRootRMSNorm(_RowwiseRMSNorm):
    def fit(self, rows, eps):
        v = (rows * rows).mean(axis=1, keepdims=True) + eps
        bits = 0x5F3759DF - (v.astype(np.float32).view(np.int32) >> 1)
        r = bits.astype(np.int32).view(np.float32).astype(rows.dtype)
        r = r * (1.5 - 0.5 * v * r * r)
        return 0, 1 / (r * (1.5 - 0.5 * v * r * r))  # planted: two steps from the magic guess, 5e-6 off


class OneNewtonStepGroupNorm(_RowwiseGroupNorm):
    def fit(self, rows, eps):
        centre = rows.mean(axis=1, keepdims=True)
        v = np.mean((rows - centre) ** 2, axis=1, keepdims=True) + eps
        mantissa, exponent = np.frexp(v)
        guess = 1 / np.sqrt(np.ldexp(np.round(mantissa * 64) / 64, exponent))
        return centre, 1 / (guess * (1.5 - 0.5 * v * guess * guess))  # planted: a single step of refinement


class BesselTheOtherWayGroupNorm(_RowwiseGroupNorm):
    def fit(self, rows, eps):
        n = rows.shape[1]
        centre = rows.mean(axis=1, keepdims=True)
        return centre, np.sqrt(((rows - centre) ** 2).sum(axis=1, keepdims=True) / (n + 1) + eps)  # planted: n + 1


class ConstantRowsNaNGroupNorm(_RowwiseGroupNorm):
    def fit(self, rows, eps):
        centre = rows.mean(axis=1, keepdims=True)
        var = ((rows - centre) ** 2).mean(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            return centre, np.sqrt(var * (1 + eps / var))  # planted: 0 * inf where var is zero


class VarianceNotBelowEpsGroupNorm(_RowwiseGroupNorm):
    def fit(self, rows, eps):
        centre = rows.mean(axis=1, keepdims=True)
        var = ((rows - centre) ** 2).mean(axis=1, keepdims=True)
        return centre, np.sqrt(np.maximum(var, eps))  # planted: clipped at eps instead of eps added


class SmallVarianceClippedLayerNorm(_RowwiseLayerNorm):
    def fit(self, rows, eps):
        centre = rows.mean(axis=1, keepdims=True)
        var = ((rows - centre) ** 2).mean(axis=1, keepdims=True)
        return centre, np.sqrt(np.clip(var, 1e-4, None) + eps)  # planted: never below 1e-4


class EpsExpandedLayerNorm(_RowwiseLayerNorm):
    def fit(self, rows, eps):
        centre = rows.mean(axis=1, keepdims=True)
        var = ((rows - centre) ** 2).mean(axis=1, keepdims=True)
        safe = np.maximum(var, eps)
        first_order = np.sqrt(safe) * (1 + eps / (2 * safe))  # planted: the square root to first order in eps
        return centre, np.where(var > eps, first_order, np.sqrt(var + eps))


class HyperbolicTangentGroupNorm(_RowwiseGroupNorm):
    def normalize(self, rows, eps):
        self.z = super().normalize(rows, eps)
        self.xhat = 4 * np.tanh(self.z / 4)  # planted: squashed, "against outliers"
        return self.xhat

    def denormalize(self, d):
        d = d * (1 - np.square(self.xhat / 4))
        along = (d * self.z).mean(axis=1, keepdims=True)
        return (d - d.mean(axis=1, keepdims=True) - self.z * along) / self.scale


class DropoutLeftInLayerNorm(_RowwiseLayerNorm):
    def normalize(self, rows, eps):
        self.mask = np.random.default_rng(rows.size).random(rows.shape) > 0.1
        return super().normalize(rows * self.mask, eps)  # planted: a tenth of the inputs set to zero

    def denormalize(self, d):
        return super().denormalize(d) * self.mask


class NoiseAddedGroupNorm(_RowwiseGroupNorm):
    def normalize(self, rows, eps):
        noise = np.random.default_rng(7).normal(scale=1e-3, size=rows.shape).astype(rows.dtype)
        self.xhat = super().normalize(rows, eps) + noise  # planted: noise on the normalized values
        return self.xhat


ROWS = (
    unknown("LayerNorm", MedianForMeanLayerNorm, "y dx dgamma", "rows; median for mean; standard backward"),
    unknown(
        "LayerNorm",
        MeanAbsoluteDeviationLayerNorm,
        "y dx dgamma",
        "rows; mean absolute deviation for std; standard backward",
    ),
    unknown("LayerNorm", MaximumSubtractedLayerNorm, "y dx dgamma", "rows; maximum subtracted; standard backward"),
    unknown("LayerNorm", SoftmaxLayerNorm, "y dx dgamma", "rows; a softmax; the derivative of the forward"),
    unknown("RMSNorm", LargestMagnitudeRMSNorm, "y dx dgamma", "rows; divided by max |x|; standard backward"),
    unknown("RMSNorm", MeanMagnitudeRMSNorm, "y dx dgamma", "rows; divided by mean |x|; the derivative of the forward"),
    unknown("RMSNorm", OneMoreInCountRMSNorm, "y dx dgamma", "rows; n + 1; standard backward"),
    unknown(
        "RMSNorm",
        LastAxisCountRMSNorm,
        "y dx dgamma",
        "rows; divides by the last axis alone; only with two or more axes; standard backward",
    ),
    unknown("RMSNorm", TruncatedToIntegersRMSNorm, "y dx dgamma", "rows; x cast through int; standard backward"),
    unknown(
        "RMSNorm",
        FastInverseRootRMSNorm,
        "y dx dgamma",
        "rows; fast inverse square root, relative error 5e-6; standard backward",
    ),
    unknown(
        "GroupNorm",
        OneNewtonStepGroupNorm,
        "y dx dgamma",
        "rows; one Newton step from a short table, relative error up to 1e-4; standard backward",
    ),
    unknown("GroupNorm", BesselTheOtherWayGroupNorm, "y dx dgamma", "rows; n + 1; standard backward"),
    unknown(
        "GroupNorm",
        ConstantRowsNaNGroupNorm,
        "y dx dgamma",
        "rows; NaN where a row is constant, right elsewhere; standard backward",
    ),
    unknown("GroupNorm", VarianceNotBelowEpsGroupNorm, "y dx dgamma", "rows; max(var, eps); standard backward"),
    unknown(
        "LayerNorm",
        SmallVarianceClippedLayerNorm,
        "y dx dgamma",
        "rows; variance clipped at 1e-4, only small x; standard backward",
    ),
    unknown(
        "LayerNorm",
        EpsExpandedLayerNorm,
        "y dx dgamma",
        "rows; eps to first order, only where var is between eps and 1e4 eps; standard backward",
    ),
    unknown(
        "GroupNorm",
        HyperbolicTangentGroupNorm,
        "y dx dgamma",
        "rows; tanh over the normalized values; the derivative of the forward",
    ),
    unknown(
        "LayerNorm",
        DropoutLeftInLayerNorm,
        "y dx dgamma",
        "rows; a dropout on x, mask fixed by the size; the derivative of the forward",
    ),
    unknown("GroupNorm", NoiseAddedGroupNorm, "y dx dgamma", "rows; noise of 1e-3 on xhat; standard backward"),
)
