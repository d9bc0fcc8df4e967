"""Right layers made of two operators: a mean over what shares statistics, and a sum to a parameter's shape.

A layer is then a few lines of algebra, each of which a `pairs.py` can exchange.
Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import right


class Operators:
    """Right, for the three layers below, which say what `avg`, `total` and `wide` mean for them."""

    def setup(self, shape, eps, affine, bias):
        self.eps = eps
        self.gamma = np.ones(shape) if affine else None
        self.beta = np.zeros(shape) if affine and bias else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        self.x, self.ndim = x.copy(), x.ndim
        self.centred = x - self.centre(x)
        self.rstd = self.inverse(self.avg(self.centred**2))
        self.xhat = self.centred * self.rstd
        self.w = np.ones_like(x) if self.gamma is None else self.wide(self.gamma.astype(x.dtype))
        self.b = np.zeros_like(x) if self.beta is None else self.wide(self.beta.astype(x.dtype))
        return self.output(self.xhat)

    def backward(self, dy):
        if self.gamma is not None:
            self.dgamma = self.gamma_gradient(dy)
        if self.beta is not None:
            self.dbeta = self.beta_gradient(dy)
        return self.dx(dy)

    def centre(self, x):
        return self.avg(x)

    def inverse(self, var):
        return (var + self.eps) ** -0.5

    def output(self, xhat):
        return self.w * xhat + self.b

    def gamma_gradient(self, dy):
        return self.total(dy * self.xhat)

    def beta_gradient(self, dy):
        return self.total(dy)

    def dx(self, dy):
        d = self.w * dy
        return self.rstd * (d - self.avg(d) - self.xhat * self.avg(d * self.xhat))


class OperatorGroupNorm(Operators):
    """Right."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.setup((num_channels,), eps, affine, True)
        self.group = (num_groups, num_channels // num_groups)

    def avg(self, t):
        split = t.reshape(len(t), *self.group, *t.shape[2:])
        axes = tuple(range(2, split.ndim))
        return np.broadcast_to(split.mean(axes, keepdims=True), split.shape).reshape(t.shape)

    def count(self, t):
        return np.prod(t.shape[2:], dtype=int).item() * self.group[1]

    def total(self, t):
        return np.moveaxis(t, 1, 0).reshape(t.shape[1], t.size // t.shape[1]).sum(1)

    def wide(self, p):
        return p.reshape(-1, *[1] * (self.ndim - 2))


class OperatorLayerNorm(Operators):
    """Right."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = np.zeros(normalized_shape).shape
        self.setup(self.shape, eps, elementwise_affine, bias)

    def avg(self, t):
        return t.mean(tuple(range(t.ndim - len(self.shape), t.ndim)), keepdims=True)

    def count(self, t):
        return np.prod(self.shape, dtype=int).item()

    def total(self, t):
        return t.sum(tuple(range(t.ndim - len(self.shape))))

    def wide(self, p):
        return p


class OperatorRMSNorm(OperatorLayerNorm):
    """Right."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        super().__init__(normalized_shape, eps, elementwise_affine, False)

    def forward(self, x):
        self.machine_eps = np.finfo(x.dtype).eps.item()
        return super().forward(x)

    def centre(self, x):
        return np.zeros((), x.dtype)

    def inverse(self, ms):
        return (ms + (self.machine_eps if self.eps is None else self.eps)) ** -0.5

    def dx(self, dy):
        d = self.w * dy
        return self.rstd * (d - self.xhat * self.avg(d * self.xhat))


ROWS = (
    right("GroupNorm", OperatorGroupNorm, "two operators and algebra: right"),
    right("LayerNorm", OperatorLayerNorm, "two operators and algebra: right"),
    right("RMSNorm", OperatorRMSNorm, "two operators and algebra: right"),
)
