"""Right layers in einsum, with gamma in the shapes it is broadcast in: (C, 1, 1), (1, C, 1, 1), (G, C/G, 1).

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import math

import numpy as np

from tests.planted.row import right


class EinsumGroupNorm:
    """x as (n, g, c, s): sample, group, channel in the group, position. gamma is stored as (G, C/G, 1)."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.cell = (num_groups, num_channels // num_groups, 1)
        self.eps = eps
        self.gamma = np.ones(self.cell) if affine else None
        self.beta = np.zeros(self.cell) if affine else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        t = x.reshape(x.shape[0], *self.cell[:2], -1)
        size = t.shape[2] * t.shape[3]
        mu = np.einsum("ngcs->ng", t) / size
        t = t - mu[:, :, None, None]
        var = np.einsum("ngcs,ngcs->ng", t, t) / size
        self.rstd = (var + self.eps) ** -0.5
        self.xhat = np.einsum("ngcs,ng->ngcs", t, self.rstd)
        if self.gamma is None:
            return self.xhat.reshape(x.shape).copy()
        y = np.einsum("gcz,ngcs->ngcs", self.gamma.astype(x.dtype), self.xhat) + self.beta.astype(x.dtype)
        return y.reshape(x.shape)

    def backward(self, dy):
        d = dy.reshape(self.xhat.shape)
        size = d.shape[2] * d.shape[3]
        if self.gamma is not None:
            self.dgamma = np.einsum("ngcs,ngcs->gc", d, self.xhat)[:, :, None]
            self.dbeta = np.einsum("ngcs->gc", d)[:, :, None]
            d = np.einsum("gcz,ngcs->ngcs", self.gamma.astype(dy.dtype), d)
        first = np.einsum("ngcs->ng", d) / size
        second = np.einsum("ngcs,ngcs->ng", d, self.xhat) / size
        inner = d - first[:, :, None, None] - np.einsum("ng,ngcs->ngcs", second, self.xhat)
        return np.einsum("ng,ngcs->ngcs", self.rstd, inner).reshape(dy.shape)


class EinsumImageInstanceNorm:
    """Images only: an einsum over nchw raises on any other rank. gamma is (C, 1, 1)."""

    def __init__(self, num_features, eps=1e-5, affine=False):
        self.eps = eps
        self.gamma = np.ones((num_features, 1, 1)) if affine else None
        self.beta = np.zeros((num_features, 1, 1)) if affine else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        area = x.shape[-1] * x.shape[-2]
        centred = x - np.einsum("nchw->nc", x)[..., None, None] / area
        var = np.einsum("nchw,nchw->nc", centred, centred) / area
        self.std = np.sqrt(var + self.eps)[..., None, None]
        self.z = centred / self.std
        return self.z + 0 if self.gamma is None else self.z * self.gamma.astype(x.dtype) + self.beta.astype(x.dtype)

    def backward(self, dy):
        area = dy.shape[-1] * dy.shape[-2]
        if self.gamma is not None:
            self.dgamma = np.einsum("nchw,nchw->c", dy, self.z).reshape(-1, 1, 1)
            self.dbeta = np.einsum("nchw->c", dy).reshape(-1, 1, 1)
            dy = dy * self.gamma.astype(dy.dtype)
        total = np.einsum("nchw->nc", dy)[..., None, None]
        along = np.einsum("nchw,nchw->nc", dy, self.z)[..., None, None]
        return (area * dy - total - self.z * along) / (area * self.std)


class EinsumImageBatchNorm:
    """Images only; gamma is (1, C, 1, 1), the running statistics are (C,)."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        shape = (1, num_features, 1, 1)
        self.gamma, self.beta = (np.ones(shape), np.zeros(shape)) if affine else (None, None)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.eps, self.momentum, self.training, self.t = eps, momentum, True, 0
        self.dgamma = self.dbeta = None

    def forward(self, x):
        if x.ndim != 4:
            raise IndexError("expected images (N, C, H, W)")
        mean, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
        self.m = x.size // x.shape[1] if self.training else None
        if self.training:
            mean = np.einsum("nchw->c", x) / self.m
            off = x - mean[:, None, None]
            var = np.einsum("nchw,nchw->c", off, off) / self.m
            self.t += 1
            p = 1 / self.t if self.momentum is None else self.momentum
            q = p * self.m / max(self.m - 1, 1)
            self.running_mean = ((1 - p) * self.running_mean + p * mean).astype(x.dtype)
            self.running_var = ((1 - p) * self.running_var + q * var).astype(x.dtype)
        self.rstd = 1 / np.sqrt(var + self.eps)
        self.xhat = np.einsum("nchw,c->nchw", x - mean[:, None, None], self.rstd)
        if self.gamma is None:
            return self.xhat.copy()
        return self.gamma.astype(x.dtype) * self.xhat + self.beta.astype(x.dtype)

    def backward(self, dy):
        s1, s2 = np.einsum("nchw->c", dy), np.einsum("nchw,nchw->c", dy, self.xhat)
        k = self.rstd
        if self.gamma is not None:
            self.dgamma, self.dbeta = s2.reshape(1, -1, 1, 1), s1.reshape(1, -1, 1, 1)
            k = k * self.gamma.astype(dy.dtype).ravel()
        if self.m is not None:
            dy = dy - (s1[:, None, None] + np.einsum("nchw,c->nchw", self.xhat, s2)) / self.m
        return np.einsum("c,nchw->nchw", k, dy)


class EinsumLayerNorm:
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.beta = np.zeros(self.shape) if elementwise_affine and bias else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        n = math.prod(self.shape)
        r = x.reshape(-1, n)
        r = r - np.einsum("rn->r", r)[:, None] / n
        self.std = np.sqrt(np.einsum("rn,rn->r", r, r) / n + self.eps)
        self.xhat = r / self.std[:, None]
        g = np.ones(n, x.dtype) if self.gamma is None else self.gamma.astype(x.dtype).reshape(n)
        b = np.zeros(n, x.dtype) if self.beta is None else self.beta.astype(x.dtype).reshape(n)
        self.g = g
        return (np.einsum("rn,n->rn", self.xhat, g) + b).reshape(x.shape)

    def backward(self, dy):
        r = dy.reshape(self.xhat.shape)
        n = r.shape[1]
        p = np.einsum("rn,n->r", r, self.g) / n
        q = np.einsum("rn,n,rn->r", r, self.g, self.xhat) / n
        dx = np.einsum("rn,n->rn", r, self.g) - p[:, None] - np.einsum("r,rn->rn", q, self.xhat)
        if self.gamma is not None:
            self.dgamma = np.einsum("rn,rn->n", r, self.xhat).reshape(self.shape)
        if self.beta is not None:
            self.dbeta = np.einsum("rn->n", r).reshape(self.shape)
        return (dx / self.std[:, None]).reshape(dy.shape)


class EinsumTokenRMSNorm:
    """Tokens (B, T, D) only: the subscripts raise on any other rank. gamma is (1, 1, D)."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        (self.D,) = np.atleast_1d(normalized_shape).tolist()
        self.eps = eps
        self.gamma = np.ones((1, 1, self.D)) if elementwise_affine else None
        self.dgamma = None

    def forward(self, x):
        eps = self.eps if self.eps is not None else np.finfo(x.dtype).eps
        self.rms = np.sqrt(np.einsum("btd,btd->bt", x, x) / self.D + eps)[:, :, None]
        self.u = x / self.rms
        return self.u.copy() if self.gamma is None else self.u * self.gamma.astype(x.dtype)

    def backward(self, dy):
        if self.gamma is not None:
            self.dgamma = np.einsum("btd,btd->d", dy, self.u)[None, None]
            dy = dy * self.gamma.astype(dy.dtype)
        return (dy - self.u * np.einsum("btd,btd->bt", dy, self.u)[:, :, None] / self.D) / self.rms


ROWS = (
    right("GroupNorm", EinsumGroupNorm, "einsum over ngcs, gamma (G, C/G, 1); right"),
    right("InstanceNorm", EinsumImageInstanceNorm, "einsum over nchw, gamma (C, 1, 1); right; 4D only"),
    right("BatchNorm", EinsumImageBatchNorm, "gamma (1, C, 1, 1); right; 4D only, else IndexError"),
    right("LayerNorm", EinsumLayerNorm, "einsum over rows; right"),
    right("RMSNorm", EinsumTokenRMSNorm, "einsum over btd, gamma (1, 1, D); right; 3D only"),
)
