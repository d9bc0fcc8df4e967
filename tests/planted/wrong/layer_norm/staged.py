"""LayerNorm with dvar, dmean and dx accumulated in turn, over the axes as they are; mistakes in these.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class StagedLayerNorm:
    """Right. The three gradients are those one meets in lecture notes: of var, of the mean, and of x."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        try:
            self.normalized_shape = tuple(normalized_shape)
        except TypeError:
            self.normalized_shape = (normalized_shape,)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        if elementwise_affine:
            self.gamma = np.ones(self.normalized_shape)
            if bias:
                self.beta = np.zeros(self.normalized_shape)

    def forward(self, x):
        k = len(self.normalized_shape)
        self.axis = tuple(range(x.ndim - k, x.ndim))
        self.lead = tuple(range(x.ndim - k))
        self.m = np.prod(x.shape[-k:], dtype=int).item()
        self.kw = {"axis": self.axis, "keepdims": True}
        self.centred = x - x.sum(**self.kw) / self.m
        self.var = (self.centred * self.centred).sum(**self.kw) / self.m
        self.xhat = self.centred / np.sqrt(self.var + self.eps)
        if not self.elementwise_affine:
            return np.array(self.xhat)
        self.weight = np.asarray(self.gamma, x.dtype)
        out = self.weight * self.xhat
        if getattr(self, "beta", None) is not None:
            out += np.asarray(self.beta, x.dtype)
        return out

    def backward(self, dy):
        dxhat = dy
        if self.elementwise_affine:
            self.dgamma = np.sum(dy * self.xhat, axis=self.lead)
            if getattr(self, "beta", None) is not None:
                self.dbeta = np.sum(dy, axis=self.lead)
            dxhat = dy * self.weight
        return self.stages(dxhat, dy)

    def stages(self, dxhat, dy):
        dvar = (dxhat * self.centred).sum(**self.kw) * -0.5 * (self.var + self.eps) ** -1.5
        dmean = -(dxhat / np.sqrt(self.var + self.eps)).sum(**self.kw)
        dmean = dmean + dvar * (-2 * self.centred).sum(**self.kw) / self.m
        dx = dxhat / np.sqrt(self.var + self.eps)
        dx = dx + dvar * 2 * self.centred / self.m
        return dx + dmean / self.m


class StagedWithoutDmean(StagedLayerNorm):
    def stages(self, dxhat, dy):
        dvar = (dxhat * self.centred).sum(**self.kw) * -0.5 * (self.var + self.eps) ** -1.5
        dx = dxhat / np.sqrt(self.var + self.eps)
        return dx + dvar * 2 * self.centred / self.m  # planted: + dmean / m


class StagedDmeanSign(StagedLayerNorm):
    def stages(self, dxhat, dy):
        dvar = (dxhat * self.centred).sum(**self.kw) * -0.5 * (self.var + self.eps) ** -1.5
        dmean = (dxhat / np.sqrt(self.var + self.eps)).sum(**self.kw)  # planted: minus
        dx = dxhat / np.sqrt(self.var + self.eps)
        dx = dx + dvar * 2 * self.centred / self.m
        return dx + dmean / self.m


class StagedWithoutDvar(StagedLayerNorm):
    def stages(self, dxhat, dy):
        dmean = -(dxhat / np.sqrt(self.var + self.eps)).sum(**self.kw)
        return dxhat / np.sqrt(self.var + self.eps) + dmean / self.m  # planted: + dvar * 2 * centred / m


class StagedDvarSign(StagedLayerNorm):
    def stages(self, dxhat, dy):
        dvar = (dxhat * self.centred).sum(**self.kw) * 0.5 * (self.var + self.eps) ** -1.5  # planted: -0.5
        dmean = -(dxhat / np.sqrt(self.var + self.eps)).sum(**self.kw)
        dx = dxhat / np.sqrt(self.var + self.eps)
        dx = dx + dvar * 2 * self.centred / self.m
        return dx + dmean / self.m


class StagedDvarWithoutHalf(StagedLayerNorm):
    def stages(self, dxhat, dy):
        dvar = -(dxhat * self.centred).sum(**self.kw) * (self.var + self.eps) ** -1.5  # planted: 0.5
        dmean = -(dxhat / np.sqrt(self.var + self.eps)).sum(**self.kw)
        dx = dxhat / np.sqrt(self.var + self.eps)
        dx = dx + dvar * 2 * self.centred / self.m
        return dx + dmean / self.m


class StagedDirectPathOnly(StagedLayerNorm):
    def stages(self, dxhat, dy):
        return dxhat / np.sqrt(self.var + self.eps)  # planted: dvar and dmean were never written


class StagedEpsLost(StagedLayerNorm):
    def stages(self, dxhat, dy):
        dvar = (dxhat * self.centred).sum(**self.kw) * -0.5 * self.var**-1.5  # planted: eps, here and below
        dmean = -(dxhat / np.sqrt(self.var)).sum(**self.kw)
        dx = dxhat / np.sqrt(self.var)
        dx = dx + dvar * 2 * self.centred / self.m
        return dx + dmean / self.m


class StagedFromDy(StagedLayerNorm):
    def stages(self, dxhat, dy):
        return super().stages(dy, dy)  # planted: dxhat


class StagedGammaAtTheEnd(StagedLayerNorm):
    def stages(self, dxhat, dy):
        dx = super().stages(dy, dy)
        return dx * self.weight if self.elementwise_affine else dx  # planted: gamma after the three stages


class StagedWithoutCounts(StagedLayerNorm):
    def stages(self, dxhat, dy):
        dvar = (dxhat * self.centred).sum(**self.kw) * -0.5 * (self.var + self.eps) ** -1.5
        dmean = -(dxhat / np.sqrt(self.var + self.eps)).sum(**self.kw)
        dx = dxhat / np.sqrt(self.var + self.eps)
        dx = dx + dvar * 2 * self.centred  # planted: / m
        return dx + dmean  # planted: / m


class StagedOverLastAxis(StagedLayerNorm):
    def stages(self, dxhat, dy):
        self.kw = {"axis": -1, "keepdims": True}  # planted: as if normalized_shape had one axis
        self.m = dy.shape[-1]
        dvar = (dxhat * self.centred).sum(**self.kw) * -0.5 * (self.var + self.eps) ** -1.5
        dmean = -(dxhat / np.sqrt(self.var + self.eps)).sum(**self.kw)
        dx = dxhat / np.sqrt(self.var + self.eps)
        dx = dx + dvar * 2 * self.centred / self.m
        return dx + dmean / self.m


planted = partial(wrong, "LayerNorm", style="dvar, dmean, dx in turn: ")

ROWS = (
    planted(StagedWithoutDmean, "dx-mean-term-missing", "dx", "no dmean; always"),
    planted(StagedDmeanSign, "dx-mean-term-sign", "dx", "dmean without its minus; always"),
    planted(StagedWithoutDvar, "dx-projection-term-missing", "dx", "no dvar; always"),
    planted(StagedDvarSign, "dx-projection-term-sign", "dx", "dvar with the wrong sign; always"),
    planted(StagedDvarWithoutHalf, "dx-projection-term-doubled", "dx", "dvar without 0.5; always"),
    planted(StagedDirectPathOnly, "dx-statistics-held-constant", "dx", "neither dvar nor dmean; always"),
    planted(StagedEpsLost, "dx-eps-missing", "dx", "in every power of var; when var is near eps"),
    planted(StagedFromDy, "dx-gamma-missing", "dx", "dy for dxhat; when gamma differs from 1"),
    planted(StagedGammaAtTheEnd, "dx-gamma-outside-means", "dx", "gamma after the stages; when gamma varies"),
    planted(StagedWithoutCounts, "dx-sum-not-mean", "dx", "no / m; when more than one is normalized"),
    planted(StagedOverLastAxis, "dx-last-axis-only", "dx", "when normalized_shape has several axes"),
)
