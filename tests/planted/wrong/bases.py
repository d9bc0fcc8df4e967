"""Right layers that files of the wrong ones share, as their bases: no layer here has a mistake, and there are no rows.

Over rows: all five layers over one matrix whose rows share their statistics. A layer says how x becomes rows and back;
what multiplies the centred rows is one function of their variance, and the backward goes through it by its slope. Axis
by axis: the four with a mean, with keepdims, over the axes that share it. It must not know `reference` or `npnorm`: the
corpus judges them.
"""

import numpy as np

# --- over rows --------------------------------------------------------------------------------------------------------


class OverRows:
    """Right. `rows`, `back` and `along` are the layer's; `factor` and `slope` are where mistakes go."""

    centred = True
    gamma = beta = dgamma = dbeta = None

    def parameters(self, shape, affine, bias=True):
        if affine:
            self.gamma = np.ones(shape)
            if bias:
                self.beta = np.zeros(shape)

    def factor(self, v):
        return 1 / np.sqrt(v + self.eps)

    def slope(self, v):
        return -0.5 * self.factor(v) ** 3

    def weight(self, gamma):
        return gamma

    def second_moment(self, c):
        return (c * c).sum(1, keepdims=True) / c.shape[1]

    def statistics(self, r):
        m = r.sum(1, keepdims=True) / r.shape[1] if self.centred else np.zeros((1, 1), r.dtype)
        return m, self.second_moment(r - m)

    def forward(self, x):
        r = self.rows(x)
        m, v = self.statistics(r)
        self.c, self.f, self.s = r - m, self.factor(v), self.slope(v)
        self.z = self.back(self.c * self.f, x.shape)
        out = self.z
        if self.gamma is not None:
            out = out * self.weight(self.along(self.gamma, x))
        if self.beta is not None:
            out = out + self.along(self.beta, x)
        return out.copy()

    def through_statistics(self, d):
        """What x's own row gets from the mean and the variance."""
        n = d.shape[1]
        to_v = (d * self.c).sum(1, keepdims=True) * self.s
        direct = d * self.f + to_v * 2 * self.c / n
        return direct - (d * self.f).sum(1, keepdims=True) / n if self.centred else direct

    def backward(self, dy):
        d = dy
        if self.gamma is not None:
            d = dy * self.weight(self.along(self.gamma, dy))
            self.dgamma = self.onto(dy * self.z)
        if self.beta is not None:
            self.dbeta = self.onto(dy)
        return self.back(self.through_statistics(self.rows(d)), dy.shape)


class RowsLayerNorm(OverRows):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.parameters(self.shape, elementwise_affine, bias)

    def rows(self, x):
        return np.array(x).reshape(-1, int(np.prod(self.shape)))

    def back(self, r, shape):
        return r.reshape(shape)

    def along(self, p, x):
        return p.astype(x.dtype)

    def onto(self, t):
        return t.sum(axis=tuple(range(t.ndim - len(self.shape))))


class RowsRMSNorm(RowsLayerNorm):
    centred = False
    none = None

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False)
        self.asked = eps

    def forward(self, x):
        own = np.finfo(x.dtype).eps if self.none is None else self.none
        self.eps = float(own) if self.asked is None else self.asked
        return super().forward(x)


class RowsOfChannels(OverRows):
    def along(self, p, x):
        return p.astype(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))

    def onto(self, t):
        return t.sum(axis=(0, *range(2, t.ndim)))


class RowsGroupNorm(RowsOfChannels):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.groups, self.eps = num_groups, eps
        self.parameters(num_channels, affine)

    def rows(self, x):
        return np.array(x).reshape(x.shape[0] * self.groups, -1)

    def back(self, r, shape):
        return r.reshape(shape)


class RowsInstanceNorm(RowsOfChannels):
    def __init__(self, num_features, eps=1e-5, affine=False):
        self.eps = eps
        self.parameters(num_features, affine)

    def rows(self, x):
        return np.array(x).reshape(x.shape[0] * x.shape[1], -1)

    def back(self, r, shape):
        return r.reshape(shape)


class RowsBatchNorm(RowsOfChannels):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.eps, self.momentum, self.training, self.seen = eps, momentum, True, 0
        self.track = track_running_stats
        self.running_mean = np.zeros(num_features) if self.track else None
        self.running_var = np.ones(num_features) if self.track else None
        self.parameters(num_features, affine)

    def rows(self, x):
        return np.swapaxes(x, 0, 1).reshape(x.shape[1], -1)

    def back(self, r, shape):
        return np.swapaxes(r.reshape(shape[1], shape[0], *shape[2:]), 0, 1)

    def forward(self, x):
        self.batch = len(x)
        self.fixed = self.track and not self.training
        return super().forward(x)

    def statistics(self, r):
        if self.fixed:
            return self.running_mean.astype(r.dtype)[:, None], self.running_var.astype(r.dtype)[:, None]
        m, v = super().statistics(r)
        if self.track:
            self.seen += 1
            new, n = self.momentum if self.momentum is not None else 1 / self.seen, r.shape[1]
            self.running_mean = (1 - new) * self.running_mean.astype(r.dtype) + new * m[:, 0]
            self.running_var = (1 - new) * self.running_var.astype(r.dtype) + new * v[:, 0] * n / max(n - 1, 1)
        return m, v

    def through_statistics(self, d):
        return d * self.f if self.fixed else super().through_statistics(d)


# --- axis by axis -----------------------------------------------------------------------------------------------------


class Axiswise:
    """Right. `view(x)` gives x in a shape and the axes that share a mean; `first` and `second` are dx's two averages."""

    learns = True

    def setup(self, shape, eps, affine, bias=True):
        self.eps = eps
        self.gamma = np.ones(shape) if affine else None
        self.beta = np.zeros(shape) if affine and bias else None
        self.dgamma = self.dbeta = None

    def first(self, d):
        return np.mean(d, axis=self.axes, keepdims=True)

    def second(self, dz):
        return np.mean(dz, axis=self.axes, keepdims=True)

    def moments(self, v):
        mean = np.mean(v, axis=self.axes, keepdims=True)
        return mean, np.mean((v - mean) ** 2, axis=self.axes, keepdims=True)

    def forward(self, x):
        v, self.axes = self.view(np.array(x))
        mean, var = self.moments(v)
        self.std = np.sqrt(var + self.eps)
        self.z = (v - mean) / self.std
        y = self.z.reshape(x.shape)
        self.zx = y
        y = y if self.gamma is None else y * self.broad(self.gamma, x)
        return y.copy() if self.beta is None else y + self.broad(self.beta, x)

    def backward(self, dy):
        d = dy
        if self.gamma is not None:
            self.dgamma = np.sum(dy * self.zx, axis=self.others(dy))
            d = dy * self.broad(self.gamma, dy)
        if self.beta is not None:
            self.dbeta = np.sum(dy, axis=self.others(dy))
        d = d.reshape(self.z.shape)
        if self.learns:
            d = d - self.first(d) - self.z * self.second(d * self.z)
        return (d / self.std).reshape(dy.shape)

    def others(self, dy):
        return (0, *range(2, dy.ndim))

    def broad(self, p, x):
        return p.astype(x.dtype).reshape(1, -1, *(1,) * (x.ndim - 2))


class AxisLayerNorm(Axiswise):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.setup(self.shape, eps, elementwise_affine, bias)

    def view(self, x):
        return x, tuple(range(x.ndim - len(self.shape), x.ndim))

    def broad(self, p, x):
        return p.astype(x.dtype).reshape((1,) * (x.ndim - p.ndim) + p.shape)

    def others(self, dy):
        return tuple(range(dy.ndim - len(self.shape)))


class AxisGroupNorm(Axiswise):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.groups = num_groups
        self.setup(num_channels, eps, affine)

    def view(self, x):
        v = x.reshape(len(x), self.groups, -1, *x.shape[2:])
        return v, tuple(range(2, v.ndim))


class AxisInstanceNorm(Axiswise):
    def __init__(self, num_features, eps=1e-5, affine=False):
        self.setup(num_features, eps, affine)

    def view(self, x):
        return x, tuple(range(2, x.ndim))


class AxisBatchNorm(Axiswise):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.momentum, self.track, self.training, self.steps = momentum, track_running_stats, True, 0
        self.running_mean = np.zeros(num_features) if self.track else None
        self.running_var = np.ones(num_features) if self.track else None
        self.setup(num_features, eps, affine)

    def view(self, x):
        self.learns = self.training or not self.track
        return x, (0, *range(2, x.ndim))

    def moments(self, v):
        if not self.learns:
            return self.broad(self.running_mean, v), self.broad(self.running_var, v)
        mean, var = super().moments(v)
        if self.track:
            self.steps += 1
            a, n = 1 / self.steps if self.momentum is None else self.momentum, v.size // v.shape[1]
            self.running_mean = (1 - a) * self.running_mean.astype(v.dtype) + a * mean.ravel()
            self.running_var = (1 - a) * self.running_var.astype(v.dtype) + a * var.ravel() * n / max(n - 1, 1)
        return mean, var
