"""Layers wrong under a condition only: batch 1, N == C, a second shape, a rank, H != W, channels per group.

No dictionary of mistakes holds these. Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import unknown


class _AxesGroupNorm:
    """Works on (N, G, C/G, *) with keepdims everywhere; InstanceNorm is a group a channel."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def grouped(self, a):
        return a.reshape(a.shape[0], self.num_groups, self.num_channels // self.num_groups, *a.shape[2:])

    def channel_axis(self, x):
        return 1

    def broadcast(self, p, x):
        shape = [1] * x.ndim
        shape[self.channel_axis(x)] = self.num_channels
        return p.reshape(shape).astype(x.dtype)

    def moments(self, t):
        axes = tuple(range(2, t.ndim))
        mean = t.mean(axis=axes, keepdims=True)
        return mean, ((t - mean) ** 2).mean(axis=axes, keepdims=True)

    def gradient_means(self, d, xhat):
        axes = tuple(range(2, d.ndim))
        return d.mean(axis=axes, keepdims=True), (d * xhat).mean(axis=axes, keepdims=True)

    def forward(self, x):
        t = self.grouped(x)
        mean, var = self.moments(t)
        self.std = np.sqrt(var + self.eps)
        self.xhat = (t - mean) / self.std
        y = self.xhat.reshape(x.shape).copy()
        if self.gamma is not None:
            y = y * self.broadcast(self.gamma, x) + self.broadcast(self.beta, x)
        return y

    def backward(self, dy):
        d = dy
        if self.gamma is not None:
            axes = tuple(i for i in range(dy.ndim) if i != self.channel_axis(dy))
            self.dgamma = (dy * self.xhat.reshape(dy.shape)).sum(axis=axes)
            self.dbeta = dy.sum(axis=axes)
            d = dy * self.broadcast(self.gamma, dy)
        d = self.grouped(d)
        first, second = self.gradient_means(d, self.xhat)
        return ((d - first - self.xhat * second) / self.std).reshape(dy.shape)


class _AxesInstanceNorm(_AxesGroupNorm):
    def __init__(self, num_features, eps=1e-5, affine=False):
        super().__init__(num_features, num_features, eps, affine)


class _AxesBatchNorm:
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.num_features, self.eps, self.momentum, self.training, self.t = (
            num_features,
            eps,
            momentum,
            True,
            0,
        )
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.dgamma = self.dbeta = None

    def column(self, p, x):
        return np.asarray(p, x.dtype).reshape([1, -1] + [1] * (x.ndim - 2))

    def count(self, x):
        return x.size // x.shape[1]

    def backward_count(self, dy):
        return self.count(dy)

    def forward(self, x):
        axes = (0, *range(2, x.ndim))
        self.live = self.training
        if self.live:
            n = self.count(x)
            mean = x.sum(axis=axes, keepdims=True) / n
            var = ((x - mean) ** 2).sum(axis=axes, keepdims=True) / n
            self.t += 1
            a = 1 / self.t if self.momentum is None else self.momentum
            self.running_mean = ((1 - a) * self.running_mean + a * mean.ravel()).astype(x.dtype)
            corrected = var.ravel() * (n / max(n - 1, 1))
            self.running_var = ((1 - a) * self.running_var + a * corrected).astype(x.dtype)
        else:
            mean, var = self.column(self.running_mean, x), self.column(self.running_var, x)
        self.std = np.sqrt(var + self.eps)
        self.xhat = (x - mean) / self.std
        if self.gamma is None:
            return self.xhat.copy()
        return self.xhat * self.column(self.gamma, x) + self.column(self.beta, x)

    def backward(self, dy):
        axes = (0, *range(2, dy.ndim))
        d = dy
        if self.gamma is not None:
            self.dgamma, self.dbeta = (dy * self.xhat).sum(axis=axes), dy.sum(axis=axes)
            d = dy * self.column(self.gamma, dy)
        if self.live:
            n = self.backward_count(dy)
            total = d.sum(axis=axes, keepdims=True)
            along = (d * self.xhat).sum(axis=axes, keepdims=True)
            d = d - total / n - self.xhat * along / n
        return d / self.std


class SingleSampleAsOneGroupNorm(_AxesGroupNorm):
    def moments(self, t):
        axes = tuple(range(2, t.ndim))
        if len(t) == 1:
            axes = (1, *axes)  # planted: the short cut for one sample normalizes all channels together
        mean = t.mean(axis=axes, keepdims=True)
        return mean, ((t - mean) ** 2).mean(axis=axes, keepdims=True)


class ChannelAxisFoundBySizeGroupNorm(_AxesGroupNorm):
    def channel_axis(self, x):
        return x.shape.index(self.num_channels)  # planted: finds the batch axis when N == C


class VarianceWithinChannelsGroupNorm(_AxesGroupNorm):
    def moments(self, t):
        axes = tuple(range(2, t.ndim))
        mean = t.mean(axis=axes, keepdims=True)
        own = t.mean(axis=axes[1:], keepdims=True) if t.ndim > 3 else mean
        return mean, ((t - own) ** 2).mean(axis=axes, keepdims=True)  # planted: about the channel's own mean


class AveragedGammaInMeansGroupNorm(_AxesGroupNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.gamma is None:
            return dx
        own = self.grouped(dy * self.broadcast(self.gamma, dy))
        shared = self.gamma.reshape(self.num_groups, -1).mean(axis=1).astype(dy.dtype)
        rough = self.grouped(dy) * shared.reshape(1, -1, *[1] * (own.ndim - 2))
        first, second = self.gradient_means(rough, self.xhat)  # planted: the group's average gamma in both means
        return ((own - first - self.xhat * second) / self.std).reshape(dy.shape)


class EveryOtherColumnInstanceNorm(_AxesInstanceNorm):
    def moments(self, t):
        t = t[..., ::2]  # planted: a stride left in; nothing to see when the last axis has one entry
        axes = tuple(range(2, t.ndim))
        mean = t.mean(axis=axes, keepdims=True)
        return mean, ((t - mean) ** 2).mean(axis=axes, keepdims=True)


class HeightSquaredInstanceNorm(_AxesInstanceNorm):
    def gradient_means(self, d, xhat):
        axes = tuple(range(2, d.ndim))
        n = d[0, 0].size
        if d.ndim == 5:
            n = d.shape[3] * d.shape[3]  # planted: H * H, right for square images
        total, along = d.sum(axis=axes, keepdims=True), (d * xhat).sum(axis=axes, keepdims=True)
        return total / n, along / n


class HeightOnlyInMeanTermInstanceNorm(_AxesInstanceNorm):
    def gradient_means(self, d, xhat):
        axes = tuple(range(2, d.ndim))
        height = d.shape[3]
        first = d.sum(axis=axes, keepdims=True) / height  # planted: divided by H, not H * W; 3D stays right
        return first, (d * xhat).mean(axis=axes, keepdims=True)


class FirstShapeRememberedBatchNorm(_AxesBatchNorm):
    def count(self, x):
        if not hasattr(self, "n"):
            self.n = x.size // x.shape[1]  # planted: only ever set by the first training call
        return self.n


class DepthForgottenBatchNorm(_AxesBatchNorm):
    def backward_count(self, dy):
        if dy.ndim > 3:
            return dy.shape[0] * dy.shape[-1] * dy.shape[-2]  # planted: 5D has a depth too
        return self.count(dy)


class EpsAtMostHundredthBatchNorm(_AxesBatchNorm):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        super().__init__(num_features, min(eps, 0.01), momentum, affine)  # planted: a large eps is cut


ROWS = (
    unknown(
        "GroupNorm", SingleSampleAsOneGroupNorm, "y dx dgamma", "keepdims; batch 1 only; standard backward, own axes"
    ),
    unknown(
        "GroupNorm", ChannelAxisFoundBySizeGroupNorm, "y dx dgamma dbeta", "N == C only; the derivative of the forward"
    ),
    unknown(
        "GroupNorm", VarianceWithinChannelsGroupNorm, "y dx dgamma", "more than one channel a group; standard backward"
    ),
    unknown("GroupNorm", AveragedGammaInMeansGroupNorm, "dx", "only when gamma varies in a group"),
    unknown("InstanceNorm", EveryOtherColumnInstanceNorm, "y dx dgamma", "last axis longer than 1; standard backward"),
    unknown("InstanceNorm", HeightSquaredInstanceNorm, "dx", "both gradient means over H * H; 4D and H != W only"),
    unknown(
        "InstanceNorm",
        HeightOnlyInMeanTermInstanceNorm,
        "dx",
        "mean term divided by the first spatial axis only; 4D and 5D",
    ),
    unknown(
        "BatchNorm",
        FirstShapeRememberedBatchNorm,
        "y dx dgamma running_mean running_var",
        "a later batch of another size only; standard backward",
    ),
    unknown("BatchNorm", DepthForgottenBatchNorm, "dx", "both gradient means miss the depth; 5D only"),
    unknown(
        "BatchNorm", EpsAtMostHundredthBatchNorm, "y dx dgamma", "eps above 0.01 only; the derivative of the forward"
    ),
)
