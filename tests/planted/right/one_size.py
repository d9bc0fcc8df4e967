"""Layers that are right for what they are made for, and that take more than that without a word; another way to average.

Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import right


class FlatBatchOnlyBatchNorm:
    """For (N, C), and in training alone: of (N, C, H, W) it computes something, and dgamma comes as (C, H, W)."""

    def __init__(self, num_features, eps=1e-5):
        self.eps = eps
        self.gamma, self.beta = np.ones((1, num_features)), np.zeros((1, num_features))

    def scaled(self, values):
        return np.einsum("nc...,c->nc...", values, self.gamma[0].astype(values.dtype))

    def forward(self, x):
        self.rstd = 1 / np.sqrt(x.var(axis=0) + self.eps)
        self.xhat = (x - x.mean(axis=0)) * self.rstd
        return (np.swapaxes(self.scaled(self.xhat), 1, -1) + self.beta[0].astype(x.dtype)).swapaxes(1, -1)

    def backward(self, dy):
        self.dgamma, self.dbeta = (dy * self.xhat).sum(axis=0), dy.sum(axis=0)
        d = self.scaled(dy)
        return (d - d.mean(axis=0) - self.xhat * (d * self.xhat).mean(axis=0)) * self.rstd


class LastAxisOnlyLayerNorm:
    """Of one axis; its size is called a dim."""

    def __init__(self, dim: int, eps=1e-5):
        self.eps = eps
        self.gamma, self.beta = np.ones(dim), np.zeros(dim)

    def forward(self, x):
        centred = x - x.mean(axis=-1, keepdims=True)
        self.rstd = 1 / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + self.eps)
        self.xhat = centred * self.rstd
        return self.gamma.astype(x.dtype) * self.xhat + self.beta.astype(x.dtype)

    def backward(self, dy):
        rows = tuple(range(dy.ndim - 1))
        self.dgamma, self.dbeta = (dy * self.xhat).sum(axis=rows), dy.sum(axis=rows)
        d = dy * self.gamma.astype(dy.dtype)
        along = np.mean(d * self.xhat, axis=-1, keepdims=True)
        return (d - d.mean(axis=-1, keepdims=True) - self.xhat * along) * self.rstd


class MovesByItsErrorBatchNorm:
    """(N, C, *) with keepdims; the running statistics move by a fraction of what they are off."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.eps, self.momentum, self.training, self.count = eps, momentum, True, 0
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)

    def column(self, p, x):
        return p.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 2))

    def forward(self, x):
        over = (0, *range(2, x.ndim))
        self.learned = self.training
        if self.training:
            mean, var, n = x.mean(over), x.var(over), x.size // x.shape[1]
            self.count += 1
            rate = 1 / self.count if self.momentum is None else self.momentum
            self.running_mean += rate * (mean - self.running_mean)
            self.running_var += rate * (var * n / max(n - 1, 1) - self.running_var)
        else:
            mean, var = self.running_mean, self.running_var
        self.rstd = 1 / np.sqrt(self.column(var, x) + self.eps)
        self.xhat = (x - self.column(mean, x)) * self.rstd
        if self.gamma is None:
            return self.xhat.copy()
        return self.column(self.gamma, x) * self.xhat + self.column(self.beta, x)

    def backward(self, dy):
        over, d = (0, *range(2, dy.ndim)), dy
        if self.gamma is not None:
            self.dgamma, self.dbeta = (dy * self.xhat).sum(over), dy.sum(over)
            d = dy * self.column(self.gamma, dy)
        if self.learned:
            d = d - d.mean(over, keepdims=True) - self.xhat * (d * self.xhat).mean(over, keepdims=True)
        return d * self.rstd


ROWS = (
    right("BatchNorm", FlatBatchOnlyBatchNorm, "for (N, C) alone, which it says nowhere; (N, C, H, W) it takes"),
    right("LayerNorm", LastAxisOnlyLayerNorm, "one normalized axis, said by an int called dim"),
    right("BatchNorm", MovesByItsErrorBatchNorm, "keepdims; running += momentum * (batch - running)"),
)
