"""The four layers with a mean, axis by axis with keepdims; one of the two means of dx is left a sum, or has no eps.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

import numpy as np

from tests.planted.row import Planted


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


class FirstSummed:
    def first(self, d):
        return np.sum(d, axis=self.axes, keepdims=True)  # planted: mean


class SecondSummed:
    def second(self, dz):
        return np.sum(dz, axis=self.axes, keepdims=True)  # planted: mean


class LayerNormFirstSummed(FirstSummed, AxisLayerNorm):
    pass


class GroupNormFirstSummed(FirstSummed, AxisGroupNorm):
    pass


class InstanceNormFirstSummed(FirstSummed, AxisInstanceNorm):
    pass


class BatchNormFirstSummed(FirstSummed, AxisBatchNorm):
    pass


class LayerNormSecondSummed(SecondSummed, AxisLayerNorm):
    pass


class GroupNormSecondSummed(SecondSummed, AxisGroupNorm):
    pass


class InstanceNormSecondSummed(SecondSummed, AxisInstanceNorm):
    pass


class BatchNormSecondSummed(SecondSummed, AxisBatchNorm):
    pass


class EpsForgotten:
    """The variance's gradient is -0.5 * sum(d * c) * (var + eps)**-1.5, in which a line may have no eps."""

    powers = 1

    def moments(self, v):
        mean, self.var = super().moments(v)
        return mean, self.var

    def second(self, dz):
        bare = np.sqrt(self.var + self.eps) / np.sqrt(self.var)
        return super().second(dz) * bare**self.powers  # planted: so many of the three roots are of var alone


class LayerNormEpsForgottenInRoot(EpsForgotten, AxisLayerNorm):
    pass


class GroupNormEpsForgottenInPower(EpsForgotten, AxisGroupNorm):
    powers = 3


class InstanceNormEpsForgottenInPower(EpsForgotten, AxisInstanceNorm):
    powers = 3


class BatchNormEpsForgottenInRoot(EpsForgotten, AxisBatchNorm):
    pass


def _row(like, layer, fault, when="when more than one share a mean"):
    return Planted(layer, like, frozenset({fault}), frozenset({"dx"}), f"axis by axis; {when}")


ROWS: tuple[Planted, ...] = (
    _row("LayerNorm", LayerNormFirstSummed, "dx-mean-term-sum"),
    _row("GroupNorm", GroupNormFirstSummed, "dx-mean-term-sum"),
    _row("InstanceNorm", InstanceNormFirstSummed, "dx-mean-term-sum"),
    _row("BatchNorm", BatchNormFirstSummed, "dx-mean-term-sum"),
    _row("LayerNorm", LayerNormSecondSummed, "dx-projection-term-sum"),
    _row("GroupNorm", GroupNormSecondSummed, "dx-projection-term-sum"),
    _row("InstanceNorm", InstanceNormSecondSummed, "dx-projection-term-sum"),
    _row("BatchNorm", BatchNormSecondSummed, "dx-projection-term-sum"),
    _row("LayerNorm", LayerNormEpsForgottenInRoot, "dx-eps-missing", "near eps"),
    _row("GroupNorm", GroupNormEpsForgottenInPower, "dx-eps-missing", "near eps"),
    _row("InstanceNorm", InstanceNormEpsForgottenInPower, "dx-eps-missing", "near eps"),
    _row("BatchNorm", BatchNormEpsForgottenInRoot, "dx-eps-missing", "near eps"),
)
