"""LayerNorms that are right as long as the caller leaves x alone, or that give a wider dtype than they are given.

They are of the styles of those that handle memory and dtypes wrongly. Must not know `reference` or `npnorm`: the
corpus judges the judge.
"""

import numpy as np

from tests.planted.row import right
from tests.planted.wrong.layer_norm.state import MatrixLayerNorm, TrailingLayerNorm


class MatrixKeepsView(MatrixLayerNorm):
    def remember(self, cache, x):
        rows, (_, rstd) = self.matrix(x), cache
        self.parts = rows, rows.mean(axis=1, keepdims=True), rstd  # hazard: rows is a view of contiguous x

    def backward(self, dy):
        rows, mean, rstd = self.parts
        self.cache = ((rows - mean) * rstd, rstd)
        return super().backward(dy)


class MatrixEpsIsStrongFloat64(MatrixLayerNorm):
    def get_eps(self):
        return np.asarray(self.eps, dtype=np.float64)  # hazard: a 0-d array promotes, a Python float does not


class TrailingKeepsInputForDgamma(TrailingLayerNorm):
    def forward(self, x):
        y = super().forward(x)
        inner = tuple(range(-len(self.normalized_shape), 0))
        mean, rstd = x.mean(axis=inner, keepdims=True), (x.var(axis=inner, keepdims=True) + self.eps) ** -0.5
        pull = self.pull

        def pull_with_x(dy):
            dx, _, dbeta = pull(dy)
            outer = tuple(range(dy.ndim - len(self.normalized_shape)))
            return (
                dx,
                (dy * (x - mean) * rstd).sum(axis=outer),
                dbeta,
            )  # hazard: the closure holds the caller's x

        self.pull = pull_with_x
        return y


class TrailingGammaInFloat64(TrailingLayerNorm):
    def weight(self, dtype):
        return super().weight(np.float64)  # hazard: float64 whatever comes in


ROWS = (
    right("LayerNorm", MatrixKeepsView, "matrix; a view of contiguous x, xhat made anew", hazards="input-not-saved"),
    right("LayerNorm", MatrixEpsIsStrongFloat64, "matrix; a 0-d float64 eps; float32 in", hazards="dtype-promoted"),
    right("LayerNorm", TrailingKeepsInputForDgamma, "closure; x is held for dgamma only", hazards="input-not-saved"),
    right(
        "LayerNorm", TrailingGammaInFloat64, "closure; gamma, or 1, is float64; float32 in", hazards="dtype-promoted"
    ),
)
