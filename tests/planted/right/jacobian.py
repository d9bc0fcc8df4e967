"""Right layers that write down the whole n x n Jacobian of a row, one at a time, and multiply by it.

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import math
from functools import partial

import numpy as np

from tests.planted.row import right


def jacobian(out, s, shared):
    """d out_i / d x_j of one row; `shared` is what every input takes away from every output."""
    return (np.eye(out.size, dtype=out.dtype) - shared - np.outer(out, out) / out.size) / s


def scaled_identity(s, v):
    return np.eye(v.size, dtype=v.dtype) / s


def standardize(v, eps):
    """One row: the whitened vector, and a call that writes its Jacobian down."""
    v = v - v.mean()
    s = math.sqrt(float((v * v).mean()) + eps)
    return v / s, partial(jacobian, v / s, s, 1 / v.size)


def rescale(v, eps):
    """One row: the vector over its root mean square, and a call that writes its Jacobian down."""
    s = math.sqrt(float((v * v).mean()) + eps)
    return v / s, partial(jacobian, v / s, s, 0)


class JacobianGroupNorm:
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        self.J = {}
        xhat = np.empty(x.shape, x.dtype)
        per = self.num_channels // self.num_groups
        for i in range(x.shape[0]):
            for g in range(self.num_groups):
                part = x[i, g * per : (g + 1) * per]
                row, self.J[i, g] = standardize(part.ravel(), self.eps)
                xhat[i, g * per : (g + 1) * per] = row.reshape(part.shape)
        self.xhat = xhat
        y = xhat.copy()
        if self.affine:
            for c in range(self.num_channels):
                y[:, c] = y[:, c] * x.dtype.type(self.gamma[c]) + x.dtype.type(self.beta[c])
        return y

    def backward(self, dy):
        d = dy.copy()
        if self.affine:
            self.dgamma = np.array([(dy[:, c] * self.xhat[:, c]).sum() for c in range(self.num_channels)])
            self.dbeta = np.array([dy[:, c].sum() for c in range(self.num_channels)])
            for c in range(self.num_channels):
                d[:, c] *= dy.dtype.type(self.gamma[c])
        dx = np.empty(dy.shape, dy.dtype)
        per = self.num_channels // self.num_groups
        for (i, g), J in self.J.items():
            part = d[i, g * per : (g + 1) * per]
            dx[i, g * per : (g + 1) * per] = (J().T @ part.ravel()).reshape(part.shape)
        return dx


class JacobianLayerNorm:
    row = staticmethod(standardize)

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if np.isscalar(normalized_shape) else tuple(normalized_shape)
        self.eps = eps
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.beta = np.zeros(self.shape) if elementwise_affine and bias else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        rows = x.reshape(-1, math.prod(self.shape))
        eps = float(np.finfo(x.dtype).eps) if self.eps is None else self.eps
        pairs = [self.row(r, eps) for r in rows]
        self.xhat = np.stack([p[0] for p in pairs])
        self.J = [p[1] for p in pairs]
        y = self.xhat.copy()
        if self.gamma is not None:
            y = y @ np.diag(self.gamma.astype(x.dtype).ravel())
        if self.beta is not None:
            y = y + self.beta.astype(x.dtype).ravel()
        return y.reshape(x.shape)

    def backward(self, dy):
        d = dy.reshape(self.xhat.shape)
        if self.beta is not None:
            self.dbeta = d.sum(0).reshape(self.shape)
        if self.gamma is not None:
            self.dgamma = (d * self.xhat).sum(0).reshape(self.shape)
            d = d * self.gamma.astype(dy.dtype).ravel()
        return np.array([row @ J() for row, J in zip(d, self.J, strict=True)]).reshape(dy.shape)


class JacobianRMSNorm(JacobianLayerNorm):
    row = staticmethod(rescale)

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False)


class JacobianBatchNorm:
    """One channel at a time; in eval the Jacobian is a multiple of the identity, and is written as such."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.training, self.count = True, 0
        self.dgamma = self.dbeta = None

    def forward(self, x):
        dtype = x.dtype.type
        self.channels = []
        y = np.empty(x.shape, x.dtype)
        means, variances = [], []
        for c in range(self.num_features):
            v = x[:, c].ravel()
            if self.training:
                xhat, J = standardize(v, self.eps)
                means.append(v.mean())
                variances.append(((v - v.mean()) ** 2).sum() / max(v.size - 1, 1))
            else:
                s = math.sqrt(float(self.running_var[c]) + self.eps)
                xhat = (v - dtype(self.running_mean[c])) / s
                J = partial(scaled_identity, s, xhat)
            self.channels.append((xhat, J))
            out = xhat if self.gamma is None else dtype(self.gamma[c]) * xhat + dtype(self.beta[c])
            y[:, c] = out.reshape(x[:, c].shape)
        if self.training:
            self.count += 1
            m = 1 / self.count if self.momentum is None else self.momentum
            self.running_mean = ((1 - m) * self.running_mean + m * np.array(means)).astype(x.dtype)
            self.running_var = ((1 - m) * self.running_var + m * np.array(variances)).astype(x.dtype)
        return y

    def backward(self, dy):
        dx = np.empty(dy.shape, dy.dtype)
        dgamma, dbeta = np.empty(self.num_features, dy.dtype), np.empty(self.num_features, dy.dtype)
        for c, (xhat, J) in enumerate(self.channels):
            d = dy[:, c].ravel()
            dgamma[c], dbeta[c] = d @ xhat, d.sum()
            if self.gamma is not None:
                d = d * dy.dtype.type(self.gamma[c])
            dx[:, c] = (d @ J()).reshape(dy[:, c].shape)
        if self.gamma is not None:
            self.dgamma, self.dbeta = dgamma, dbeta
        return dx


ROWS = (
    right("GroupNorm", JacobianGroupNorm, "a dictionary of n x n Jacobians, one a group; right"),
    right("LayerNorm", JacobianLayerNorm, "Jacobians in a list, one a row, gamma as a diagonal matrix; right"),
    right("RMSNorm", JacobianRMSNorm, "Jacobians in a list, one a row; right"),
    right("BatchNorm", JacobianBatchNorm, "a Jacobian a channel, c times identity in eval; right"),
)
