"""Right layers whose backward walks the forward's graph node by node, gradients kept as attributes; any rank.

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import math

import numpy as np

from tests.planted.row import right


class _StagedRows:
    """Whitens the rows of a matrix; every node of the graph is kept by name."""

    def whiten(self, rows):
        self.n = rows.shape[1]
        self.mu = rows.mean(axis=1, keepdims=True)
        self.xmu = rows - self.mu
        self.sq = self.xmu * self.xmu
        self.var = self.sq.mean(axis=1, keepdims=True)
        self.std = np.sqrt(self.var + self.eps)
        self.inv = 1.0 / self.std
        return self.xmu * self.inv

    def unwhiten(self, dxhat):
        dinv = (dxhat * self.xmu).sum(axis=1, keepdims=True)
        dxmu = dxhat * self.inv
        dstd = -dinv * self.inv * self.inv
        dvar = dstd * 0.5 / self.std
        dsq = np.broadcast_to(dvar / self.n, dxhat.shape)
        dxmu = dxmu + 2.0 * self.xmu * dsq
        dmu = -dxmu.sum(axis=1, keepdims=True)
        return dxmu + dmu / self.n


class StagedGroupNorm(_StagedRows):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.eps = num_groups, eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def rows(self, a):
        return a.reshape(len(a) * self.num_groups, math.prod(a.shape[1:]) // self.num_groups)

    def spread(self, p, like):
        return p.astype(like.dtype).reshape((1, -1) + (1,) * (like.ndim - 2))

    def forward(self, x):
        self.xhat = self.whiten(self.rows(x)).reshape(x.shape)
        if self.gamma is None:
            return self.xhat.copy()
        return self.spread(self.gamma, x) * self.xhat + self.spread(self.beta, x)

    def backward(self, dy):
        dxhat = dy
        if self.gamma is not None:
            axes = (0, *range(2, dy.ndim))
            self.dgamma = (dy * self.xhat).sum(axis=axes)
            self.dbeta = dy.sum(axis=axes)
            dxhat = dy * self.spread(self.gamma, dy)
        return self.unwhiten(self.rows(dxhat)).reshape(dy.shape)


class StagedInstanceNorm(StagedGroupNorm):
    def __init__(self, num_features, eps=1e-5, affine=False):
        super().__init__(num_features, num_features, eps, affine)


class StagedLayerNorm(_StagedRows):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.shape, self.eps = shape, eps
        self.gamma = np.ones(shape) if elementwise_affine else None
        self.beta = np.zeros(shape) if elementwise_affine and bias else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        self.xhat = self.whiten(x.reshape(-1, math.prod(self.shape)))
        y = self.xhat.reshape(x.shape).copy()
        if self.gamma is not None:
            y *= self.gamma.astype(x.dtype)
        if self.beta is not None:
            y += self.beta.astype(x.dtype)
        return y

    def backward(self, dy):
        flat = dy.reshape(self.xhat.shape)
        if self.beta is not None:
            self.dbeta = flat.sum(axis=0).reshape(self.shape)
        if self.gamma is not None:
            self.dgamma = (flat * self.xhat).sum(axis=0).reshape(self.shape)
            flat = flat * self.gamma.astype(dy.dtype).ravel()
        return self.unwhiten(flat).reshape(dy.shape)


class StagedRMSNorm:
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.eps, self.dgamma = eps, None

    def forward(self, x):
        self.axes = tuple(range(x.ndim - len(self.shape), x.ndim))
        self.x = np.array(x)
        self.square = self.x * self.x
        self.ms = self.square.mean(axis=self.axes, keepdims=True)
        self.rms = np.sqrt(self.ms + (np.finfo(x.dtype).eps if self.eps is None else self.eps))
        self.normed = self.x / self.rms
        return self.normed.copy() if self.gamma is None else self.normed * self.gamma.astype(x.dtype)

    def backward(self, dy):
        dnormed = dy
        if self.gamma is not None:
            lead = tuple(range(dy.ndim - len(self.shape)))
            self.dgamma = (dy * self.normed).sum(axis=lead)
            dnormed = dy * self.gamma.astype(dy.dtype)
        drms = -(dnormed * self.x / self.rms**2).sum(axis=self.axes, keepdims=True)
        dms = drms / (2 * self.rms)
        dsquare = dms / math.prod(self.shape)
        return dnormed / self.rms + 2 * self.x * dsquare


class StagedBatchNorm:
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.eps, self.momentum, self.track = eps, momentum, track_running_stats
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.running_mean = np.zeros(num_features) if track_running_stats else None
        self.running_var = np.ones(num_features) if track_running_stats else None
        self.training, self.seen, self.dgamma, self.dbeta = True, 0, None, None

    def forward(self, x):
        self.axes = (0, *range(2, x.ndim))
        self.column = (1, -1) + (1,) * (x.ndim - 2)
        self.n = x.size // x.shape[1]
        self.live = self.training or not self.track
        if self.live:
            mu = x.mean(axis=self.axes, keepdims=True)
            self.xmu = x - mu
            var = np.square(self.xmu).mean(axis=self.axes, keepdims=True)
            if self.track:
                self.remember(mu.ravel(), var.ravel())
        else:
            self.xmu = x - self.running_mean.astype(x.dtype).reshape(self.column)
            var = self.running_var.astype(x.dtype).reshape(self.column)
        self.std = np.sqrt(var + self.eps)
        self.xhat = self.xmu / self.std
        if self.gamma is None:
            return self.xhat.copy()
        self.scale = self.gamma.astype(x.dtype).reshape(self.column)
        return self.xhat * self.scale + self.beta.astype(x.dtype).reshape(self.column)

    def remember(self, mu, var):
        self.seen += 1
        m = 1 / self.seen if self.momentum is None else self.momentum
        unbiased = var * (self.n / max(self.n - 1, 1))
        self.running_mean = (self.running_mean + m * (mu - self.running_mean)).astype(mu.dtype)
        self.running_var = (self.running_var + m * (unbiased - self.running_var)).astype(mu.dtype)

    def backward(self, dy):
        dxhat = dy
        if self.gamma is not None:
            self.dbeta = dy.sum(axis=self.axes)
            self.dgamma = (dy * self.xhat).sum(axis=self.axes)
            dxhat = dy * self.scale
        dxmu = dxhat / self.std
        if not self.live:
            return dxmu
        dstd = -(dxhat * self.xmu).sum(axis=self.axes, keepdims=True) / (self.std * self.std)
        dvar = dstd / self.std / 2
        dxmu = dxmu + dvar * 2 * self.xmu / self.n
        return dxmu - dxmu.sum(axis=self.axes, keepdims=True) / self.n


ROWS = (
    right("GroupNorm", StagedGroupNorm, "node by node over rows of groups; right"),
    right("InstanceNorm", StagedInstanceNorm, "node by node, a group per channel; right"),
    right("LayerNorm", StagedLayerNorm, "node by node over flattened rows; right"),
    right("RMSNorm", StagedRMSNorm, "node by node over axes; right"),
    right("BatchNorm", StagedBatchNorm, "node by node, its own eval branch; right"),
)
