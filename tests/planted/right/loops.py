"""Right layers in plain loops, over samples, channels and single numbers.

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

from itertools import product
from math import prod, sqrt

import numpy as np

from tests.planted.row import right


class LoopGroupNorm:
    """Loops over samples and groups, statistics kept in lists of lists."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def slices(self):
        step = self.num_channels // self.num_groups
        return [slice(start, start + step) for start in range(0, self.num_channels, step)]

    def forward(self, x):
        y = np.zeros_like(x, order="C")
        self.xhat = np.zeros_like(y)
        self.std = []
        for i, sample in enumerate(x):
            self.std.append([])
            for s in self.slices():
                mean = sample[s].mean()
                std = np.sqrt(((sample[s] - mean) ** 2).mean() + self.eps)
                self.xhat[i, s] = (sample[s] - mean) / std
                self.std[-1].append(std)
        for c in range(self.num_channels):
            y[:, c] = self.xhat[:, c]
            if self.gamma is not None:
                y[:, c] = y[:, c] * self.gamma[c] + self.beta[c]
        return y

    def backward(self, dy):
        dx = np.zeros_like(dy, order="C")
        if self.gamma is not None:
            self.dgamma = np.zeros(self.num_channels, dy.dtype)
            self.dbeta = np.zeros(self.num_channels, dy.dtype)
        for i in range(len(dy)):
            for g, s in enumerate(self.slices()):
                d = np.array(dy[i, s])
                h = self.xhat[i, s]
                if self.gamma is not None:
                    for k, c in enumerate(range(s.start, s.stop)):
                        self.dgamma[c] += (d[k] * h[k]).sum()
                        self.dbeta[c] += d[k].sum()
                        d[k] *= self.gamma[c]
                dx[i, s] = (d - d.mean() - h * (d * h).mean()) / self.std[i][g]
        return dx


class LoopLayerNorm:
    """Loops over every sample position; a row is whatever the index leaves."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.gamma = np.ones(self.normalized_shape) if elementwise_affine else None
        self.beta = np.zeros(self.normalized_shape) if elementwise_affine and bias else None
        self.dgamma = self.dbeta = None

    def where(self, x):
        return product(*(range(k) for k in x.shape[: x.ndim - len(self.normalized_shape)]))

    def forward(self, x):
        y = np.empty(x.shape, x.dtype)
        self.memory = {}
        for at in self.where(x):
            row = x[at]
            centred = row - row.mean()
            std = np.sqrt(np.mean(centred**2) + self.eps)
            self.memory[at] = centred, std
            out = centred / std
            if self.gamma is not None:
                out = self.gamma * out
            if self.beta is not None:
                out = out + self.beta
            y[at] = out
        return y

    def backward(self, dy):
        n = prod(self.normalized_shape)
        dx = np.empty(dy.shape, dy.dtype)
        dgamma, dbeta = np.zeros(self.normalized_shape, dy.dtype), np.zeros(self.normalized_shape, dy.dtype)
        for at in self.where(dy):
            centred, std = self.memory[at]
            dbeta += dy[at]
            dgamma += dy[at] * centred / std
            d = dy[at] if self.gamma is None else dy[at] * self.gamma
            dx[at] = d / std - d.sum() / (n * std) - centred * (d * centred).sum() / (n * std**3)
        self.dgamma = None if self.gamma is None else dgamma
        self.dbeta = None if self.beta is None else dbeta
        return dx


class LoopScalarRMSNorm:
    """One number at a time, sums in Python floats."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.dgamma = None

    def forward(self, x):
        eps = float(np.finfo(x.dtype).eps) if self.eps is None else self.eps
        n = prod(self.shape)
        weights = [1.0] * n if self.gamma is None else [float(w) for w in self.gamma.ravel()]
        self.weights, self.rows, self.inverse = weights, x.reshape(-1, n).tolist(), []
        out = []
        for row in self.rows:
            total = 0.0
            for v in row:
                total += v * v
            r = 1.0 / sqrt(total / n + eps)
            self.inverse.append(r)
            out.append([v * r * w for v, w in zip(row, weights, strict=True)])
        return np.array(out, dtype=x.dtype).reshape(x.shape)

    def backward(self, dy):
        n = len(self.weights)
        dweights = [0.0] * n
        out = []
        for row, r, grad in zip(self.rows, self.inverse, dy.reshape(-1, n).tolist(), strict=True):
            dot = 0.0
            for j in range(n):
                dweights[j] += grad[j] * row[j] * r
                dot += grad[j] * self.weights[j] * row[j]
            out.append([r * (grad[j] * self.weights[j] - row[j] * r * r * dot / n) for j in range(n)])
        if self.gamma is not None:
            self.dgamma = np.array(dweights, dtype=dy.dtype).reshape(self.shape)
        return np.array(out, dtype=dy.dtype).reshape(dy.shape)


class LoopBatchNorm:
    """A loop over channels; every channel is an object with its own little state."""

    class Channel:
        def __init__(self):
            self.mean, self.var = 0.0, 1.0

        def observe(self, v, rate):
            n = v.size
            self.mean = (1 - rate) * self.mean + rate * v.mean()
            self.var = (1 - rate) * self.var + rate * v.var() * n / max(n - 1, 1)

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.channels = [self.Channel() for _ in range(num_features)]
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.eps, self.momentum, self.training, self.step, self.dtype = eps, momentum, True, 0, np.float64
        self.dgamma = self.dbeta = None

    @property
    def running_mean(self):
        return np.array([c.mean for c in self.channels], self.dtype)

    @running_mean.setter
    def running_mean(self, values):
        for c, v in zip(self.channels, values, strict=True):
            c.mean = v

    @property
    def running_var(self):
        return np.array([c.var for c in self.channels], self.dtype)

    @running_var.setter
    def running_var(self, values):
        for c, v in zip(self.channels, values, strict=True):
            c.var = v

    def forward(self, x):
        self.dtype, self.trained = x.dtype, self.training
        self.step += self.training
        rate = 1 / max(self.step, 1) if self.momentum is None else self.momentum
        y, self.xhat, self.std = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype), []
        for c, channel in enumerate(self.channels):
            v = x[:, c]
            mean, var = (v.mean(), v.var()) if self.training else (channel.mean, channel.var)
            if self.training:
                channel.observe(v, rate)
            self.std.append(np.sqrt(var + self.eps))
            self.xhat[:, c] = (v - mean) / self.std[c]
            y[:, c] = self.xhat[:, c] if self.gamma is None else self.gamma[c] * self.xhat[:, c] + self.beta[c]
        return y

    def backward(self, dy):
        dx = np.empty(dy.shape, dy.dtype)
        dgamma, dbeta = [], []
        for c in range(len(self.channels)):
            d, h = dy[:, c], self.xhat[:, c]
            dgamma.append((d * h).sum())
            dbeta.append(d.sum())
            if self.trained:
                d = d - dbeta[c] / d.size - h * dgamma[c] / d.size
            dx[:, c] = d / self.std[c] if self.gamma is None else d / self.std[c] * self.gamma[c]
        if self.gamma is not None:
            self.dgamma, self.dbeta = np.array(dgamma), np.array(dbeta)
        return dx


ROWS = (
    right("GroupNorm", LoopGroupNorm, "loops over samples, groups, channels; right"),
    right("LayerNorm", LoopLayerNorm, "loop over positions, a dictionary as cache; right"),
    right("RMSNorm", LoopScalarRMSNorm, "single numbers in Python floats, lists as cache; right"),
    right("BatchNorm", LoopBatchNorm, "an object a channel, running statistics as properties; right"),
)
