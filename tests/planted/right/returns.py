"""Right layers whose backward returns the parameter gradients too: (dx, dgamma, dbeta), or a dictionary.

No dgamma or dbeta is kept on the layer.

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import numpy as np

from tests.planted.row import right


def mean_over(a, axes):
    return a.mean(axis=axes, keepdims=True)


class TupleReturningGroupNorm:
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.gamma, self.beta = (np.ones(num_channels), np.zeros(num_channels)) if affine else (None, None)

    def split(self, a):
        return np.stack(np.split(a, self.num_groups, axis=1))  # (G, N, C/G, *)

    def join(self, a):
        return np.concatenate(list(a), axis=1)

    def forward(self, x):
        parts = self.split(x)
        self.axes = tuple(range(2, parts.ndim))
        parts = parts - mean_over(parts, self.axes)
        self.rstd = 1 / np.sqrt(mean_over(parts**2, self.axes) + self.eps)
        self.parts = parts * self.rstd
        y = self.join(self.parts)
        if self.gamma is not None:
            trailing = [1] * (x.ndim - 2)
            y = y * self.gamma.reshape(1, -1, *trailing).astype(x.dtype)
            y = y + self.beta.reshape(1, -1, *trailing).astype(x.dtype)
        return y

    def backward(self, dy):
        dgamma = dbeta = None
        d = dy
        if self.gamma is not None:
            over = (0, *range(2, dy.ndim))
            dgamma, dbeta = np.sum(dy * self.join(self.parts), axis=over), np.sum(dy, axis=over)
            d = dy * self.gamma.reshape(1, -1, *[1] * (dy.ndim - 2)).astype(dy.dtype)
        d = self.split(d)
        d = self.rstd * (d - mean_over(d, self.axes) - self.parts * mean_over(d * self.parts, self.axes))
        return self.join(d), dgamma, dbeta


class DictReturningLayerNorm:
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.k = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
        self.gamma = np.ones(normalized_shape) if elementwise_affine else None
        self.beta = np.zeros(normalized_shape) if elementwise_affine and bias else None
        self.eps = eps

    def forward(self, x):
        axes = tuple(range(-self.k, 0))
        centred = x - x.mean(axes, keepdims=True)
        std = np.sqrt((centred * centred).mean(axes, keepdims=True) + self.eps)
        self.cache = {"xhat": centred / std, "std": std, "axes": axes}
        y = self.cache["xhat"].copy()
        if self.gamma is not None:
            y = y * self.gamma.astype(x.dtype)
        return y if self.beta is None else y + self.beta.astype(x.dtype)

    def backward(self, dy):
        xhat, std, axes = (self.cache[name] for name in ("xhat", "std", "axes"))
        lead = tuple(range(dy.ndim - self.k))
        grads = {}
        if self.gamma is not None:
            grads["dgamma"] = (dy * xhat).sum(lead)
        if self.beta is not None:
            grads["dbeta"] = dy.sum(lead)
        d = dy if self.gamma is None else self.gamma.astype(dy.dtype) * dy
        grads["dx"] = (d - d.mean(axes, keepdims=True) - xhat * (d * xhat).mean(axes, keepdims=True)) / std
        return grads


class TupleReturningBatchNorm:
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        if track_running_stats:
            self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        else:
            self.running_mean = self.running_var = None
        self.eps, self.momentum, self.training, self.num_batches_tracked = eps, momentum, True, 0

    def forward(self, x):
        # channels to the end, where everything of shape (C,) broadcasts by itself
        z = x.swapaxes(1, -1)
        axes = tuple(range(x.ndim - 1))
        frozen = not self.training and self.running_mean is not None
        if frozen:
            mean, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        else:
            mean = z.mean(axes)
            var = ((z - mean) ** 2).mean(axes)
        if self.training and self.running_mean is not None:
            self.num_batches_tracked += 1
            w = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
            n = x.size // x.shape[1]
            for name, new in (("running_mean", mean), ("running_var", var * n / max(n - 1, 1))):
                setattr(self, name, ((1 - w) * getattr(self, name) + w * new).astype(x.dtype))
        sigma = np.sqrt(var + self.eps)
        zhat = (z - mean) / sigma
        self.ctx = frozen, axes, sigma, zhat
        y = zhat if self.gamma is None else self.gamma.astype(x.dtype) * zhat + self.beta.astype(x.dtype)
        return y.swapaxes(1, -1).copy()

    def backward(self, dy):
        frozen, axes, sigma, zhat = self.ctx
        dz = dy.swapaxes(1, -1)
        dgamma = dbeta = None
        if self.gamma is not None:
            dgamma, dbeta = (dz * zhat).sum(axes), dz.sum(axes)
            dz = dz * self.gamma.astype(dy.dtype)
        if not frozen:
            dz = dz - dz.mean(axes) - zhat * (dz * zhat).mean(axes)
        return (dz / sigma).swapaxes(1, -1), dgamma, dbeta


class PairReturningRMSNorm:
    def __init__(self, normalized_shape, eps=None):
        self.dims = len(np.atleast_1d(normalized_shape))
        self.gamma, self.eps = np.ones(normalized_shape), eps

    def forward(self, x):
        axes = tuple(range(-self.dims, 0))
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        r = np.reciprocal(np.sqrt(np.mean(np.square(x), axis=axes, keepdims=True) + eps))
        self.saved = r, x * r
        return self.saved[1] * self.gamma.astype(x.dtype)

    def backward(self, dy):
        r, u = self.saved
        d = dy * self.gamma.astype(dy.dtype)
        dx = r * (d - u * np.mean(d * u, axis=tuple(range(-self.dims, 0)), keepdims=True))
        return dx, np.add.reduce(dy * u, axis=tuple(range(dy.ndim - self.dims)))


class DictReturningInstanceNorm:
    def __init__(self, num_features, eps=1e-5, affine=False):
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.eps = eps

    def forward(self, x):
        N, C, *space = x.shape
        v = x.reshape(N, C, -1)
        v = v - v.mean(-1)[..., None]
        self.inv = 1 / np.sqrt((v**2).mean(-1) + self.eps)[..., None]
        self.v = v * self.inv
        y = self.v.copy()
        if self.gamma is not None:
            y = y * self.gamma.astype(x.dtype)[:, None] + self.beta.astype(x.dtype)[:, None]
        return y.reshape(N, C, *space)

    def backward(self, dy):
        d = dy.reshape(self.v.shape)
        grads = {"dgamma": None, "dbeta": None}
        if self.gamma is not None:
            grads["dgamma"], grads["dbeta"] = (d * self.v).sum((0, 2)), d.sum((0, 2))
            d = d * self.gamma.astype(dy.dtype)[:, None]
        dx = self.inv * (d - d.mean(-1)[..., None] - self.v * (d * self.v).mean(-1)[..., None])
        return {"dx": dx.reshape(dy.shape), **grads}


ROWS = (
    right("GroupNorm", TupleReturningGroupNorm, "splits and stacks groups, backward gives a tuple; right"),
    right("LayerNorm", DictReturningLayerNorm, "a dictionary as cache, backward gives a dictionary; right"),
    right("BatchNorm", TupleReturningBatchNorm, "channels swapped to the end, backward gives a tuple; right"),
    right("RMSNorm", PairReturningRMSNorm, "backward gives (dx, dgamma), no affine keyword; right"),
    right("InstanceNorm", DictReturningInstanceNorm, "backward gives a dictionary; right"),
)
