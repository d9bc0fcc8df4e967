"""GroupNorm, InstanceNorm and BatchNorm with a right forward and a gradient wrong in a way of its own.

No dictionary of mistakes holds these. Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import unknown


class _FoldGroupNorm:
    """A dictionary as cache, arrays as (N, G, n); `finish` turns its entries into dx."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def fold(self, a):
        return a.reshape(a.shape[0], self.num_groups, -1)

    def forward(self, x):
        folded = self.fold(x)
        centred = folded - folded.mean(axis=-1, keepdims=True)
        rstd = (np.mean(centred * centred, axis=-1, keepdims=True) + self.eps) ** -0.5
        self.cache = {"xhat": centred * rstd, "rstd": rstd, "shape": x.shape}
        y = (centred * rstd).reshape(x.shape)
        if self.gamma is None:
            return y
        side = (1, -1, *(1 for _ in x.shape[2:]))
        return y * self.gamma.astype(x.dtype).reshape(side) + self.beta.astype(x.dtype).reshape(side)

    def backward(self, dy):
        d = dy.reshape(dy.shape[0], self.num_channels, -1)
        if self.gamma is not None:
            xhat = self.cache["xhat"].reshape(d.shape)
            self.dgamma, self.dbeta = np.einsum("ncs,ncs->c", d, xhat), np.einsum("ncs->c", d)
            d = np.einsum("ncs,c->ncs", d, self.gamma.astype(dy.dtype))
        return self.finish(self.fold(d), **self.cache)

    def finish(self, d, xhat, rstd, shape):
        along = np.mean(d * xhat, axis=-1, keepdims=True)
        return (rstd * (d - d.mean(axis=-1, keepdims=True) - xhat * along)).reshape(shape)


class _FoldInstanceNorm(_FoldGroupNorm):
    def __init__(self, num_features, eps=1e-5, affine=False):
        super().__init__(num_features, num_features, eps, affine)


class _TableBatchNorm:
    """Samples as a table of positions by channels, taken apart and put together by `table` and `untable`."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.eps, self.momentum, self.training, self.updates = eps, momentum, True, 0
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.dgamma = self.dbeta = None

    def table(self, a):
        return a.reshape(a.shape[0], a.shape[1], -1).transpose(0, 2, 1).reshape(-1, a.shape[1])

    def untable(self, rows, shape):
        return np.ascontiguousarray(rows.reshape(shape[0], -1, shape[1]).transpose(0, 2, 1)).reshape(shape)

    def forward(self, x):
        rows = self.table(x)
        self.was_training = self.training
        if self.training:
            m = rows.shape[0]
            mu = rows.mean(axis=0)
            var = np.mean((rows - mu) ** 2, axis=0)
            self.updates += 1
            a = self.momentum if self.momentum is not None else 1 / self.updates
            self.running_mean = (self.running_mean * (1 - a) + mu * a).astype(x.dtype)
            self.running_var = (self.running_var * (1 - a) + var * (a * m / max(m - 1, 1))).astype(x.dtype)
        else:
            mu, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        self.sigma = np.sqrt(var + self.eps)
        self.xhat = (rows - mu) / self.sigma
        out = self.xhat.copy()
        if self.gamma is not None:
            out = out * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)
        return self.untable(out, x.shape)

    def backward(self, dy):
        d = self.table(dy)
        if self.gamma is not None:
            self.dgamma, self.dbeta = self.parameters(d, self.xhat)
            d = d * self.gamma.astype(dy.dtype)
        return self.untable(self.inputs(d, self.xhat), dy.shape)

    def parameters(self, d, xhat):
        return (d * xhat).sum(axis=0), d.sum(axis=0)

    def inputs(self, d, xhat):
        if not self.was_training:
            return d / self.sigma
        return (d - d.mean(axis=0) - xhat * (d * xhat).mean(axis=0)) / self.sigma


class OnePlusEpsGroupNorm(_FoldGroupNorm):
    def finish(self, d, xhat, rstd, shape):
        return super().finish(d, xhat, rstd, shape) * (1 + self.eps)  # planted: 1 + eps


class MillionthOffGroupNorm(_FoldGroupNorm):
    def finish(self, d, xhat, rstd, shape):
        count = 1.000001 * d.shape[-1]  # planted: a constant off by 1e-6
        along = (d * xhat).sum(axis=-1, keepdims=True) / count
        return (rstd * (d - d.mean(axis=-1, keepdims=True) - xhat * along)).reshape(shape)


class NextGroupsScaleGroupNorm(_FoldGroupNorm):
    def finish(self, d, xhat, rstd, shape):
        rstd = np.roll(rstd, -1, axis=1)  # planted: the next group's rstd; right with one group
        return super().finish(d, xhat, rstd, shape)


class GradientNormClippedGroupNorm(_FoldGroupNorm):
    def finish(self, d, xhat, rstd, shape):
        dx = super().finish(d, xhat, rstd, shape)
        return np.clip(dx, -0.5, 0.5)  # planted: clipped


class LastChannelForgottenGroupNorm(_FoldGroupNorm):
    def finish(self, d, xhat, rstd, shape):
        dx = super().finish(d, xhat, rstd, shape)
        if shape[1] % 2:
            dx[:, -1] = 0  # planted: two channels at a time; an odd last one has no gradient
        return dx


class BorderMaskedInstanceNorm(_FoldInstanceNorm):
    def finish(self, d, xhat, rstd, shape):
        dx = super().finish(d, xhat, rstd, shape)
        if len(shape) == 4 and shape[3] > 1:
            dx[..., -1] *= 2  # planted: the last column is written twice; W > 1 and 4D only
        return dx


class TransposedImageInstanceNorm(_FoldInstanceNorm):
    def finish(self, d, xhat, rstd, shape):
        dx = super().finish(d, xhat, rstd, shape)
        if len(shape) == 4 and shape[2] != shape[3]:
            return dx.reshape(*shape[:2], shape[3], shape[2]).swapaxes(2, 3)  # planted: H and W mixed up
        return dx


class VolumeProjectionInstanceNorm(_FoldInstanceNorm):
    def finish(self, d, xhat, rstd, shape):
        n = d.shape[-1] if len(shape) < 5 else d.shape[-1] // shape[2]  # planted: 5D counts a single slice
        along = (d * xhat).sum(axis=-1, keepdims=True) / n
        return (rstd * (d - d.mean(axis=-1, keepdims=True) - xhat * along)).reshape(shape)


class RowsShuffledBatchNorm(_TableBatchNorm):
    def inputs(self, d, xhat):
        return np.roll(super().inputs(d, xhat), 1, axis=0)  # planted: every row gets its neighbour's gradient


class NoisyGradientBatchNorm(_TableBatchNorm):
    def inputs(self, d, xhat):
        dx = super().inputs(d, xhat)
        noise = np.random.default_rng(11).standard_normal(dx.shape).astype(dx.dtype)
        return dx + 1e-4 * noise  # planted: gradient noise


class LastSampleMissingBatchNorm(_TableBatchNorm):
    def parameters(self, d, xhat):
        head = d[: len(d) - 1]  # planted: the last position of the last sample
        return (head * xhat[: len(head)]).sum(axis=0), d.sum(axis=0)


class MeansOfHalfTheBatchBatchNorm(_TableBatchNorm):
    def inputs(self, d, xhat):
        if not self.was_training:
            return d / self.sigma
        half = slice(0, (len(d) + 1) // 2)  # planted: both means over the first half of the positions
        return (d - d[half].mean(axis=0) - xhat * (d[half] * xhat[half]).mean(axis=0)) / self.sigma


ROWS = (
    unknown("GroupNorm", OnePlusEpsGroupNorm, "dx", "folded; dx times 1 + eps"),
    unknown("GroupNorm", MillionthOffGroupNorm, "dx", "folded; a relative error of 1e-6 in the projection term"),
    unknown("GroupNorm", NextGroupsScaleGroupNorm, "dx", "folded; the next group's rstd; more than one group"),
    unknown("GroupNorm", GradientNormClippedGroupNorm, "dx", "folded; dx clipped at 0.5"),
    unknown("GroupNorm", LastChannelForgottenGroupNorm, "dx", "folded; C odd only"),
    unknown("InstanceNorm", BorderMaskedInstanceNorm, "dx", "folded; last column doubled; 4D and W > 1 only"),
    unknown("InstanceNorm", TransposedImageInstanceNorm, "dx", "folded; axes mixed; 4D with H != W only"),
    unknown("InstanceNorm", VolumeProjectionInstanceNorm, "dx", "folded; projection count without depth; 5D only"),
    unknown("BatchNorm", RowsShuffledBatchNorm, "dx", "table; dx rows rolled by one, in eval too"),
    unknown("BatchNorm", NoisyGradientBatchNorm, "dx", "table; noise of 1e-4 on dx, in eval too"),
    unknown("BatchNorm", LastSampleMissingBatchNorm, "dgamma", "table; the last row is not in dgamma"),
    unknown("BatchNorm", MeansOfHalfTheBatchBatchNorm, "dx", "table; gradient means over half the rows"),
)
