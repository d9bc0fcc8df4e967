"""Right layers on top of a small autodiff engine: no gradient formula is written anywhere, a tape finds it.

Must not know `reference` or `npnorm`: it is what these are judged with.
"""

import numpy as np

from tests.planted.row import right


def unbroadcast(grad, shape):
    """Sums a gradient back to the shape its operand had before it was broadcast."""
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and grad.shape[i] != 1)
    return grad.sum(axis=stretched, keepdims=True) if stretched else grad


class Value:
    """An array, its gradient, and how to hand a gradient on to what it was made from."""

    def __init__(self, data, parents=(), pull=None):
        self.data, self.parents, self.pull, self.grad = data, parents, pull, None

    def make(self, data, *pairs):
        """`pairs` are (parent, function from the output's gradient to the parent's)."""
        return Value(data, [p for p, _ in pairs], [f for _, f in pairs])

    def __add__(self, other):
        if not isinstance(other, Value):
            return self.make(self.data + other, (self, lambda g: g))
        return self.make(self.data + other.data, (self, lambda g: g), (other, lambda g: g))

    def __sub__(self, other):
        return self.make(self.data - other.data, (self, lambda g: g), (other, lambda g: -g))

    def __mul__(self, other):
        a, b = self.data, other.data
        return self.make(a * b, (self, lambda g: g * b), (other, lambda g: g * a))

    def __pow__(self, k):
        a = self.data
        return self.make(a**k, (self, lambda g: g * k * a ** (k - 1)))

    def mean(self, axes):
        data = self.data.mean(axis=axes, keepdims=True)
        count = self.data.size // data.size
        return self.make(data, (self, lambda g: np.broadcast_to(g / count, self.data.shape)))

    def reshape(self, shape):
        return self.make(self.data.reshape(shape), (self, lambda g: g.reshape(self.data.shape)))

    def backward(self, seed):
        order, seen = [], set()

        def visit(node):
            if id(node) not in seen:
                seen.add(id(node))
                for parent in node.parents:
                    visit(parent)
                order.append(node)

        visit(self)
        for node in order:
            node.grad = np.zeros_like(node.data)
        self.grad = seed.copy()
        for node in reversed(order):
            for parent, pull in zip(node.parents, node.pull or (), strict=True):
                parent.grad = parent.grad + unbroadcast(pull(node.grad), parent.data.shape)


class _OnTape:
    """forward records `graph`, backward plays it back; parameters enter the tape at every forward."""

    gamma = beta = dgamma = dbeta = None

    def forward(self, x):
        self.x = Value(x.copy())
        self.leaves = {
            name: Value(getattr(self, name).astype(x.dtype))
            for name in ("gamma", "beta")
            if getattr(self, name) is not None
        }
        self.y = self.graph(self.x)
        return self.y.data.copy()

    def backward(self, dy):
        self.y.backward(dy)
        for name, leaf in self.leaves.items():
            setattr(self, "d" + name, leaf.grad)
        return self.x.grad

    def affine(self, h, shape):
        if "gamma" in self.leaves:
            h = h * self.leaves["gamma"].reshape(shape)
        if "beta" in self.leaves:
            h = h + self.leaves["beta"].reshape(shape)
        return h


class TapeLayerNorm(_OnTape):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape, self.eps = tuple(np.atleast_1d(normalized_shape).tolist()), eps
        if elementwise_affine:
            self.gamma = np.ones(self.shape)
        if elementwise_affine and bias:
            self.beta = np.zeros(self.shape)

    def graph(self, x):
        axes = tuple(range(-len(self.shape), 0))
        centred = x - x.mean(axes)
        return self.affine(centred * ((centred**2).mean(axes) + self.eps) ** -0.5, self.shape)


class TapeRMSNorm(_OnTape):
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.shape, self.eps = tuple(np.atleast_1d(normalized_shape).tolist()), eps
        if elementwise_affine:
            self.gamma = np.ones(self.shape)

    def graph(self, x):
        axes = tuple(range(-len(self.shape), 0))
        eps = float(np.finfo(x.data.dtype).eps) if self.eps is None else self.eps
        return self.affine(x * ((x * x).mean(axes) + eps) ** -0.5, self.shape)


class TapeGroupNorm(_OnTape):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.eps = num_groups, eps
        if affine:
            self.gamma, self.beta = np.ones(num_channels), np.zeros(num_channels)

    def graph(self, x):
        shape = x.data.shape
        h = x.reshape((shape[0], self.num_groups, -1))
        h = h - h.mean((2,))
        h = h * ((h * h).mean((2,)) + self.eps) ** -0.5
        return self.affine(h.reshape(shape), (1, -1) + (1,) * (len(shape) - 2))


class TapeInstanceNorm(_OnTape):
    def __init__(self, num_features, eps=1e-5, affine=False):
        self.eps = eps
        if affine:
            self.gamma, self.beta = np.ones(num_features), np.zeros(num_features)

    def graph(self, x):
        axes = tuple(range(2, x.data.ndim))
        h = x - x.mean(axes)
        return self.affine(h * ((h**2).mean(axes) + self.eps) ** -0.5, (-1,) + (1,) * len(axes))


class TapeBatchNorm(_OnTape):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.eps, self.momentum, self.training, self.steps = eps, momentum, True, 0
        if affine:
            self.gamma, self.beta = np.ones(num_features), np.zeros(num_features)
        tracked = track_running_stats
        self.running_mean = np.zeros(num_features) if tracked else None
        self.running_var = np.ones(num_features) if tracked else None

    def graph(self, x):
        axes = (0, *range(2, x.data.ndim))
        column = (1, -1) + (1,) * (x.data.ndim - 2)
        if self.training or self.running_mean is None:
            mean = x.mean(axes)
            var = ((x - mean) ** 2).mean(axes)
            if self.running_mean is not None:
                self.track(mean.data.ravel(), var.data.ravel(), x.data.size // x.data.shape[1])
        else:
            mean = Value(self.running_mean.astype(x.data.dtype).reshape(column))
            var = Value(self.running_var.astype(x.data.dtype).reshape(column))
        return self.affine((x - mean) * (var + self.eps) ** -0.5, column)

    def track(self, mean, var, n):
        self.steps += 1
        a = 1 / self.steps if self.momentum is None else self.momentum
        self.running_mean = (self.running_mean * (1 - a) + mean * a).astype(mean.dtype)
        self.running_var = (self.running_var * (1 - a) + var * a * (n / max(n - 1, 1))).astype(var.dtype)


ROWS = (
    right("LayerNorm", TapeLayerNorm, "autodiff tape; right"),
    right("RMSNorm", TapeRMSNorm, "autodiff tape; right"),
    right("GroupNorm", TapeGroupNorm, "autodiff tape over (N, G, -1); right"),
    right("InstanceNorm", TapeInstanceNorm, "autodiff tape; right"),
    right("BatchNorm", TapeBatchNorm, "autodiff tape, running statistics as constants in eval; right"),
)
