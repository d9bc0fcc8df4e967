"""Layers that apply gamma and beta in a way of their own, or to the wrong channels, or group the wrong ones.

No dictionary of mistakes holds these. Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

from itertools import pairwise

import numpy as np

from tests.planted.row import unknown


def gather(a):
    """(N, C, *) to channels by everything else."""
    return np.moveaxis(a, 1, 0).reshape(a.shape[1], -1)


class _ListOfGroupsGroupNorm:
    """A list of channel indices a group; samples are visited one group after another."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.members = self.assign(num_groups, num_channels)
        self.eps = eps
        self.gamma = np.ones(num_channels) if affine else None
        self.beta = np.zeros(num_channels) if affine else None
        self.dgamma = self.dbeta = None

    def assign(self, num_groups, num_channels):
        return [list(part) for part in np.split(np.arange(num_channels), num_groups)]

    def weight(self):
        return self.gamma

    def forward(self, x):
        self.xhat, self.rstd = x.copy(), []
        for channels in self.members:
            part = x[:, channels]
            axes = tuple(range(1, x.ndim))
            part = part - part.mean(axis=axes, keepdims=True)
            self.rstd.append(1 / np.sqrt(np.square(part).mean(axis=axes, keepdims=True) + self.eps))
            self.xhat[:, channels] = part * self.rstd[-1]
        y = self.xhat.copy()
        if self.gamma is not None:
            column = (-1,) + (1,) * (x.ndim - 2)
            y *= self.weight().reshape(column).astype(x.dtype)
            y += self.beta.reshape(column).astype(x.dtype)
        return y

    def backward(self, dy):
        d = dy.copy()
        if self.gamma is not None:
            self.dgamma, self.dbeta = gather(dy * self.xhat).sum(axis=1), gather(dy).sum(axis=1)
            d *= self.weight().reshape((-1,) + (1,) * (dy.ndim - 2)).astype(dy.dtype)
        dx = d.copy()
        axes = tuple(range(1, dy.ndim))
        for channels, rstd in zip(self.members, self.rstd, strict=True):
            part, h = d[:, channels], self.xhat[:, channels]
            part = part - part.mean(axis=axes, keepdims=True) - h * (part * h).mean(axis=axes, keepdims=True)
            dx[:, channels] = rstd * part
        return dx


class _MultiplierLayerNorm:
    """`multiplier` is what xhat is multiplied by, `offset` what is added; backward uses them too."""

    axes_of = staticmethod(lambda shape: tuple(range(-len(shape), 0)))

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self.gamma = np.ones(self.shape) if elementwise_affine else None
        self.beta = np.zeros(self.shape) if elementwise_affine and bias else None
        self.eps, self.dgamma, self.dbeta = eps, None, None

    def multiplier(self):
        return self.gamma

    def offset(self):
        return self.beta

    def standardize(self, x, axes):
        c = x - np.mean(x, axes, keepdims=True)
        s = np.sqrt(np.mean(c * c, axes, keepdims=True) + self.eps)
        return c / s, s

    def forward(self, x):
        self.xhat, self.s = self.standardize(x, self.axes_of(self.shape))
        y = 1 * self.xhat
        if self.gamma is not None:
            y = y * self.multiplier().astype(x.dtype)
        if self.beta is not None:
            y = y + self.offset().astype(x.dtype)
        return y

    def parameter_gradients(self, dy):
        rows = (-1, *self.shape)
        return (dy * self.xhat).reshape(rows).sum(0), dy.reshape(rows).sum(0)

    def backward(self, dy):
        axes = self.axes_of(self.shape)
        dgamma, dbeta = self.parameter_gradients(dy)
        if self.gamma is not None:
            self.dgamma = dgamma
            dy = dy * self.multiplier().astype(dy.dtype)
        if self.beta is not None:
            self.dbeta = dbeta
        return self.through(dy, axes)

    def through(self, d, axes):
        along = np.mean(d * self.xhat, axes, keepdims=True)
        return (d - np.mean(d, axes, keepdims=True) - self.xhat * along) / self.s


class MultiplierRMSNorm(_MultiplierLayerNorm):
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False)

    def standardize(self, x, axes):
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        s = np.sqrt(np.mean(x * x, axes, keepdims=True) + eps)
        return x / s, s

    def through(self, d, axes):
        return (d - self.xhat * np.mean(d * self.xhat, axes, keepdims=True)) / self.s


class BoundaryOffByOneGroupNorm(_ListOfGroupsGroupNorm):
    def assign(self, num_groups, num_channels):
        step = num_channels // num_groups
        edges = [
            0,
            *range(step + 1, num_channels, step),
            num_channels,
        ]  # planted: step + 1; fine with one group
        return [list(range(a, b)) for a, b in pairwise(edges)]


class OnlyFirstGroupGroupNorm(_ListOfGroupsGroupNorm):
    def assign(self, num_groups, num_channels):
        return super().assign(num_groups, num_channels)[:1]  # planted: other channels pass through as they are


class LastOddChannelSkippedGroupNorm(_ListOfGroupsGroupNorm):
    def assign(self, num_groups, num_channels):
        members = super().assign(num_groups, num_channels)
        if num_channels % 2 and len(members[-1]) > 1:
            members[-1].pop()  # planted: channels are taken in pairs, an odd one is left out
        return members


class GammaFlippedGroupNorm(_ListOfGroupsGroupNorm):
    def weight(self):
        return self.gamma[::-1]  # planted: last channel first


class GammaRolledGroupNorm(_ListOfGroupsGroupNorm):
    def weight(self):
        return np.roll(self.gamma, 1)  # planted: every channel has its neighbour's

    def backward(self, dy):
        dx = super().backward(dy)
        if self.gamma is not None:
            self.dgamma = np.roll(self.dgamma, -1)
        return dx


class ExponentialGammaRMSNorm(MultiplierRMSNorm):
    def multiplier(self):
        return np.exp(self.gamma)  # planted: gamma is taken for a logarithm

    def parameter_gradients(self, dy):
        dgamma, dbeta = super().parameter_gradients(dy)
        return dgamma * np.exp(self.gamma.astype(dy.dtype)) if self.gamma is not None else dgamma, dbeta


class MagnitudeOfGammaLayerNorm(_MultiplierLayerNorm):
    def multiplier(self):
        return np.abs(self.gamma)  # planted: the sign of gamma is lost


class TenthOfBetaLayerNorm(_MultiplierLayerNorm):
    def offset(self):
        return 0.1 * self.beta  # planted: a factor from some learning-rate trick


class FortranOrderGammaLayerNorm(_MultiplierLayerNorm):
    def multiplier(self):
        return self.gamma.ravel(order="F").reshape(self.shape)  # planted: columns first; one axis does not care


class AbsoluteTermsInDgammaLayerNorm(_MultiplierLayerNorm):
    def parameter_gradients(self, dy):
        rows = (-1, *self.shape)
        return np.abs(dy * self.xhat).reshape(rows).sum(0), dy.reshape(rows).sum(0)  # planted: np.abs


class DgammaClippedRMSNorm(MultiplierRMSNorm):
    def parameter_gradients(self, dy):
        dgamma, dbeta = super().parameter_gradients(dy)
        return np.clip(dgamma, -1, 1), dbeta  # planted: clipping belongs to the optimizer


ROWS = (
    unknown("GroupNorm", BoundaryOffByOneGroupNorm, "y dx dgamma", "index lists; more than one group; own backward"),
    unknown("GroupNorm", OnlyFirstGroupGroupNorm, "y dx dgamma", "index lists; more than one group; own backward"),
    unknown("GroupNorm", LastOddChannelSkippedGroupNorm, "y dx dgamma", "index lists; C odd only; own backward"),
    unknown("GroupNorm", GammaFlippedGroupNorm, "y dx", "index lists; y and dx flipped, dgamma is not"),
    unknown("GroupNorm", GammaRolledGroupNorm, "y dx dgamma", "index lists; the derivative of the forward"),
    unknown("RMSNorm", ExponentialGammaRMSNorm, "y dx dgamma", "axes; the derivative of the forward"),
    unknown("LayerNorm", MagnitudeOfGammaLayerNorm, "y dx", "axes; where gamma < 0; dgamma as if it were not"),
    unknown("LayerNorm", TenthOfBetaLayerNorm, "y", "axes; dbeta is the right layer's"),
    unknown("LayerNorm", FortranOrderGammaLayerNorm, "y dx", "axes; two or more normalized axes; dgamma right"),
    unknown("LayerNorm", AbsoluteTermsInDgammaLayerNorm, "dgamma", "axes; sum of |dy xhat|"),
    unknown("RMSNorm", DgammaClippedRMSNorm, "dgamma", "axes; where |dgamma| > 1"),
)
