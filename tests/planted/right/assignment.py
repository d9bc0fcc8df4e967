"""Right layers as course assignments have them: functions handing on a cache tuple, wrapped by a few lines.

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import numpy as np

from tests.planted.row import right

# -- the functions a student writes --


def batchnorm_forward(x, gamma, beta, bn_param):
    count, _width = x.shape
    eps, running_mean, running_var = bn_param["eps"], bn_param["running_mean"], bn_param["running_var"]
    if bn_param["mode"] == "train":
        mu = x.sum(axis=0) / count
        centred = x - mu
        var = (centred**2).sum(axis=0) / count
        rate = bn_param["momentum"]
        bn_param["running_mean"] = ((1 - rate) * running_mean + rate * mu).astype(x.dtype)
        unbiased = var * (count / max(count - 1, 1))
        bn_param["running_var"] = ((1 - rate) * running_var + rate * unbiased).astype(x.dtype)
    else:
        centred = x - running_mean.astype(x.dtype)
        var = running_var.astype(x.dtype)
    std = np.sqrt(var + eps)
    xhat = centred / std
    return gamma * xhat + beta, (bn_param["mode"], gamma, centred, std, xhat)


def batchnorm_backward(dout, cache):
    mode, gamma, centred, std, xhat = cache
    count = len(dout)
    dbeta = dout.sum(axis=0)
    dgamma = (dout * xhat).sum(axis=0)
    dxhat = dout * gamma
    if mode != "train":
        return dxhat / std, dgamma, dbeta
    dcentred = dxhat / std
    dstd = -(dxhat * centred).sum(axis=0) / std**2
    dvar = dstd / (2 * std)
    dcentred = dcentred + 2 / count * centred * dvar
    dmu = -dcentred.sum(axis=0)
    return dcentred + dmu / count, dgamma, dbeta


def spatial_batchnorm_forward(x, gamma, beta, bn_param):
    N, C, H, W = x.shape
    flat = x.transpose(0, 2, 3, 1).reshape(N * H * W, C)
    out, cache = batchnorm_forward(flat, gamma, beta, bn_param)
    return np.ascontiguousarray(out.reshape(N, H, W, C).transpose(0, 3, 1, 2)), cache


def spatial_batchnorm_backward(dout, cache):
    N, C, H, W = dout.shape
    dx, dgamma, dbeta = batchnorm_backward(dout.transpose(0, 2, 3, 1).reshape(-1, C), cache)
    return dx.reshape(N, H, W, C).transpose(0, 3, 1, 2), dgamma, dbeta


def layernorm_forward(x, gamma, beta, ln_param):
    xt = x.T
    D, _N = xt.shape
    mu = xt.sum(axis=0) / D
    xmu = xt - mu
    std = np.sqrt(np.square(xmu).sum(axis=0) / D + ln_param["eps"])
    xhat = (xmu / std).T
    return xhat * gamma + beta, (xhat, std, gamma)


def layernorm_backward(dout, cache):
    xhat, std, gamma = cache
    D = xhat.shape[1]
    g = (dout * gamma).T
    h = xhat.T
    dxt = (D * g - g.sum(axis=0) - h * (g * h).sum(axis=0)) / (D * std)
    return dxt.T, (dout * xhat).sum(axis=0), dout.sum(axis=0)


def spatial_groupnorm_forward(x, gamma, beta, G, gn_param):
    N, C, H, W = x.shape
    grouped = x.reshape(N, G, C // G, H, W)
    mean = grouped.mean(axis=(2, 3, 4), keepdims=True)
    var = ((grouped - mean) ** 2).mean(axis=(2, 3, 4), keepdims=True)
    ivar = 1 / np.sqrt(var + gn_param["eps"])
    xhat = ((grouped - mean) * ivar).reshape(N, C, H, W)
    return gamma * xhat + beta, (G, gamma, ivar, xhat)


def spatial_groupnorm_backward(dout, cache):
    G, gamma, ivar, xhat = cache
    N, C, H, W = dout.shape
    size = C // G * H * W
    dbeta = dout.sum(axis=(0, 2, 3), keepdims=True)
    dgamma = (dout * xhat).sum(axis=(0, 2, 3), keepdims=True)
    dxhat = (dout * gamma).reshape(N, G, C // G, H, W)
    hat = xhat.reshape(dxhat.shape)
    total = dxhat.sum(axis=(2, 3, 4), keepdims=True)
    along = (dxhat * hat).sum(axis=(2, 3, 4), keepdims=True)
    dx = ivar / size * (size * dxhat - total - hat * along)
    return dx.reshape(N, C, H, W), dgamma, dbeta


def rmsnorm_forward(x, weight, eps):
    x = x.copy()
    scale = (np.square(x).mean(axis=-1, keepdims=True) + eps) ** -0.5
    return x * scale * weight, (x, scale, weight)


def rmsnorm_backward(dout, cache):
    x, scale, weight = cache
    dscale = (dout * weight * x).sum(axis=-1, keepdims=True)
    dmeansquare = -0.5 * scale**3 * dscale
    dx = dout * weight * scale + 2 * x * dmeansquare / x.shape[-1]
    dweight = (dout * x * scale).reshape(-1, x.shape[-1]).sum(axis=0)
    return dx, dweight


# -- the wrappers --


class AssignmentBatchNorm:
    run, back = staticmethod(batchnorm_forward), staticmethod(batchnorm_backward)

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        self.gamma, self.beta = np.ones(num_features), np.zeros(num_features)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.eps, self.momentum, self.training, self.calls = eps, momentum, True, 0

    def forward(self, x):
        self.calls += self.training
        param = {
            "mode": "train" if self.training else "test",
            "eps": self.eps,
            "momentum": 1 / max(self.calls, 1) if self.momentum is None else self.momentum,
            "running_mean": self.running_mean,
            "running_var": self.running_var,
        }
        y, self.cache = self.run(x, self.gamma.astype(x.dtype), self.beta.astype(x.dtype), param)
        self.running_mean, self.running_var = param["running_mean"], param["running_var"]
        return y

    def backward(self, dy):
        dx, self.dgamma, self.dbeta = self.back(dy, self.cache)
        return dx


class AssignmentSpatialBatchNorm(AssignmentBatchNorm):
    run, back = staticmethod(spatial_batchnorm_forward), staticmethod(spatial_batchnorm_backward)


class AssignmentLayerNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.gamma, self.beta, self.eps = np.ones(normalized_shape), np.zeros(normalized_shape), eps

    def forward(self, x):
        if x.ndim != 2 or self.gamma.ndim != 1:
            raise ValueError("layernorm_forward takes samples of shape (N, D)")
        gamma, beta = self.gamma.astype(x.dtype), self.beta.astype(x.dtype)
        y, self.cache = layernorm_forward(x, gamma, beta, {"eps": self.eps})
        return y

    def backward(self, dy):
        dx, self.dgamma, self.dbeta = layernorm_backward(dy, self.cache)
        return dx


class AssignmentSpatialGroupNorm:
    def __init__(self, num_groups, num_channels, eps=1e-5):
        self.gamma, self.beta = np.ones((1, num_channels, 1, 1)), np.zeros((1, num_channels, 1, 1))
        self.groups, self.eps = num_groups, eps

    def forward(self, x):
        params = self.gamma.astype(x.dtype), self.beta.astype(x.dtype)
        y, self.cache = spatial_groupnorm_forward(x, *params, self.groups, {"eps": self.eps})
        return y

    def backward(self, dy):
        dx, self.dgamma, self.dbeta = spatial_groupnorm_backward(dy, self.cache)
        return dx


class AssignmentRMSNorm:
    def __init__(self, normalized_shape, eps=None):
        (width,) = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.gamma, self.eps = np.ones(width), eps

    def forward(self, x):
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        y, self.cache = rmsnorm_forward(x, self.gamma.astype(x.dtype), eps)
        return y

    def backward(self, dy):
        dx, self.dgamma = rmsnorm_backward(dy, self.cache)
        return dx


ROWS = (
    right("BatchNorm", AssignmentBatchNorm, "staged functions with a cache tuple; right; (N, D) only"),
    right("BatchNorm", AssignmentSpatialBatchNorm, "transposes and calls the 2D function; right; 4D only"),
    right("LayerNorm", AssignmentLayerNorm, "works on the transpose; right; (N, D) only, else ValueError"),
    right("GroupNorm", AssignmentSpatialGroupNorm, "gamma (1, C, 1, 1); right; 4D only, no affine keyword"),
    right("RMSNorm", AssignmentRMSNorm, "power -1/2 and its chain; right; one normalized axis only"),
)
