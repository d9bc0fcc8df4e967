"""BatchNorm written for speed, with a (C, M) work buffer; and what such code does to its caller.

Mistakes of memory, layout and dtype: the values are right at the first call on plain arrays.
It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class BufferBatchNorm:
    """Right. x is copied once, channels first; the copy becomes xhat in place."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        self.training = True
        self.tracked = 0
        self.gamma = np.ones(num_features) if affine else None
        self.beta = np.zeros(num_features) if affine else None
        self.dgamma = self.dbeta = self.running_mean = self.running_var = None
        if track_running_stats:
            self.running_mean = np.zeros(num_features)
            self.running_var = np.ones(num_features)

    # (N, C, ...) to (C, M) and back; always copies

    def pack(self, a):
        packed = np.empty((self.num_features, a.size // self.num_features), a.dtype)
        packed.reshape(a.shape[1], a.shape[0], *a.shape[2:])[...] = a.swapaxes(0, 1)
        return packed

    def pack_gradient(self, dy):
        return self.pack(dy)

    def unpack(self, packed, shape):
        out = np.empty(shape, packed.dtype)
        out.swapaxes(0, 1)[...] = packed.reshape(shape[1], shape[0], *shape[2:])
        return out

    def learn(self, mean, var, m):
        self.tracked += 1
        w = self.momentum if self.momentum is not None else 1 / self.tracked
        self.running_mean = ((1 - w) * self.running_mean + w * mean[:, 0]).astype(mean.dtype)
        self.running_var = ((1 - w) * self.running_var + w * m / max(m - 1, 1) * var[:, 0]).astype(var.dtype)

    def epsilon(self):
        return self.eps

    def rows_in(self, work):
        return work.shape[1]

    def save(self, xhat, rstd, mean, x):
        self.xhat, self.rstd, self.mean = xhat, rstd, mean

    def forward(self, x):
        work = self.pack(x)
        self.over_batch = self.training or not self.track_running_stats
        if self.over_batch:
            mean = work.mean(axis=1, keepdims=True)
            np.subtract(work, mean, out=work)
            var = np.square(work).mean(axis=1, keepdims=True)
            if self.training and self.track_running_stats:
                self.learn(mean, var, work.shape[1])
        else:
            mean = self.running_mean[:, None].astype(x.dtype)
            np.subtract(work, mean, out=work)
            var = self.running_var[:, None].astype(x.dtype)
        rstd = 1 / np.sqrt(var + self.epsilon())
        xhat = work * rstd
        self.save(xhat, rstd, mean, x)
        if self.gamma is None:
            return self.unpack(xhat, x.shape)
        y = xhat * self.gamma[:, None].astype(x.dtype)
        y += self.beta[:, None]
        return self.unpack(y, x.shape)

    def backward(self, dy):
        d, dx = self.pack_gradient(dy), None
        if self.gamma is not None:
            self.dbeta = d.sum(axis=1)
            self.dgamma = np.einsum("cm,cm->c", d, self.xhat)
            d *= self.gamma[:, None]
        if self.over_batch:
            m = self.rows_in(d)
            dx = d - np.add.reduce(d, axis=1, keepdims=True) / m
            dx = dx - self.xhat * (np.einsum("cm,cm->c", d, self.xhat)[:, None] / m)
        else:
            dx = d
        return self.unpack(dx * self.rstd, dy.shape)


class BufferStaleFirstCall(BufferBatchNorm):
    xhat = None

    def save(self, xhat, rstd, mean, x):
        if self.xhat is None:
            super().save(xhat, rstd, mean, x)  # planted: filled by the first forward, never again


class BufferStaleByShape(BufferBatchNorm):
    def save(self, xhat, rstd, mean, x):
        self.__dict__.setdefault("saved", {}).setdefault(x.shape, (xhat, rstd))  # planted: one cache per shape
        self.xhat, self.rstd = self.saved[x.shape]


class BufferStaleRstd(BufferBatchNorm):
    def save(self, xhat, rstd, mean, x):
        before = getattr(self, "new_rstd", rstd)
        self.new_rstd = rstd
        super().save(xhat, before, mean, x)  # planted: the rstd of the forward before this one


class BufferInputCentredInPlace(BufferBatchNorm):
    def forward(self, x):
        y = super().forward(x)
        if self.over_batch:
            mean = x.mean(axis=(0, *range(2, x.ndim)), keepdims=True)
            x -= mean  # planted: the caller's array; nothing here needs it any more
        return y


class BufferInputBecomesOutput(BufferBatchNorm):
    def forward(self, x):
        x[...] = super().forward(x)  # planted: the output is written over the input
        return x


class BufferInputIsScratch(BufferBatchNorm):
    def save(self, xhat, rstd, mean, x):
        super().save(xhat, rstd, mean, x)
        self.scratch = x

    def backward(self, dy):
        np.copyto(self.scratch, super().backward(dy))  # planted: the caller's x serves as the buffer of dx
        return self.scratch.copy()


class BufferUpstreamTimesGamma(BufferBatchNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.gamma is not None:
            dy *= self.gamma.reshape(1, -1, *[1] * (dy.ndim - 2))  # planted: the caller's dy
        return dx


class BufferUpstreamView(BufferBatchNorm):
    def pack_gradient(self, dy):
        if dy.ndim == 2:
            return dy.T  # planted: in 2D no copy is made, and d *= gamma writes through
        return super().pack_gradient(dy)


class BufferDxIntoDy(BufferBatchNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        dy[...] = dx  # planted: dx is written over dy and handed back as dx
        return dy


class BufferEvalDxIntoDy(BufferBatchNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        return dx if self.over_batch else np.add(dx, 0, out=dy)  # planted: in eval dx is dy's memory


class BufferRavelInMemoryOrder(BufferBatchNorm):
    def pack(self, a):
        a = np.ravel(a, order="K").reshape(a.shape)  # planted: the order of memory, not of the indices
        return super().pack(a)


class BufferIgnoresStrides(BufferBatchNorm):
    def pack_gradient(self, dy):
        if not dy.flags.c_contiguous and isinstance(dy.base, np.ndarray):
            dy = np.resize(dy.base, dy.shape)  # planted: reads the owner's memory from its start, without strides
        return super().pack(dy)


class BufferWritesIntoLostCopy(BufferBatchNorm):
    def forward(self, x):
        values = super().forward(x)
        y = np.zeros_like(x)  # planted: keeps the layout of x, so that the reshape below may be a copy
        y.reshape(-1)[:] = values.reshape(-1)
        return y


class BufferDemotedCache(BufferBatchNorm):
    def save(self, xhat, rstd, mean, x):
        super().save(xhat.astype(np.float32), rstd, mean, x)  # planted: half the memory, half the digits


class BufferDemotedThroughout(BufferBatchNorm):
    def pack(self, a):
        return super().pack(a.astype(np.float32))  # planted: float32 whatever comes in

    def forward(self, x):
        return super().forward(x.astype(np.float32))


planted = partial(wrong, "BatchNorm", style="work buffer; ")

ROWS = (
    planted(
        BufferStaleFirstCall,
        "stale-cache",
        "dx dgamma",
        "first forward's cache for ever; another shape may raise",
        raises=True,
    ),
    planted(BufferStaleByShape, "stale-cache", "dx dgamma", "a cache per shape, filled once; the same shape shows it"),
    planted(BufferStaleRstd, "stale-cache", "dx", "rstd lags one forward, xhat does not; the first call is right"),
    planted(
        BufferInputCentredInPlace, "input-mutated", "y", "x is centred in training forwards; y is right", raises=True
    ),
    planted(BufferInputBecomesOutput, "input-mutated", "y", "y is x itself; its values are right", raises=True),
    planted(BufferInputIsScratch, "input-mutated", "dx", "the backward writes dx into x; dx is right", raises=True),
    planted(BufferUpstreamTimesGamma, "upstream-gradient-mutated", "dx", "dy *= gamma; dx is right", raises=True),
    planted(
        BufferUpstreamView, "upstream-gradient-mutated", "dx", "only in 2D: dy.T is a view; dx is right", raises=True
    ),
    planted(BufferDxIntoDy, "upstream-gradient-mutated", "dx", "dy[...] = dx; its values are right", raises=True),
    planted(BufferEvalDxIntoDy, "upstream-gradient-mutated", "dx", "only in eval: out=dy; its values are right"),
    planted(
        BufferRavelInMemoryOrder,
        "layout-dependent",
        "y dx dgamma dbeta running_mean running_var",
        "ravel order K, for x and dy: transposed memory is wrong, slices are right",
    ),
    planted(BufferIgnoresStrides, "layout-dependent", "dx dgamma dbeta", "dy only: reads its base without strides"),
    planted(BufferWritesIntoLostCopy, "layout-dependent", "y", "zeros_like + reshape: y is zero for transposed x"),
    planted(BufferDemotedCache, "dtype-demoted", "dx dgamma", "xhat is kept as float32; y and the dtypes are right"),
    planted(
        BufferDemotedThroughout, "dtype-demoted", "y dx dgamma dbeta running_mean running_var", "everything is float32"
    ),
)
