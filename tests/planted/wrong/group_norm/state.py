"""GroupNorms whose formulas are right and whose handling of memory, layout, dtype or state is not.

Two styles: a reshape to (N, G, -1) with a dictionary for a cache, and loops over samples and groups.
It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class ReshapedGroupNorm:
    """Right. (N, G, -1), statistics over the last axis, all that backward needs in a dictionary."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None
        self.cache = None

    def per_channel(self, p, like):
        return p.astype(like.dtype).reshape(1, self.num_channels, *[1] * (like.ndim - 2))

    def grouped(self, a):
        return np.array(a).reshape(len(a), self.num_groups, -1)

    def save(self, x, **values):
        self.cache = values

    def forward(self, x):
        xg = self.grouped(x)
        mean = xg.mean(axis=-1, keepdims=True)
        centred = xg - mean
        rstd = 1 / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        xhat = centred * rstd
        self.save(x, xhat=xhat, rstd=rstd, mean=mean)
        y = xhat.reshape(x.shape).copy()
        if self.gamma is not None:
            y = y * self.per_channel(self.gamma, x) + self.per_channel(self.beta, x)
        return y

    def set_parameter_gradients(self, dy, xhat):
        axes = tuple(i for i in range(dy.ndim) if i != 1)
        self.dgamma = np.sum(dy * xhat.reshape(dy.shape), axis=axes)
        self.dbeta = np.sum(dy, axis=axes)

    def backward(self, dy):
        xhat, rstd = self.cache["xhat"], self.cache["rstd"]
        d = dy
        if self.gamma is not None:
            self.set_parameter_gradients(dy, xhat)
            d = dy * self.per_channel(self.gamma, dy)
        d = self.grouped(d)
        dx = rstd * (d - d.mean(-1, keepdims=True) - xhat * (d * xhat).mean(-1, keepdims=True))
        return dx.reshape(dy.shape)


class ReshapedStaleByShape(ReshapedGroupNorm):
    def save(self, x, **values):
        if self.cache is None or self.cache["xhat"].size != x.size:
            self.cache = values  # planted: allocated once per size, and only then filled


class ReshapedInputCentredThroughView(ReshapedGroupNorm):
    def forward(self, x):
        y = super().forward(x)
        xg = x.reshape(len(x), self.num_groups, -1)
        xg -= self.cache["mean"]  # planted: for a contiguous x the reshape is x itself
        return y


class ReshapedUpstreamScaledInPlace(ReshapedGroupNorm):
    def backward(self, dy):
        kept = dy.copy()
        if self.gamma is not None:
            np.multiply(dy, self.per_channel(self.gamma, dy), out=dy)  # planted: the caller's dy
        return super().backward(kept)


class ReshapedDxIntoDy(ReshapedGroupNorm):
    def backward(self, dy):
        np.copyto(dy, super().backward(dy))
        return dy  # planted: dx is dy's memory


class ReshapedRavelInMemoryOrder(ReshapedGroupNorm):
    def grouped(self, a):
        return a.ravel(order="K").reshape(len(a), self.num_groups, -1).copy()  # planted: the order of memory


class ReshapedOutputBufferIsFloat32(ReshapedGroupNorm):
    def forward(self, x):
        y = np.empty(x.shape, dtype="f4")  # planted: float32 whatever x is
        y[...] = super().forward(x)
        return y


class ReshapedParameterGradientsAccumulate(ReshapedGroupNorm):
    def set_parameter_gradients(self, dy, xhat):
        before = (self.dgamma, self.dbeta)
        super().set_parameter_gradients(dy, xhat)
        if before[0] is not None:
            self.dgamma = self.dgamma + before[0]  # planted: as torch's .grad, and nothing sets it to zero
            self.dbeta = self.dbeta + before[1]


class ReshapedParameterGradientsMissing(ReshapedGroupNorm):
    def set_parameter_gradients(self, dy, xhat):
        pass  # planted: dgamma and dbeta stay None


class LoopedGroupNorm:
    """Right. One sample and one group at a time; keeps a copy of x, means and scales."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.G, self.C, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.gamma, self.beta = (np.ones(self.C), np.zeros(self.C)) if affine else (None, None)
        self.dgamma, self.dbeta = None, None

    def blocks(self, count):
        k = self.C // self.G
        return [(n, g, slice(g * k, g * k + k)) for n in range(count) for g in range(self.G)]

    def keep(self, x):
        self.x = x.copy()

    def statistics_like(self, x):
        return np.empty((len(x), self.G), x.dtype)

    def gradient_like(self, dy):
        return np.empty(dy.shape, dy.dtype)

    def parameters_of(self, channels, like):
        shape = (-1,) + (1,) * (like.ndim - 2)
        return (p[channels].reshape(shape).astype(like.dtype) for p in (self.gamma, self.beta))

    def forward(self, x):
        self.keep(x)
        self.mean, self.rstd = self.statistics_like(x), self.statistics_like(x)
        y = np.empty(x.shape, x.dtype)
        for n, g, channels in self.blocks(len(x)):
            block = x[n, channels]
            mean = block.sum() / block.size
            rstd = 1 / np.sqrt(((block - mean) ** 2).sum() / block.size + self.eps)
            self.mean[n, g], self.rstd[n, g] = mean, rstd
            y[n, channels] = (block - mean) * rstd
            if self.affine:
                gamma, beta = self.parameters_of(channels, x)
                y[n, channels] = gamma * y[n, channels] + beta
        return y

    def start_parameter_gradients(self, dtype):
        self.dgamma, self.dbeta = np.zeros(self.C, dtype), np.zeros(self.C, dtype)

    def backward(self, dy):
        dx = self.gradient_like(dy)
        if self.affine:
            self.start_parameter_gradients(dy.dtype)
        for n, g, channels in self.blocks(len(dy)):
            d, r = dy[n, channels], self.rstd[n, g]
            xhat = (self.x[n, channels] - self.mean[n, g]) * r
            if self.affine:
                positions = tuple(range(1, d.ndim))
                self.dgamma[channels] += (d * xhat).sum(axis=positions)
                self.dbeta[channels] += d.sum(axis=positions)
                d = d * next(iter(self.parameters_of(channels, dy)))
            dx[n, channels] = r * (d - d.sum() / d.size - xhat * ((d * xhat).sum() / d.size))
        return dx


class LoopedStaleScales(LoopedGroupNorm):
    def forward(self, x):
        earlier = getattr(self, "rstd", None)
        y = super().forward(x)
        if earlier is not None and earlier.shape == self.rstd.shape:
            self.rstd = earlier  # planted: the scales of the very first forward stay
        return y


class LoopedInputBecomesOutput(LoopedGroupNorm):
    def forward(self, x):
        y = super().forward(x)
        for n in range(len(x)):
            x[n] = y[n]  # planted: normalized in place
        return x


class LoopedInputIsScratchOfBackward(LoopedGroupNorm):
    def keep(self, x):
        super().keep(x)
        self.borrowed = x

    def backward(self, dy):
        dx = super().backward(dy)
        self.borrowed *= 0  # planted: "free" x once it is not needed, though it is the caller's
        return dx


class LoopedUpstreamCentredInPlace(LoopedGroupNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        for n, _, channels in self.blocks(len(dy)):
            dy[n, channels] -= dy[n, channels].mean()  # planted: the caller's dy
        return dx


class LoopedDxIntoDy(LoopedGroupNorm):
    def gradient_like(self, dy):
        return dy  # planted: each block is read before it is overwritten, so the values are right


class LoopedWritesIntoLostCopy(LoopedGroupNorm):
    def backward(self, dy):
        dx = np.zeros_like(dy)  # planted: has the layout of dy, the flat view below may be a copy
        dx.reshape(-1)[:] = super().backward(dy).reshape(-1)
        return dx


class LoopedStatisticsAreFloat32(LoopedGroupNorm):
    def statistics_like(self, x):
        return np.empty((len(x), self.G), np.float32)  # planted: mean and scale lose digits for the backward


class LoopedParameterGradientsAccumulate(LoopedGroupNorm):
    def start_parameter_gradients(self, dtype):
        if self.dgamma is None:
            super().start_parameter_gradients(dtype)  # planted: zero at the first call only


class LoopedParameterGradientsMissing(LoopedGroupNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.affine:
            self.start_parameter_gradients(dy.dtype)  # planted: "zero_grad" at the end instead of the beginning
        return dx


planted = partial(wrong, "GroupNorm")

ROWS = (
    planted(ReshapedStaleByShape, "stale-cache", "dx dgamma", "reshape; filled anew only when the size changes"),
    planted(
        ReshapedInputCentredThroughView, "input-mutated", "y", "reshape; contiguous x only; y is right", raises=True
    ),
    planted(
        ReshapedUpstreamScaledInPlace,
        "upstream-gradient-mutated",
        "dx",
        "reshape; dy *= gamma; dx is right",
        raises=True,
    ),
    planted(
        ReshapedDxIntoDy,
        "upstream-gradient-mutated",
        "dx",
        "reshape; copyto(dy, dx); its values are right",
        raises=True,
    ),
    planted(
        ReshapedRavelInMemoryOrder,
        "layout-dependent",
        "y dx dgamma",
        "reshape; ravel order K: transposed x, and dy where dx is concerned; slices are right",
    ),
    planted(ReshapedOutputBufferIsFloat32, "dtype-demoted", "y", "reshape; an f4 buffer for y; float64 in"),
    planted(
        ReshapedParameterGradientsAccumulate, "parameter-gradients-accumulate", "dgamma dbeta", "reshape; call two"
    ),
    planted(
        ReshapedParameterGradientsMissing, "parameter-gradients-missing", "dgamma dbeta", "reshape; they stay None"
    ),
    planted(LoopedStaleScales, "stale-cache", "dx dgamma", "loops; the first scales stay, xhat is built from them"),
    planted(LoopedInputBecomesOutput, "input-mutated", "y", "loops; y is x itself; its values are right", raises=True),
    planted(
        LoopedInputIsScratchOfBackward, "input-mutated", "dx", "loops; the backward zeroes x; dx is right", raises=True
    ),
    planted(
        LoopedUpstreamCentredInPlace,
        "upstream-gradient-mutated",
        "dx",
        "loops; dy is centred; dx is right",
        raises=True,
    ),
    planted(
        LoopedDxIntoDy,
        "upstream-gradient-mutated",
        "dx",
        "loops; dy is the buffer of dx; its values are right",
        raises=True,
    ),
    planted(LoopedWritesIntoLostCopy, "layout-dependent", "dx", "loops; zeros_like: dx is zero for transposed dy"),
    planted(LoopedStatisticsAreFloat32, "dtype-demoted", "dx dgamma", "loops; the dtypes are right, not the digits"),
    planted(LoopedParameterGradientsAccumulate, "parameter-gradients-accumulate", "dgamma dbeta", "loops; +="),
    planted(LoopedParameterGradientsMissing, "parameter-gradients-missing", "dgamma dbeta", "loops; always zero"),
)
