"""Right layers that take less than torch's: one rank, one dtype, a short signature, no parameters.

What they do not take they refuse. Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import numpy as np

from tests.planted.row import right


class OnlyFeaturesBatchNorm:
    """BatchNorm(num_features) and nothing more: eps and momentum are torch's defaults, written in."""

    def __init__(self, num_features):
        self.gamma, self.beta = np.ones((1, num_features)), np.zeros((1, num_features))
        self.running_mean, self.running_var = np.zeros((1, num_features)), np.ones((1, num_features))
        self.training = True

    def forward(self, x):
        N, _D = x.shape
        self.used_batch = self.training
        if self.training:
            mu = np.mean(x, axis=0, keepdims=True)
            var = np.mean((x - mu) ** 2, axis=0, keepdims=True)
            self.running_mean = (0.9 * self.running_mean + 0.1 * mu).astype(x.dtype)
            self.running_var = (0.9 * self.running_var + 0.1 * var * N / max(N - 1, 1)).astype(x.dtype)
        else:
            mu, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        self.sd = np.sqrt(var + 1e-5)
        self.z = (x - mu) / self.sd
        return self.gamma.astype(x.dtype) * self.z + self.beta.astype(x.dtype)

    def backward(self, dy):
        self.dgamma = np.sum(dy * self.z, axis=0, keepdims=True)
        self.dbeta = np.sum(dy, axis=0, keepdims=True)
        g = self.gamma.astype(dy.dtype) / self.sd
        if not self.used_batch:
            return g * dy
        N = dy.shape[0]
        return g / N * (N * dy - self.dbeta - self.z * self.dgamma)


class BareGroupNorm:
    """No parameters at all, not even the names; fixed eps."""

    def __init__(self, num_groups, num_channels):
        if num_channels % num_groups:
            raise ValueError("num_channels must be divisible by num_groups")
        self.num_groups = num_groups

    def forward(self, x):
        v = x.reshape(x.shape[0], self.num_groups, -1)
        v = v - v.mean(axis=-1, keepdims=True)
        self.s = np.sqrt((v**2).mean(axis=-1, keepdims=True) + 1e-5)
        self.v = v / self.s
        return self.v.reshape(x.shape).copy()

    def backward(self, dy):
        d = dy.reshape(self.v.shape)
        d = d - d.mean(axis=-1, keepdims=True) - self.v * (d * self.v).mean(axis=-1, keepdims=True)
        return (d / self.s).reshape(dy.shape)


class BareBatchNorm:
    """No parameters; keeps running statistics; the gradient in eval is a scaling."""

    gamma = beta = None

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training, self.t = eps, momentum, True, 0
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)

    def forward(self, x):
        X = np.moveaxis(x, 1, -1)
        flat = X.reshape(-1, X.shape[-1])
        if self.training:
            self.t += 1
            a = 1 / self.t if self.momentum is None else self.momentum
            mean, n = flat.mean(0), len(flat)
            S = np.square(flat - mean).sum(0)
            self.running_mean = ((1 - a) * self.running_mean + a * mean).astype(x.dtype)
            self.running_var = ((1 - a) * self.running_var + a * S / max(n - 1, 1)).astype(x.dtype)
            self.k = 1 / np.sqrt(S / n + self.eps)
            self.H = (flat - mean) * self.k
            out = self.H
        else:
            self.k, self.H = 1 / np.sqrt(self.running_var.astype(x.dtype) + self.eps), None
            out = (flat - self.running_mean.astype(x.dtype)) * self.k
        return np.moveaxis(out.reshape(X.shape), -1, 1).copy()

    def backward(self, dy):
        D = np.moveaxis(dy, 1, -1)
        flat = D.reshape(-1, D.shape[-1])
        if self.H is not None:
            flat = flat - flat.mean(0) - self.H * (flat * self.H).mean(0)
        return np.moveaxis((flat * self.k).reshape(D.shape), -1, 1)


class BareRMSNorm:
    def __init__(self, normalized_shape, eps=None):
        self.ndim = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
        self.eps = eps

    def forward(self, x):
        axes = tuple(range(x.ndim - self.ndim, x.ndim))
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        r = np.sqrt((x * x).mean(axes, keepdims=True) + eps)
        u = x / r
        self.pull = lambda g: (g - u * (g * u).mean(axes, keepdims=True)) / r
        return u.copy()

    def backward(self, dy):
        return self.pull(dy)


class DoubleOnlyLayerNorm:
    """Refuses any dtype but float64."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.axes = tuple(range(-len(np.atleast_1d(normalized_shape)), 0))
        self.gamma = np.ones(normalized_shape) if elementwise_affine else None
        self.beta = np.zeros(normalized_shape) if elementwise_affine and bias else None
        self.eps, self.dgamma, self.dbeta = eps, None, None

    def mean(self, a):
        return np.mean(a, axis=self.axes, keepdims=True)

    def forward(self, x):
        if x.dtype != np.float64:
            raise TypeError(f"expected float64, got {x.dtype}")
        centred = x - self.mean(x)
        self.inv = 1.0 / np.sqrt(self.mean(centred**2) + self.eps)
        self.xhat = centred * self.inv
        y = self.xhat * (1.0 if self.gamma is None else self.gamma)
        return y if self.beta is None else y + self.beta

    def backward(self, dy):
        lead = tuple(range(dy.ndim - len(self.axes)))
        if self.beta is not None:
            self.dbeta = dy.sum(axis=lead)
        if self.gamma is not None:
            self.dgamma = (dy * self.xhat).sum(axis=lead)
            dy = dy * self.gamma
        return self.inv * (dy - self.mean(dy) - self.xhat * self.mean(dy * self.xhat))


class SampleLoopLayerNorm:
    """(N, D) only: filling a row of the buffer fails to broadcast for any other rank."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True):
        (self.D,) = np.atleast_1d(normalized_shape).tolist()
        self.gamma = np.ones((1, self.D)) if elementwise_affine else None
        self.beta = np.zeros((1, self.D)) if elementwise_affine else None
        self.eps, self.dgamma, self.dbeta = eps, None, None

    def forward(self, x):
        self.xhat, self.rstd = np.zeros((x.shape[0], x.shape[1]), x.dtype), np.zeros(x.shape[0], x.dtype)
        for i, row in enumerate(self.xhat):
            np.subtract(x[i], x[i].mean(), out=row)
            self.rstd[i] = 1 / np.sqrt((row**2).mean() + self.eps)
            row *= self.rstd[i]
        if self.gamma is None:
            return self.xhat.copy()
        return self.xhat * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)

    def backward(self, dy):
        if self.gamma is not None:
            self.dgamma = (dy * self.xhat).sum(0, keepdims=True)
            self.dbeta = dy.sum(0, keepdims=True)
            dy = dy * self.gamma.astype(dy.dtype)
        dx = np.zeros_like(self.xhat)
        for i, (d, h, r) in enumerate(zip(dy, self.xhat, self.rstd, strict=True)):
            dx[i] = r * (d - d.mean() - h * np.dot(h, d) / self.D)
        return dx


class SequenceOnlyGroupNorm:
    """(N, C, L) only: a fixed transposition raises on any other rank. gamma is (C, 1)."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.G, self.C, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones((num_channels, 1)) if affine else None
        self.beta = np.zeros((num_channels, 1)) if affine else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        steps = x.transpose(0, 2, 1)  # (N, L, C)
        N, L, _C = steps.shape
        t = steps.reshape(N, L, self.G, -1)
        t = t - t.mean(axis=(1, 3), keepdims=True)
        self.sd = np.sqrt(np.mean(t * t, axis=(1, 3), keepdims=True) + self.eps)
        self.t = t / self.sd
        y = self.t.reshape(N, L, self.C).transpose(0, 2, 1)
        if self.gamma is None:
            return y.copy()
        return y * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)

    def backward(self, dy):
        N, _C, L = dy.shape
        if self.gamma is not None:
            y = self.t.reshape(N, L, self.C).transpose(0, 2, 1)
            self.dgamma = (dy * y).sum(axis=(0, 2)).reshape(-1, 1)
            self.dbeta = dy.sum(axis=(0, 2)).reshape(-1, 1)
            dy = dy * self.gamma.astype(dy.dtype)
        d = dy.transpose(0, 2, 1).reshape(self.t.shape)
        both = (1, 3)
        d = d - d.mean(axis=both, keepdims=True) - self.t * (d * self.t).mean(axis=both, keepdims=True)
        return (d / self.sd).reshape(N, L, self.C).transpose(0, 2, 1)


class VolumeOnlyInstanceNorm:
    """(N, C, D, H, W) only: names five axes. gamma is (1, C, 1, 1, 1)."""

    def __init__(self, num_features, eps=1e-5, affine=False):
        shape = (1, num_features, 1, 1, 1)
        self.gamma, self.beta = (np.ones(shape), np.zeros(shape)) if affine else (None, None)
        self.eps, self.dgamma, self.dbeta = eps, None, None

    def forward(self, x):
        _N, _C, D, H, W = x.shape
        axes = (2, 3, 4)
        v = x - x.sum(axes, keepdims=True) / (D * H * W)
        self.scale = 1 / np.sqrt((v * v).sum(axes, keepdims=True) / (D * H * W) + self.eps)
        self.v = v * self.scale
        y = self.v.copy()
        if self.gamma is not None:
            y *= self.gamma.astype(x.dtype)
            y += self.beta.astype(x.dtype)
        return y

    def backward(self, dy):
        axes, n = (2, 3, 4), dy[0, 0].size
        g = dy
        if self.gamma is not None:
            self.dgamma = (dy * self.v).sum((0, 2, 3, 4), keepdims=True)
            self.dbeta = dy.sum((0, 2, 3, 4), keepdims=True)
            g = dy * self.gamma.astype(dy.dtype)
        return self.scale * (g - (g.sum(axes, keepdims=True) + self.v * (g * self.v).sum(axes, keepdims=True)) / n)


ROWS = (
    right("BatchNorm", OnlyFeaturesBatchNorm, "num_features only, all state (1, D); right; (N, D) only"),
    right("GroupNorm", BareGroupNorm, "no gamma, no beta, no eps keyword; right"),
    right("BatchNorm", BareBatchNorm, "gamma and beta are None, no affine keyword; right"),
    right("RMSNorm", BareRMSNorm, "no gamma, the backward is a closure; right"),
    right("LayerNorm", DoubleOnlyLayerNorm, "TypeError unless float64; right"),
    right("LayerNorm", SampleLoopLayerNorm, "gamma (1, D), no bias keyword; right; (N, D) only"),
    right("GroupNorm", SequenceOnlyGroupNorm, "gamma (C, 1), transposed; right; 3D only"),
    right("InstanceNorm", VolumeOnlyInstanceNorm, "gamma (1, C, 1, 1, 1); right; 5D only"),
)
