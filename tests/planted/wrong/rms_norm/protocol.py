"""RMSNorms that raise, share or overwrite what is not theirs alone, start elsewhere, or widen too late.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.unknown.parameters import MultiplierRMSNorm
from tests.planted.wrong.bases import RowsRMSNorm
from tests.planted.wrong.rms_norm.closed_form import ClosedFormRMSNorm

SAVED = {}


class RMSNormBackwardToBeDone(RowsRMSNorm):
    def backward(self, dy):
        raise NotImplementedError("backward of RMSNorm")  # planted


class RMSNormReusedGradient(ClosedFormRMSNorm):
    given = None

    def backward(self, dy):
        dx = super().backward(dy)
        if self.given is None or self.given.shape != dx.shape or self.given.dtype != dx.dtype:
            self.given = dx.copy()
        self.given[...] = dx
        return self.given  # planted: the next backward writes it over


class RMSNormCacheInModule(RowsRMSNorm):
    def forward(self, x):
        y = super().forward(x)
        SAVED["rows"] = self.c, self.f, self.s, self.z  # planted: of whichever layer came last
        return y

    def backward(self, dy):
        self.c, self.f, self.s, self.z = SAVED["rows"]
        return super().backward(dy)


class RMSNormGammaFromZero(ClosedFormRMSNorm):
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        super().__init__(normalized_shape, eps, elementwise_affine)
        if self.gamma is not None:
            self.gamma *= 0  # planted: as if it were the distance from 1


class OnePlusGammaRMSNorm(MultiplierRMSNorm):
    def multiplier(self):
        return 1 + self.gamma  # planted: gamma is taken for an offset from one


class RMSNormSquaresInHalf:
    """Computes in float32 where x is float16, after the squares."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.shape = tuple(np.atleast_1d(normalized_shape))
        self.eps, self.gamma = eps, np.ones(self.shape) if elementwise_affine else None

    def forward(self, x):
        over, wide = tuple(range(-len(self.shape), 0)), np.promote_types(x.dtype, np.float32)
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        square = np.mean(x * x, axis=over, keepdims=True, dtype=wide)  # planted: x * x is float16 still
        self.r = (square + float(eps)) ** -0.5
        self.h = x.astype(wide) * self.r
        return (self.h if self.gamma is None else self.h * self.gamma.astype(wide)).astype(x.dtype)

    def backward(self, dy):
        over = tuple(range(-len(self.shape), 0))
        d = dy.astype(self.h.dtype)
        if self.gamma is not None:
            self.dgamma = (d * self.h).sum(tuple(range(dy.ndim - len(self.shape))))
            d = d * self.gamma.astype(d.dtype)
        return ((d - self.h * (d * self.h).mean(over, keepdims=True)) * self.r).astype(dy.dtype)


class RMSNormProjectsDy(RowsRMSNorm):
    def backward(self, dy):
        super().backward(dy)
        d = dy if self.gamma is None else dy * self.gamma.astype(dy.dtype)
        z, r, d = (self.rows(array) for array in (self.z, dy, d))
        dx = self.f * (d - z * (r * z).mean(1, keepdims=True))  # planted: r, where d belongs
        return self.back(dx, dy.shape)


planted = partial(wrong, "RMSNorm")

ROWS = (
    planted(RMSNormBackwardToBeDone, "backward-raises", "dx dgamma", "over rows; always", raises=True),
    planted(RMSNormReusedGradient, "result-overwritten", "dx", "closed form; a buffer for dx; all numbers are right"),
    planted(RMSNormCacheInModule, "instances-share-state", "dx dgamma", "over rows; a dict of the module"),
    planted(RMSNormGammaFromZero, "parameters-start-elsewhere", "", "closed form; gamma from 0"),
    planted(OnePlusGammaRMSNorm, "gamma-plus-one", "y dx", "one method for what multiplies; gamma starts at 1"),
    planted(RMSNormProjectsDy, "dx-projection-term-without-gamma", "dx", "over rows; the projection"),
    planted(RMSNormSquaresInHalf, "computed-in-16-bits", "y dx dgamma", "trailing axes; where x is float16"),
)
