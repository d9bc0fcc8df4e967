"""Right layers whose backward is a line in x per row, dx = a * dy + b * x + c, as compiled kernels have it.

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import math

import numpy as np

from tests.planted.row import right


class LinearInXGroupNorm:
    """Keeps x, mean and rstd only; the sums ds = sum(g*dy*x) and db = sum(g*dy) make everything else."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.G, self.C, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones((1, num_channels)) if affine else None
        self.beta = np.zeros((1, num_channels)) if affine else None
        self.dgamma = self.dbeta = None

    def per_group(self, a):
        return a.reshape(a.shape[0], self.G, -1)

    def forward(self, x):
        self.x = x.reshape(x.shape[0], self.C, -1).copy()
        group = self.per_group(self.x)
        self.mean = group.mean(axis=2)
        self.rstd = 1 / np.sqrt(((group - self.mean[:, :, None]) ** 2).mean(axis=2) + self.eps)
        width = self.C // self.G
        mean, rstd = (np.repeat(s, width, axis=1)[:, :, None] for s in (self.mean, self.rstd))
        y = (self.x - mean) * rstd
        if self.gamma is not None:
            y = y * self.gamma.astype(x.dtype)[:, :, None] + self.beta.astype(x.dtype)[:, :, None]
        return y.reshape(x.shape)

    def backward(self, dy):
        flat = dy.reshape(self.x.shape)
        width = self.C // self.G
        ds, db = (flat * self.x).sum(axis=2), flat.sum(axis=2)  # (N, C)
        if self.gamma is not None:
            mean, rstd = np.repeat(self.mean, width, axis=1), np.repeat(self.rstd, width, axis=1)
            self.dgamma = ((ds - db * mean) * rstd).sum(axis=0, keepdims=True)
            self.dbeta = db.sum(axis=0, keepdims=True)
        gamma = np.ones((1, self.C), dy.dtype) if self.gamma is None else self.gamma.astype(dy.dtype)
        s = 1.0 / (width * self.x.shape[2])
        group_ds, group_db = self.per_group(ds * gamma).sum(axis=2), self.per_group(db * gamma).sum(axis=2)
        b = (group_db * self.mean - group_ds) * self.rstd**3 * s
        c = -b * self.mean - group_db * self.rstd * s
        a = gamma * np.repeat(self.rstd, width, axis=1)
        b, c = np.repeat(b, width, axis=1), np.repeat(c, width, axis=1)
        return (a[:, :, None] * flat + b[:, :, None] * self.x + c[:, :, None]).reshape(dy.shape)


class LinearInXInstanceNorm(LinearInXGroupNorm):
    def __init__(self, num_features, eps=1e-5, affine=False):
        super().__init__(num_features, num_features, eps, affine)


class LinearInXLayerNorm:
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self.eps, self.affine, self.bias = eps, elementwise_affine, elementwise_affine and bias
        self.gamma = np.ones(self.shape) if self.affine else None
        self.beta = np.zeros(self.shape) if self.bias else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        D = math.prod(self.shape)
        X = np.array(x).reshape(x.size // D, D)
        mean = X.mean(1)
        var = np.mean((X - mean[:, None]) ** 2, 1)
        rstd = 1 / np.sqrt(var + self.eps)
        self.saved = X, mean, rstd
        # y = x * scale + shift, per row
        y = X * rstd[:, None] - (mean * rstd)[:, None]
        if self.affine:
            y = y * self.gamma.astype(x.dtype).reshape(1, D)
        if self.bias:
            y = y + self.beta.astype(x.dtype).reshape(1, D)
        return y.reshape(x.shape)

    def backward(self, dy):
        X, mean, rstd = self.saved
        D = X.shape[1]
        dY = dy.reshape(X.shape)
        weighted = dY * self.gamma.astype(dy.dtype).reshape(1, D) if self.affine else dY
        ds, db = (weighted * X).sum(1), weighted.sum(1)
        b = (db * mean - ds) * rstd * rstd * rstd / D
        c = -b * mean - db * rstd / D
        if self.affine:
            self.dgamma = (dY * (X - mean[:, None]) * rstd[:, None]).sum(0).reshape(self.shape)
        if self.bias:
            self.dbeta = dY.sum(0).reshape(self.shape)
        return (rstd[:, None] * weighted + b[:, None] * X + c[:, None]).reshape(dy.shape)


class LinearInXRMSNorm:
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self.eps = eps
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.dgamma = None

    def forward(self, x):
        self.x = x.copy().reshape(-1, math.prod(self.shape))
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        self.inv = 1 / np.sqrt((self.x**2).mean(axis=1) + eps)
        y = self.x * self.inv[:, None]
        if self.gamma is not None:
            y *= self.gamma.astype(x.dtype).ravel()
        return y.reshape(x.shape)

    def backward(self, dy):
        g = dy.reshape(self.x.shape)
        if self.gamma is not None:
            self.dgamma = np.matmul(self.inv, g * self.x).reshape(self.shape)
            g = g * self.gamma.astype(dy.dtype).ravel()
        b = -(self.inv**3) * (g * self.x).mean(axis=1)
        return (self.inv[:, None] * g + b[:, None] * self.x).reshape(dy.shape)


class LinearInXBatchNorm:
    """A kernel's signature: training or not decides which (mean, invstd) is saved and which line dx is."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.eps, self.momentum = eps, momentum
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        keeps = track_running_stats
        self.running_mean, self.running_var = (np.zeros(num_features), np.ones(num_features)) if keeps else (None, None)
        self.training, self.batches = True, 0
        self.dgamma = self.dbeta = None

    def forward(self, x):
        x = np.moveaxis(x, 1, 0)
        flat = x.reshape(x.shape[0], -1).copy()
        n = flat.shape[1]
        self.batch_statistics = self.training or self.running_mean is None
        if self.batch_statistics:
            mean = flat.mean(1)
            var = np.square(flat - mean[:, None]).mean(1)
            if self.running_mean is not None:
                self.batches += 1
                factor = self.momentum if self.momentum is not None else 1.0 / self.batches
                new_mean = self.running_mean * (1 - factor) + mean * factor
                new_var = self.running_var * (1 - factor) + var * n / max(n - 1, 1) * factor
                self.running_mean, self.running_var = new_mean.astype(x.dtype), new_var.astype(x.dtype)
        else:
            mean, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        self.flat, self.mean, self.invstd = flat, mean, 1 / np.sqrt(var + self.eps)
        alpha, shift = self.invstd, np.zeros_like(mean)
        if self.gamma is not None:
            alpha, shift = self.invstd * self.gamma.astype(x.dtype), self.beta.astype(x.dtype)
        y = (flat - mean[:, None]) * alpha[:, None] + shift[:, None]
        return np.ascontiguousarray(np.moveaxis(y.reshape(x.shape), 0, 1))

    def backward(self, dy):
        dy = np.moveaxis(dy, 1, 0)
        grad = dy.reshape(self.flat.shape)
        total = grad.sum(1)
        dot = (grad * (self.flat - self.mean[:, None])).sum(1)
        a = self.invstd
        if self.gamma is not None:
            self.dgamma, self.dbeta = dot * self.invstd, total
            a = a * self.gamma.astype(dy.dtype)
        dx = a[:, None] * grad
        if self.batch_statistics:
            n = grad.shape[1]
            b = -a * dot * self.invstd**2 / n
            c = -b * self.mean - a * total / n
            dx = dx + b[:, None] * self.flat + c[:, None]
        return np.moveaxis(dx.reshape(dy.shape), 0, 1)


ROWS = (
    right("GroupNorm", LinearInXGroupNorm, "dx = a dy + b x + c from ds and db; gamma (1, C); right"),
    right("InstanceNorm", LinearInXInstanceNorm, "dx = a dy + b x + c, a group per channel; right"),
    right("LayerNorm", LinearInXLayerNorm, "y = x scale + shift, dx = a dy + b x + c; right"),
    right("RMSNorm", LinearInXRMSNorm, "dx = a dy + b x; right"),
    right("BatchNorm", LinearInXBatchNorm, "channels first, dx = a dy + b x + c; right, in eval too"),
)
