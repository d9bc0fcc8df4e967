"""LayerNorms whose formulas are right and whose handling of memory, layout, dtype or state is not.

Two styles: functions over an (M, D) matrix with a cache tuple, and a class over the trailing axes that hands
its backward a closure. It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


def layernorm_forward(rows, eps):
    """(M, D) -> xhat and the cache (xhat, rstd)."""
    centred = rows - rows.mean(axis=1)[:, None]
    rstd = (np.mean(centred**2, axis=1) + eps)[:, None] ** -0.5
    xhat = centred * rstd
    return xhat, (xhat, rstd)


def layernorm_backward(d, cache):
    """Gradient at xhat, (M, D), and the cache -> gradient at the rows."""
    xhat, rstd = cache
    along_one = d.mean(axis=1)[:, None]
    along_xhat = (d * xhat).mean(axis=1)[:, None]
    return (d - along_one - along_xhat * xhat) * rstd


class MatrixLayerNorm:
    """Right. A thin class around the two functions."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = (normalized_shape,) if np.isscalar(normalized_shape) else tuple(normalized_shape)
        self.width, self.eps = int(np.prod(self.shape)), eps
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.beta = np.zeros(self.shape) if elementwise_affine and bias else None
        self.dgamma = self.dbeta = self.cache = None

    def matrix(self, a):
        return a.reshape(-1, self.width)

    def gradient_matrix(self, dy):
        return self.matrix(dy)

    def row(self, parameter, dtype):
        return parameter.reshape(1, self.width).astype(dtype)

    def remember(self, cache, x):
        self.cache = cache

    def get_eps(self):
        return self.eps

    def forward(self, x):
        xhat, cache = layernorm_forward(self.matrix(x), self.get_eps())
        self.remember(cache, x)
        y = xhat.copy()
        if self.gamma is not None:
            y *= self.row(self.gamma, x.dtype)
        if self.beta is not None:
            y += self.row(self.beta, x.dtype)
        return y.reshape(x.shape)

    def parameter_gradients(self, d):
        dgamma = (d * self.cache[0]).sum(axis=0).reshape(self.shape)
        return dgamma, d.sum(axis=0).reshape(self.shape)

    def backward(self, dy):
        d = self.gradient_matrix(dy)
        if self.gamma is not None:
            dgamma, dbeta = self.parameter_gradients(d)
            self.dgamma, self.dbeta = dgamma, dbeta if self.beta is not None else None
            d = d * self.row(self.gamma, dy.dtype)
        return layernorm_backward(d, self.cache).reshape(dy.shape)


class MatrixStaleByObject(MatrixLayerNorm):
    def remember(self, cache, x):
        self.seen = getattr(self, "seen", {})
        self.seen.setdefault(id(x), (x, cache))  # planted: the same array with other numbers in it is not new
        self.cache = self.seen[id(x)][1]


class MatrixStaleQueue(MatrixLayerNorm):
    def remember(self, cache, x):
        self.queue = [*getattr(self, "queue", []), cache]

    def backward(self, dy):
        self.cache = self.queue.pop(0)  # planted: first in, first out; a forward without backward leaves one behind
        return super().backward(dy)


class MatrixInputCentredInPlace(MatrixLayerNorm):
    def forward(self, x):
        axes = tuple(range(x.ndim - len(self.shape), x.ndim))
        x -= x.mean(axis=axes, keepdims=True)  # planted: the caller's x
        return super().forward(x)


class MatrixUpstreamThroughView(MatrixLayerNorm):
    def backward(self, dy):
        d = dy.reshape(-1, self.width)
        dx = super().backward(dy.copy())
        if self.gamma is not None:
            d *= self.row(self.gamma, dy.dtype)  # planted: for a contiguous dy this is dy
        return dx


class MatrixDxIntoDy(MatrixLayerNorm):
    def backward(self, dy):
        return np.multiply(super().backward(dy), 1, out=dy)  # planted: out=dy, and dy comes back as dx


class MatrixIgnoresStrides(MatrixLayerNorm):
    def forward(self, x):
        if not x.flags.c_contiguous and isinstance(x.base, np.ndarray):
            x = np.resize(x.base, x.shape)  # planted: the owner's memory from its start, no strides, no offset
        return super().forward(x)


class MatrixGradientInFortranOrder(MatrixLayerNorm):
    def gradient_matrix(self, dy):
        order = "F" if dy.flags.f_contiguous and not dy.flags.c_contiguous else "C"
        return dy.ravel(order).reshape(-1, self.width)  # planted: order F, read back in order C


class MatrixCastsToFloat32(MatrixLayerNorm):
    def matrix(self, a):
        return a.reshape(-1, self.width).astype("float32")  # planted: float32 whatever comes in


class MatrixParameterGradientsInFloat32(MatrixLayerNorm):
    def parameter_gradients(self, d):
        dgamma, dbeta = (
            np.zeros(self.width, "f4"),
            np.zeros(self.width, "f4"),
        )  # planted: float32 sums
        for drow, xrow in zip(d, self.cache[0], strict=True):
            dgamma += (drow * xrow).astype("f4")
            dbeta += drow.astype("f4")
        return dgamma.reshape(self.shape).astype(d.dtype), dbeta.reshape(self.shape).astype(d.dtype)


class MatrixParameterGradientsAccumulate(MatrixLayerNorm):
    def parameter_gradients(self, d):
        dgamma, dbeta = super().parameter_gradients(d)
        self.sums = getattr(self, "sums", (0, 0))
        self.sums = self.sums[0] + dgamma, self.sums[1] + dbeta  # planted: over every call there ever was
        return self.sums


class MatrixParameterGradientsMissing(MatrixLayerNorm):
    def parameter_gradients(self, d):
        super().parameter_gradients(d)
        return None, None  # planted: the return of the sums is forgotten


class TrailingLayerNorm:
    """Right. Reduces over the trailing axes in place of reshaping; forward leaves a function for backward."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.normalized_shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self.eps = eps
        self.gamma = self.beta = None
        if elementwise_affine:
            self.gamma = np.ones(self.normalized_shape)
            self.beta = np.zeros(self.normalized_shape) if bias else None
        self.dgamma = self.dbeta = None

    def forward(self, x):
        k = len(self.normalized_shape)
        inner, outer = tuple(range(-k, 0)), tuple(range(x.ndim - k))

        def average(a):
            return a.mean(axis=inner, keepdims=True)

        centred = x - average(x)
        rstd = 1 / np.sqrt(average(centred**2) + self.eps)
        xhat = centred * rstd

        def pull(dy):
            d = dy * self.weight(dy.dtype)
            dx = rstd * (d - average(d) - xhat * average(d * xhat))
            return dx, (dy * xhat).sum(axis=outer), dy.sum(axis=outer)

        self.pull = pull
        y = xhat * self.weight(x.dtype)
        return y if self.beta is None else y + self.beta.astype(x.dtype)

    def weight(self, dtype):
        return np.ones((), dtype) if self.gamma is None else self.gamma.astype(dtype)

    def store(self, dgamma, dbeta):
        self.dgamma, self.dbeta = dgamma, dbeta

    def backward(self, dy):
        dx, dgamma, dbeta = self.pull(dy)
        if self.gamma is not None:
            self.store(dgamma, None if self.beta is None else dbeta)
        return dx


class TrailingStaleFirstClosure(TrailingLayerNorm):
    def __setattr__(self, name, value):
        if name != "pull" or "pull" not in self.__dict__:
            super().__setattr__(name, value)  # planted: the function of the first forward is kept


class TrailingInputBecomesOutput(TrailingLayerNorm):
    def forward(self, x):
        np.copyto(x, super().forward(x.copy()))  # planted: y is written over x
        return x.copy()


class TrailingUpstreamCentred(TrailingLayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        dy -= dy.mean()  # planted: the caller's dy
        return dx


class TrailingDxIntoDy(TrailingLayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        dy *= 0
        dy += dx
        return dy.view()  # planted: another object, the same memory


class TrailingFlatOutputBuffer(TrailingLayerNorm):
    def forward(self, x):
        y = np.zeros_like(x)  # planted: has the layout of x, so ravel may copy
        y.ravel()[:] = super().forward(x).ravel()
        return y


class TrailingParameterGradientsAccumulate(TrailingLayerNorm):
    def store(self, dgamma, dbeta):
        if self.dgamma is None:
            self.dgamma, self.dbeta = dgamma, dbeta
            return
        self.dgamma += dgamma  # planted: in place, into what the last call handed out
        if dbeta is not None:
            self.dbeta += dbeta


class TrailingParameterGradientsMissing(TrailingLayerNorm):
    def store(self, dgamma, dbeta):
        self.dgamma = np.zeros_like(dgamma)  # planted: room is made for them, nothing is written
        self.dbeta = None if dbeta is None else np.zeros_like(dbeta)


planted = partial(wrong, "LayerNorm")

ROWS = (
    planted(MatrixStaleByObject, "stale-cache", "dx dgamma", "matrix; keyed by id: only when one array is refilled"),
    planted(MatrixStaleQueue, "stale-cache", "dx dgamma", "matrix; a queue: only after a forward without backward"),
    planted(MatrixInputCentredInPlace, "input-mutated", "y", "matrix; x -= mean; y is right", raises=True),
    planted(
        MatrixUpstreamThroughView,
        "upstream-gradient-mutated",
        "dx",
        "matrix; contiguous dy only; dx is right",
        raises=True,
    ),
    planted(MatrixDxIntoDy, "upstream-gradient-mutated", "dx", "matrix; out=dy; its values are right", raises=True),
    planted(MatrixIgnoresStrides, "layout-dependent", "y dx dgamma", "matrix; reads x's base without strides"),
    planted(MatrixGradientInFortranOrder, "layout-dependent", "dx dgamma dbeta", "matrix; Fortran-ordered dy only"),
    planted(MatrixCastsToFloat32, "dtype-demoted", "y dx dgamma dbeta", "matrix; both ways; float64 in"),
    planted(MatrixParameterGradientsInFloat32, "dtype-demoted", "dgamma dbeta", "matrix; the dtypes are right"),
    planted(MatrixParameterGradientsAccumulate, "parameter-gradients-accumulate", "dgamma dbeta", "matrix; call two"),
    planted(MatrixParameterGradientsMissing, "parameter-gradients-missing", "dgamma dbeta", "matrix; always None"),
    planted(
        TrailingStaleFirstClosure, "stale-cache", "dx dgamma", "closure; the first forward's for ever", raises=True
    ),
    planted(TrailingInputBecomesOutput, "input-mutated", "y", "closure; x holds y afterwards; y is right", raises=True),
    planted(
        TrailingUpstreamCentred, "upstream-gradient-mutated", "dx", "closure; dy -= its mean; dx is right", raises=True
    ),
    planted(
        TrailingDxIntoDy, "upstream-gradient-mutated", "dx", "closure; a view of dy; its values are right", raises=True
    ),
    planted(TrailingFlatOutputBuffer, "layout-dependent", "y", "closure; zeros_like: y is zero for transposed x"),
    planted(TrailingParameterGradientsAccumulate, "parameter-gradients-accumulate", "dgamma dbeta", "closure; +="),
    planted(TrailingParameterGradientsMissing, "parameter-gradients-missing", "dgamma dbeta", "closure; zeros"),
)
