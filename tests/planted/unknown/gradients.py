"""LayerNorm and RMSNorm with a right forward and a gradient wrong in a way of its own.

No dictionary of mistakes holds these. Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

from types import SimpleNamespace

import numpy as np

from tests.planted.row import unknown


class _NodesLayerNorm:
    """Forward fills a tape of nodes; backward reads them from last to first."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.normalized_shape = (normalized_shape,) if np.isscalar(normalized_shape) else tuple(normalized_shape)
        self.gamma = np.ones(self.normalized_shape) if elementwise_affine else None
        self.beta = np.zeros(self.normalized_shape) if elementwise_affine and bias else None
        self.eps, self.dgamma, self.dbeta = eps, None, None

    def forward(self, x):
        t = self.tape = SimpleNamespace()
        rows = x.reshape(-1, int(np.prod(self.normalized_shape)))
        t.n = rows.shape[1]
        t.mean = rows.sum(1, keepdims=True) / t.n
        t.dev = rows - t.mean
        t.var = (t.dev**2).sum(1, keepdims=True) / t.n
        t.root = (t.var + self.eps) ** 0.5
        t.xhat = t.dev / t.root
        y = t.xhat if self.gamma is None else t.xhat * self.gamma.astype(x.dtype).reshape(1, -1)
        return (y + (0 if self.beta is None else self.beta.astype(x.dtype).reshape(1, -1))).reshape(x.shape)

    def backward(self, dy):
        t = self.tape
        d = dy.reshape(t.xhat.shape)
        if self.beta is not None:
            self.dbeta = d.sum(0).reshape(self.normalized_shape)
        if self.gamma is not None:
            self.dgamma = (d * t.xhat).sum(0).reshape(self.normalized_shape)
            d = d * self.gamma.astype(dy.dtype).reshape(1, -1)
        return self.nodes(d, t).reshape(dy.shape)

    def nodes(self, dxhat, t):
        ddev = dxhat / t.root
        dvar = (dxhat * t.dev).sum(1, keepdims=True) * -0.5 * (t.var + self.eps) ** -1.5
        ddev = ddev + 2 / t.n * t.dev * dvar
        return ddev - ddev.sum(1, keepdims=True) / t.n


class _NodesRMSNorm:
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.normalized_shape = (normalized_shape,) if np.isscalar(normalized_shape) else tuple(normalized_shape)
        self.gamma = np.ones(self.normalized_shape) if elementwise_affine else None
        self.eps, self.dgamma = eps, None

    def forward(self, x):
        n = int(np.prod(self.normalized_shape))
        rows = x.reshape(-1, n)
        eps = np.finfo(x.dtype).eps if self.eps is None else self.eps
        root = np.sqrt(np.einsum("ij,ij->i", rows, rows) / n + eps)[:, None]
        self.saved = rows / root, root, n
        y = rows / root
        if self.gamma is not None:
            y *= self.gamma.astype(x.dtype).reshape(n)
        return y.reshape(x.shape)

    def backward(self, dy):
        u, root, n = self.saved
        rows = dy.reshape(-1, n)
        d = rows
        if self.gamma is not None:
            self.dgamma = np.einsum("ij,ij->j", rows, u).reshape(self.normalized_shape)
            d = rows * self.gamma.astype(dy.dtype).reshape(n)
        return self.rows_gradient(rows, d, u, root, n).reshape(dy.shape)

    def rows_gradient(self, dy, d, u, root, n):
        return (d - u * np.einsum("ij,ij->i", d, u)[:, None] / n) / root


class HalvedLayerNorm(_NodesLayerNorm):
    def nodes(self, dxhat, t):
        return 0.5 * super().nodes(dxhat, t)  # planted: 0.5


class PowerOfVarianceLayerNorm(_NodesLayerNorm):
    def nodes(self, dxhat, t):
        ddev = dxhat / t.root
        dvar = (dxhat * t.dev).sum(1, keepdims=True) * -0.5 * (t.var + self.eps) ** -0.5  # planted: not -1.5
        ddev = ddev + 2 / t.n * t.dev * dvar
        return ddev - ddev.sum(1, keepdims=True) / t.n


class TwoForgottenLayerNorm(_NodesLayerNorm):
    def nodes(self, dxhat, t):
        ddev = dxhat / t.root
        dvar = (dxhat * t.dev).sum(1, keepdims=True) * -0.5 * (t.var + self.eps) ** -1.5
        ddev = ddev + 1 / t.n * t.dev * dvar  # planted: 1 / n, the square's 2 is lost
        return ddev - ddev.sum(1, keepdims=True) / t.n


class RowsReversedLayerNorm(_NodesLayerNorm):
    def nodes(self, dxhat, t):
        return super().nodes(dxhat, t)[::-1]  # planted: the rows leave a stack in the wrong order


class NeighboursDeviationLayerNorm(_NodesLayerNorm):
    def nodes(self, dxhat, t):
        projection = t.xhat * (dxhat * t.xhat).mean(1, keepdims=True)
        return (dxhat - dxhat.mean(1, keepdims=True) - projection) / np.roll(t.root, 1, axis=0)  # planted: roll


class OutputInProjectionLayerNorm(_NodesLayerNorm):
    def nodes(self, dxhat, t):
        y = t.xhat if self.gamma is None else t.xhat * self.gamma.astype(dxhat.dtype).reshape(1, -1)
        projection = y * (dxhat * t.xhat).mean(1, keepdims=True)  # planted: y stands where xhat should
        return (dxhat - dxhat.mean(1, keepdims=True) - projection) / t.root


class SequenceMixedLayerNorm(_NodesLayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if dy.ndim == 3:
            batch, steps, width = dy.shape
            return dx.reshape(steps, batch, width).swapaxes(0, 1)  # planted: 3D rows in the wrong places
        return dx


class RootOfCountRMSNorm(_NodesRMSNorm):
    def rows_gradient(self, dy, d, u, root, n):
        return super().rows_gradient(dy, d, u, root, n) * (float(n) ** 0.5 / n)  # planted: a norm for a mean


class ProjectionOfMagnitudesRMSNorm(_NodesRMSNorm):
    def rows_gradient(self, dy, d, u, root, n):
        return (d - u * np.einsum("ij,ij->i", np.abs(d), u)[:, None] / n) / root  # planted: |d|, should be d


class ProjectionPartlyDetachedRMSNorm(_NodesRMSNorm):
    def rows_gradient(self, dy, d, u, root, n):
        keep = n - n // 4 if n > 3 else n
        along = np.einsum("ij,ij->i", d[:, :keep], u[:, :keep])  # planted: the last quarter of a row is not summed
        return (d - u * along[:, None] / n) / root


class ClippedUpstreamLayerNorm(_NodesLayerNorm):
    def backward(self, dy):
        return super().backward(np.clip(dy, -100, 100))  # planted: a guard against what explodes


class ClippedUpstreamRMSNorm(_NodesRMSNorm):
    def backward(self, dy):
        return super().backward(np.where(np.abs(dy) > 100, 100 * np.sign(dy), dy))  # planted: as above


class DgammaOverRootOfSizeRMSNorm(_NodesRMSNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.gamma is not None:
            self.dgamma = self.dgamma / self.dgamma.size**0.5  # planted: scaled as attention scores are
        return dx


class SlightlyShortRMSNorm(_NodesRMSNorm):
    def rows_gradient(self, dy, d, u, root, n):
        along = np.einsum("ij,ij->i", d, u)[:, None] * 0.9999  # planted: a constant off by 1e-4
        return (d - u * along / n) / root


ROWS = (
    unknown("LayerNorm", HalvedLayerNorm, "dx", "nodes; dx times 0.5"),
    unknown("LayerNorm", PowerOfVarianceLayerNorm, "dx", "nodes; power -1/2 in dvar; invisible where var + eps is 1"),
    unknown("LayerNorm", TwoForgottenLayerNorm, "dx", "nodes; half the projection term"),
    unknown("LayerNorm", RowsReversedLayerNorm, "dx", "nodes; dx rows reversed; right with one row"),
    unknown("LayerNorm", NeighboursDeviationLayerNorm, "dx", "nodes; another row's deviation; right with one row"),
    unknown("LayerNorm", OutputInProjectionLayerNorm, "dx", "nodes; y mean(d xhat), where gamma differs from 1"),
    unknown("LayerNorm", SequenceMixedLayerNorm, "dx", "nodes; dx permuted over batch and time; 3D only"),
    unknown("LayerNorm", ClippedUpstreamLayerNorm, "dx dgamma dbeta", "nodes; dy clipped at 100"),
    unknown("RMSNorm", ClippedUpstreamRMSNorm, "dx dgamma", "matrix; dy clipped at 100"),
    unknown("RMSNorm", RootOfCountRMSNorm, "dx", "matrix; dx times sqrt(n) / n"),
    unknown("RMSNorm", ProjectionOfMagnitudesRMSNorm, "dx", "matrix; the projection of |d|"),
    unknown("RMSNorm", ProjectionPartlyDetachedRMSNorm, "dx", "matrix; the projection sums three quarters of a row"),
    unknown("RMSNorm", DgammaOverRootOfSizeRMSNorm, "dgamma", "matrix; dgamma over the root of its size"),
    unknown("RMSNorm", SlightlyShortRMSNorm, "dx", "matrix; a relative error of 1e-4 in the projection term"),
)
