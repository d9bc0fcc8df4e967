"""Right layers for channels-last samples, (N, ..., C): statistics as torch's for the transposed array.

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import numpy as np

from tests.planted.row import right


class ChannelsLastBatchNorm:
    """Any rank; everything of shape (C,) broadcasts by itself."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.eps, self.momentum, self.training, self.step = eps, momentum, True, 0
        self.dgamma = self.dbeta = None

    def forward(self, x):
        axes = tuple(range(x.ndim - 1))
        self.n = x.size // x.shape[-1] if self.training else 0
        if self.training:
            mean = x.mean(axes)
            var = ((x - mean) ** 2).mean(axes)
            self.step += 1
            a = self.momentum if self.momentum is not None else 1 / self.step
            corrected = var * (self.n / max(self.n - 1, 1))
            self.running_mean = ((1 - a) * self.running_mean + a * mean).astype(x.dtype)
            self.running_var = ((1 - a) * self.running_var + a * corrected).astype(x.dtype)
        else:
            mean, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        self.rstd = 1 / np.sqrt(var + self.eps)
        self.xhat = (x - mean) * self.rstd
        if self.gamma is None:
            return self.xhat.copy()
        return self.xhat * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)

    def backward(self, dy):
        axes = tuple(range(dy.ndim - 1))
        total, along = dy.sum(axes), (dy * self.xhat).sum(axes)
        scale = self.rstd
        if self.gamma is not None:
            self.dgamma, self.dbeta = along, total
            scale = scale * self.gamma.astype(dy.dtype)
        if not self.n:
            return scale * dy
        return scale * (dy - total / self.n - self.xhat * along / self.n)


class ChannelsLastGroupNorm:
    """Any rank; x as (N, positions, G, C/G)."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.G, self.C, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        t = x.reshape(x.shape[0], -1, self.G, self.C // self.G)
        t = t - t.mean((1, 3), keepdims=True)
        self.std = np.sqrt((t**2).mean((1, 3), keepdims=True) + self.eps)
        self.t = t / self.std
        y = self.t.reshape(x.shape).copy()
        if self.gamma is not None:
            y = y * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)
        return y

    def backward(self, dy):
        if self.gamma is not None:
            flat = dy.reshape(-1, self.C)
            self.dgamma = np.sum(flat * self.t.reshape(-1, self.C), axis=0)
            self.dbeta = np.sum(flat, axis=0)
            dy = dy * self.gamma.astype(dy.dtype)
        d = dy.reshape(self.t.shape)
        d = d - d.mean((1, 3), keepdims=True) - self.t * (d * self.t).mean((1, 3), keepdims=True)
        return (d / self.std).reshape(dy.shape)


class ChannelsLastImageInstanceNorm:
    """(N, H, W, C) only, gamma (1, 1, 1, C)."""

    def __init__(self, num_features, eps=1e-5, affine=False):
        shape = (1, 1, 1, num_features)
        self.gamma, self.beta = (np.ones(shape), np.zeros(shape)) if affine else (None, None)
        self.eps, self.dgamma, self.dbeta = eps, None, None

    def forward(self, x):
        if x.ndim != 4:
            raise ValueError("expected (N, H, W, C)")
        mean = x.mean(axis=(1, 2), keepdims=True)
        var = ((x - mean) ** 2).mean(axis=(1, 2), keepdims=True)
        self.inv = (var + self.eps) ** -0.5
        self.out = (x - mean) * self.inv
        return (
            self.out.copy() if self.gamma is None else self.out * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)
        )

    def backward(self, dy):
        _N, H, W, _C = dy.shape
        d = dy
        if self.gamma is not None:
            self.dgamma = (dy * self.out).sum(axis=(0, 1, 2), keepdims=True)
            self.dbeta = dy.sum(axis=(0, 1, 2), keepdims=True)
            d = dy * self.gamma.astype(dy.dtype)
        s = d.sum(axis=(1, 2), keepdims=True)
        p = (d * self.out).sum(axis=(1, 2), keepdims=True)
        return self.inv * (d - (s + self.out * p) / (H * W))


class ChannelsLastImageBatchNorm:
    """(N, H, W, C) only; staged, backward gives a tuple."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        self.gamma, self.beta = np.ones(num_features), np.zeros(num_features)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.eps, self.momentum, self.training, self.seen = eps, momentum, True, 0

    def forward(self, x):
        N, H, W, C = x.shape
        rows = x.reshape(N * H * W, C)
        m = len(rows)
        if self.training:
            mu = rows.mean(axis=0)
            var = np.mean((rows - mu) ** 2, axis=0)
            self.seen += 1
            keep = 1 - (1 / self.seen if self.momentum is None else self.momentum)
            self.running_mean = (keep * self.running_mean + (1 - keep) * mu).astype(x.dtype)
            self.running_var = (keep * self.running_var + (1 - keep) * var * m / max(m - 1, 1)).astype(x.dtype)
        else:
            mu, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        xmu, std = rows - mu, np.sqrt(var + self.eps)
        gamma = self.gamma.astype(x.dtype)
        self.cache = self.training, xmu, std, gamma
        return (gamma * xmu / std + self.beta.astype(x.dtype)).reshape(x.shape)

    def backward(self, dy):
        batch, xmu, std, gamma = self.cache
        d = dy.reshape(xmu.shape)
        dbeta, dgamma = d.sum(axis=0), (d * xmu / std).sum(axis=0)
        dxhat = d * gamma
        dx = dxhat / std
        if batch:
            dvar = (dxhat * xmu).sum(axis=0) * -0.5 * std**-3
            dmu = -(dxhat / std).sum(axis=0)  # the deviations sum to nothing
            dx = dx + (2 * dvar * xmu + dmu) / len(d)
        return dx.reshape(dy.shape), dgamma, dbeta


ROWS = (
    right("BatchNorm", ChannelsLastBatchNorm, "channels last, any rank; right", channels_last=True),
    right("GroupNorm", ChannelsLastGroupNorm, "channels last, (N, positions, G, C/G); right", channels_last=True),
    right(
        "InstanceNorm",
        ChannelsLastImageInstanceNorm,
        "channels last, gamma (1, 1, 1, C); right; 4D only",
        channels_last=True,
    ),
    right(
        "BatchNorm",
        ChannelsLastImageBatchNorm,
        "channels last, staged, backward gives a tuple; right; 4D only",
        channels_last=True,
    ),
)
