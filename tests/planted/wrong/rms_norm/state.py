"""RMSNorms whose formulas are right and whose handling of memory, layout, dtype or state is not.

Two styles: einsum over (M, D), and one row after another in a Python loop. It must not know `reference` or
`npnorm`: the corpus judges them.
"""

import math
from functools import partial

import numpy as np

from tests.planted.row import wrong


class EinsumRMSNorm:
    """Right. x as (M, D), sums of products by einsum."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.dgamma = None

    def matrix(self, a):
        return np.ascontiguousarray(a).reshape(-1, math.prod(self.shape))

    def inverse_rms(self, m):
        eps = float(np.finfo(m.dtype).eps) if self.eps is None else self.eps
        return 1 / np.sqrt(np.einsum("md,md->m", m, m) / m.shape[1] + eps)

    def save(self, xhat, r, x):
        self.saved = xhat, r

    def forward(self, x):
        m = self.matrix(x)
        r = self.inverse_rms(m)
        xhat = np.einsum("md,m->md", m, r)
        self.save(xhat, r, x)
        y = xhat.copy() if self.gamma is None else np.einsum("md,d->md", xhat, self.gamma.ravel().astype(x.dtype))
        return y.reshape(x.shape)

    def set_dgamma(self, d, xhat):
        self.dgamma = np.einsum("md,md->d", d, xhat).reshape(self.shape)

    def backward(self, dy):
        xhat, r = self.saved
        d = self.matrix(dy)
        if self.gamma is not None:
            self.set_dgamma(d, xhat)
            d = np.einsum("md,d->md", d, self.gamma.ravel().astype(dy.dtype))
        along = np.einsum("md,md->m", d, xhat) / d.shape[1]
        return np.einsum("md,m->md", d - np.einsum("md,m->md", xhat, along), r).reshape(dy.shape)


class EinsumStaleByRowCount(EinsumRMSNorm):
    def save(self, xhat, r, x):
        self.by_rows = getattr(self, "by_rows", {})
        if len(xhat) not in self.by_rows:
            self.by_rows[len(xhat)] = (xhat, r)  # planted: one cache per number of rows, filled once
        self.saved = self.by_rows[len(xhat)]


class EinsumStaleOneBehind(EinsumRMSNorm):
    def save(self, xhat, r, x):
        self.saved = getattr(self, "upcoming", (xhat, r))  # planted: what the forward before this one left
        if len(self.saved[0]) != len(xhat):
            self.saved = xhat, r
        self.upcoming = xhat, r


class EinsumInputBecomesXhat(EinsumRMSNorm):
    def forward(self, x):
        y = super().forward(x)
        x[...] = self.saved[0].reshape(x.shape)  # planted: x is normalized in place as well
        return y


class EinsumUpstreamThroughView(EinsumRMSNorm):
    def set_dgamma(self, d, xhat):
        super().set_dgamma(d, xhat)
        self.product = np.multiply(d, xhat, out=self.upstream.reshape(d.shape))  # planted: dy serves as a buffer

    def backward(self, dy):
        self.upstream = dy
        return super().backward(dy.copy())


class EinsumDxIntoDy(EinsumRMSNorm):
    def backward(self, dy):
        dy.flat[:] = super().backward(dy).ravel()
        return dy  # planted: dx is dy's memory


class EinsumReadsTheBuffer(EinsumRMSNorm):
    def matrix(self, a):
        return np.frombuffer(a, dtype=a.dtype).reshape(-1, math.prod(self.shape))  # planted: raises if strided


class EinsumRavelInMemoryOrder(EinsumRMSNorm):
    def forward(self, x):
        return super().forward(np.ravel(x, order="K").reshape(x.shape))  # planted: the order of memory


class EinsumBackwardInFloat32(EinsumRMSNorm):
    def backward(self, dy):
        saved = self.saved
        self.saved = tuple(a.astype("f4") for a in saved)
        dx = super().backward(dy.astype("f4")).astype(dy.dtype)  # planted: there and back again
        self.saved = saved
        if self.dgamma is not None:
            self.dgamma = self.dgamma.astype(dy.dtype)
        return dx


class EinsumDgammaAccumulates(EinsumRMSNorm):
    def set_dgamma(self, d, xhat):
        before = 0 if self.dgamma is None else self.dgamma
        self.dgamma = before + np.einsum("md,md->d", d, xhat).reshape(self.shape)  # planted: never reset


class EinsumDgammaMissing(EinsumRMSNorm):
    def set_dgamma(self, d, xhat):
        dgamma = np.einsum("md,md->d", d, xhat).reshape(self.shape)
        self.__dict__.setdefault("grads", {})["weight"] = dgamma  # planted: dgamma itself stays None


class RowRMSNorm:
    """Right. A list of rows, each with its own number."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.normalized_shape = tuple(np.ravel(normalized_shape).tolist())
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.gamma = np.ones(self.normalized_shape) if elementwise_affine else None
        self.dgamma = None

    def rows(self, a):
        k = len(self.normalized_shape)
        return [np.array(a[i]) for i in np.ndindex(a.shape[: a.ndim - k])]

    def assemble(self, rows, like):
        out = np.empty((len(rows), *self.normalized_shape), like.dtype)
        for target, row in zip(out, rows, strict=True):
            target[...] = row
        return out.reshape(like.shape)

    def weight(self, dtype):
        return self.gamma.astype(dtype) if self.elementwise_affine else 1

    def forward(self, x):
        eps = float(np.finfo(x.dtype).eps) if self.eps is None else self.eps
        self.x = self.rows(x)
        self.rms = [math.sqrt(float((row * row).mean()) + eps) for row in self.x]
        return self.assemble([row / rms * self.weight(x.dtype) for row, rms in zip(self.x, self.rms, strict=True)], x)

    def backward(self, dy):
        if self.elementwise_affine:
            self.dgamma = np.zeros(self.normalized_shape, dy.dtype)
        dx = []
        for row, rms, g in zip(self.x, self.rms, self.rows(dy), strict=True):
            d = g * self.weight(dy.dtype)
            if self.elementwise_affine:
                self.dgamma += g * row / rms
            dx.append(d / rms - row * (float((d * row).mean()) / rms**3))
        return self.assemble(dx, dy)


class RowStaleRms(RowRMSNorm):
    def forward(self, x):
        known = getattr(self, "rms", None)
        y = super().forward(x)
        if known is not None and len(known) == len(self.rms):
            self.rms = known  # planted: the numbers of the first forward are taken again
        return y


class RowInputWrittenInBackward(RowRMSNorm):
    def forward(self, x):
        self.input = x
        return super().forward(x)

    def backward(self, dy):
        dx = super().backward(dy)
        self.input -= dx  # planted: a step of descent on the caller's x
        return dx


class RowUpstreamScaled(RowRMSNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        dy /= max(len(dy), 2)  # planted: the caller's dy
        return dx


class RowDxIntoDy(RowRMSNorm):
    def assemble(self, rows, like):
        values = super().assemble(rows, like)
        if getattr(self, "going_back", False):
            like[...] = values
            return like  # planted: filled in place of a new array, right for no caller
        return values

    def backward(self, dy):
        self.going_back = True
        dx = super().backward(dy)
        self.going_back = False
        return dx


class RowAssemblesInLayoutOfInput(RowRMSNorm):
    def assemble(self, rows, like):
        out = np.zeros_like(like)  # planted: has the layout of x or dy, so the reshape may be a copy
        out.reshape(len(rows), -1)[...] = [row.ravel() for row in rows]
        return out


class RowRowsAreFloat32(RowRMSNorm):
    def rows(self, a):
        return [row.astype(np.float32) for row in super().rows(a)]  # planted: digits are lost, the dtype is put back


class RowDgammaAccumulates(RowRMSNorm):
    def backward(self, dy):
        before = self.dgamma
        dx = super().backward(dy)
        if before is not None:
            self.dgamma += before  # planted: never reset
        return dx


class RowDgammaMissing(RowRMSNorm):
    def backward(self, dy):
        before = self.dgamma
        dx = super().backward(dy)
        self.dgamma = before  # planted: put back to what it was, None
        return dx


planted = partial(wrong, "RMSNorm")

ROWS = (
    planted(EinsumStaleByRowCount, "stale-cache", "dx dgamma", "einsum; a cache per number of rows, filled once"),
    planted(EinsumStaleOneBehind, "stale-cache", "dx dgamma", "einsum; the forward before this one; call one is right"),
    planted(EinsumInputBecomesXhat, "input-mutated", "y", "einsum; x holds xhat afterwards; y is right", raises=True),
    planted(
        EinsumUpstreamThroughView,
        "upstream-gradient-mutated",
        "dx",
        "einsum; contiguous dy and affine only; dx and dgamma are right",
        raises=True,
    ),
    planted(
        EinsumDxIntoDy, "upstream-gradient-mutated", "dx", "einsum; through dy.flat; its values are right", raises=True
    ),
    planted(
        EinsumReadsTheBuffer,
        "backward-raises",
        "y dx dgamma",
        "einsum; frombuffer raises for x or dy that is not contiguous",
    ),
    planted(EinsumRavelInMemoryOrder, "layout-dependent", "y dx dgamma", "einsum; ravel order K, for x only"),
    planted(EinsumBackwardInFloat32, "dtype-demoted", "dx dgamma", "einsum; the dtypes are right, not the digits"),
    planted(EinsumDgammaAccumulates, "parameter-gradients-accumulate", "dgamma", "einsum; from call two on"),
    planted(EinsumDgammaMissing, "parameter-gradients-missing", "dgamma", "einsum; under another name, dgamma is None"),
    planted(RowStaleRms, "stale-cache", "dx dgamma", "rows; the first rms values stay, the rows do not"),
    planted(
        RowInputWrittenInBackward, "input-mutated", "dx", "rows; x -= dx in the backward; dx is right", raises=True
    ),
    planted(RowUpstreamScaled, "upstream-gradient-mutated", "dx", "rows; dy is divided; dx is right", raises=True),
    planted(
        RowDxIntoDy, "upstream-gradient-mutated", "dx", "rows; dy is filled with dx; its values are right", raises=True
    ),
    planted(RowAssemblesInLayoutOfInput, "layout-dependent", "y dx", "rows; zeros_like: zero for transposed x or dy"),
    planted(RowRowsAreFloat32, "dtype-demoted", "y dx dgamma", "rows; the dtypes are right, not the digits"),
    planted(RowDgammaAccumulates, "parameter-gradients-accumulate", "dgamma", "rows; in place"),
    planted(RowDgammaMissing, "parameter-gradients-missing", "dgamma", "rows; stays None"),
)
