"""All five layers over one matrix whose rows share their statistics; mistakes in the scale, and in gamma.

A layer says how x becomes rows and back; what multiplies the centred rows is one function of their variance, and the
backward goes through it by its slope. It must not know `reference` or `npnorm`: the corpus judges them.
"""

import numpy as np

from tests.planted.row import Planted


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


# --- the variance squared ---------------------------------------------------------------------------------------------


class LayerNormSquared(RowsLayerNorm):
    def factor(self, v):
        return (v + self.eps) ** -2.0  # planted: ** -0.5

    def slope(self, v):
        return -2 * (v + self.eps) ** -3.0  # its own


class RMSNormSquared(RowsRMSNorm):
    def factor(self, v):
        return 1 / np.square(v + self.eps)  # planted: np.sqrt


class GroupNormSquared(RowsGroupNorm):
    def factor(self, v):
        return 1 / np.square(v + self.eps)  # planted: np.sqrt


class InstanceNormSquared(RowsInstanceNorm):
    def factor(self, v):
        return 1 / (v + self.eps) / (v + self.eps)  # planted: not a root

    def slope(self, v):
        return -2 / (v + self.eps) ** 3


class BatchNormSquared(RowsBatchNorm):
    def factor(self, v):
        return 1 / np.square(v + self.eps)  # planted: np.sqrt


# --- divided by rsqrt -------------------------------------------------------------------------------------------------


class LayerNormOverRsqrt(RowsLayerNorm):
    def factor(self, v):
        return np.sqrt(v + self.eps)  # planted: x / rsqrt(v)

    def slope(self, v):
        return 0.5 / np.sqrt(v + self.eps)


class RMSNormOverRsqrt(RowsRMSNorm):
    def factor(self, v):
        rsqrt = 1 / np.sqrt(v + self.eps)
        return 1 / rsqrt  # planted: it is divided by


class GroupNormOverRsqrt(RowsGroupNorm):
    def factor(self, v):
        return np.sqrt(v + self.eps)  # planted: x / rsqrt(v)

    def slope(self, v):
        return -0.5 * np.sqrt(v + self.eps) ** 3  # as if it were rsqrt


class InstanceNormOverRsqrt(RowsInstanceNorm):
    def factor(self, v):
        return np.sqrt(v + self.eps)  # planted: x / rsqrt(v)


class BatchNormOverRsqrt(RowsBatchNorm):
    def factor(self, v):
        return np.sqrt(v + self.eps)  # planted: x / rsqrt(v)

    def slope(self, v):
        return 0.5 / np.sqrt(v + self.eps)


# --- 1 + gamma --------------------------------------------------------------------------------------------------------


class PlusOne:
    def weight(self, gamma):
        return 1 + gamma  # planted: gamma is the distance from 1


class LayerNormPlusOne(PlusOne, RowsLayerNorm):
    pass


class RMSNormPlusOne(PlusOne, RowsRMSNorm):
    pass


class GroupNormPlusOne(PlusOne, RowsGroupNorm):
    pass


class InstanceNormPlusOne(PlusOne, RowsInstanceNorm):
    pass


class BatchNormPlusOne(PlusOne, RowsBatchNorm):
    pass


# --- of one layer -----------------------------------------------------------------------------------------------------


class RMSNormByVariance(RowsRMSNorm):
    def second_moment(self, c):
        return c.var(1, keepdims=True)  # planted: the mean is taken off

    def through_statistics(self, d):
        to_v = (d * self.c).sum(1, keepdims=True) * self.s
        return d * self.f + to_v * 2 * (self.c - self.c.mean(1, keepdims=True)) / d.shape[1]


class RMSNormByUnbiasedVariance(RowsRMSNorm):
    def second_moment(self, c):
        n = c.shape[1]
        return np.square(c - c.mean(1, keepdims=True)).sum(1, keepdims=True) / (n - 1 if n > 1 else np.nan)  # planted


class RMSNormNoneIsMillionth(RowsRMSNorm):
    none = 1e-6  # planted: for eps=None


class RMSNormNoneIsLayerNorms(RowsRMSNorm):
    none = 1e-5  # planted: for eps=None


class BatchNormOverBatch(RowsBatchNorm):
    def second_moment(self, c):
        return (c * c).sum(1, keepdims=True) / self.batch  # planted: of batch times space squares


class BatchNormOverBatchAlone(RowsBatchNorm):
    """The running variance is another line, and right."""

    def statistics(self, r):
        m, v = super().statistics(r)
        return m, v if self.fixed else v * (r.shape[1] / self.batch)  # planted: batch times space squares over batch


class BatchNormEvalWithoutEps(RowsBatchNorm):
    def factor(self, v):
        return 1 / np.sqrt(v) if self.fixed else super().factor(v)  # planted: eps in training alone


def _row(like, layer, fault, quantities, note):
    return Planted(layer, like, frozenset({fault}), frozenset(quantities.split()), f"over rows; {note}")


ROWS: tuple[Planted, ...] = (
    _row("LayerNorm", LayerNormSquared, "variance-squared", "y dx dgamma", "its own derivative"),
    _row("RMSNorm", RMSNormSquared, "variance-squared", "y dx dgamma", "the usual backward over the wrong factor"),
    _row("GroupNorm", GroupNormSquared, "variance-squared", "y dx dgamma", "the usual backward over the wrong factor"),
    _row("InstanceNorm", InstanceNormSquared, "variance-squared", "y dx dgamma", "its own derivative"),
    _row("BatchNorm", BatchNormSquared, "variance-squared", "y dx dgamma", "the usual backward over the wrong factor"),
    _row("LayerNorm", LayerNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "its own derivative"),
    _row("RMSNorm", RMSNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "the usual backward over the wrong factor"),
    _row("GroupNorm", GroupNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "the usual backward over the wrong factor"),
    _row(
        "InstanceNorm",
        InstanceNormOverRsqrt,
        "divided-by-rstd",
        "y dx dgamma",
        "the usual backward over the wrong factor",
    ),
    _row("BatchNorm", BatchNormOverRsqrt, "divided-by-rstd", "y dx dgamma", "its own derivative"),
    _row("LayerNorm", LayerNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    _row("RMSNorm", RMSNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    _row("GroupNorm", GroupNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    _row("InstanceNorm", InstanceNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    _row("BatchNorm", BatchNormPlusOne, "gamma-plus-one", "y dx", "a convention"),
    _row("RMSNorm", RMSNormByVariance, "rms-uses-variance", "y dx dgamma", "its own derivative"),
    _row("RMSNorm", RMSNormByUnbiasedVariance, "rms-uses-variance", "y dx dgamma", "n - 1, as torch.var has it"),
    _row("RMSNorm", RMSNormNoneIsMillionth, "eps-default-for-none", "y dx dgamma", "1e-6; when eps is None"),
    _row("RMSNorm", RMSNormNoneIsLayerNorms, "eps-default-for-none", "y dx dgamma", "1e-5; when eps is None"),
    _row(
        "BatchNorm",
        BatchNormOverBatch,
        "variance-divided-by-batch",
        "y dx dgamma running_var",
        "running_var from the same line",
    ),
    _row("BatchNorm", BatchNormOverBatchAlone, "variance-divided-by-batch", "y dx dgamma", "running_var is right"),
    _row("BatchNorm", BatchNormEvalWithoutEps, "eval-eps-missing", "y dx dgamma", "eval only"),
)
