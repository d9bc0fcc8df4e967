"""LayerNorms that raise, share or overwrite what is not theirs alone, start elsewhere, or give gradients in a wrong shape.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import AxisLayerNorm, RowsLayerNorm


class LayerNormNeedsGammaInBackward(RowsLayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        self.dgamma = (
            (dy * self.z).reshape(-1, self.gamma.size).sum(0).reshape(self.shape)
        )  # planted: gamma may be None
        return dx


class LayerNormBufferOfFirstBatch(AxisLayerNorm):
    buffer = None

    def forward(self, x):
        y = super().forward(x)
        if self.buffer is None:
            self.buffer = np.empty_like(y)
        np.copyto(self.buffer, y)  # planted: of the first batch's size for ever
        return self.buffer.copy()


class LayerNormReusedOutput(AxisLayerNorm):
    outputs = None

    def forward(self, x):
        self.outputs = self.outputs or {}
        y = self.outputs.setdefault((x.shape, x.dtype), np.empty(x.shape, x.dtype))
        y[...] = super().forward(x)
        return y  # planted: the next call writes it over


class LayerNormCacheOnClass(RowsLayerNorm):
    cache = {}  # noqa: RUF012 - planted: one for all

    def forward(self, x):
        y = super().forward(x)
        self.cache["rows"] = self.c, self.f, self.s, self.z
        return y

    def backward(self, dy):
        self.c, self.f, self.s, self.z = self.cache["rows"]
        return super().backward(dy)


class LayerNormHandsDyBack(AxisLayerNorm):
    def backward(self, dy):
        super().backward(dy)
        return dy  # planted: itself, not even a copy


class LayerNormOfBert(RowsLayerNorm):
    def __init__(self, normalized_shape, eps=1e-12, elementwise_affine=True, bias=True):  # planted: the default
        super().__init__(normalized_shape, eps, elementwise_affine, bias)


class LayerNormDrawnGamma(AxisLayerNorm):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        super().__init__(normalized_shape, eps, elementwise_affine, bias)
        if self.gamma is not None:
            self.gamma = np.random.default_rng(0).standard_normal(self.shape)  # planted: as a weight matrix is


class LayerNormFlatGradients(RowsLayerNorm):
    def onto(self, t):
        return super().onto(t).ravel()  # planted: several axes become one


class LayerNormFlatGradientsOfManyRows(AxisLayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.dgamma is not None and dy.size > 200 * self.dgamma.size:
            self.dgamma = self.dgamma.ravel()  # planted: where the sum is made in blocks
        return dx


class LayerNormSquaresInHalf(RowsLayerNorm):
    """Widens what comes in, but for the squares."""

    def forward(self, x):
        self.given = x.dtype
        return super().forward(x.astype(np.result_type(x, np.float32))).astype(x.dtype)

    def second_moment(self, c):
        narrow = c.astype(self.given)
        return (narrow * narrow).astype(c.dtype).mean(1, keepdims=True)  # planted: squared before it is widened

    def backward(self, dy):
        dx = super().backward(dy.astype(np.result_type(dy, np.float32)))
        return dx.astype(dy.dtype)


class LayerNormRoundsInBetween(RowsLayerNorm):
    """Widens what comes in, and rounds what is normalized before it is scaled."""

    def forward(self, x):
        super().forward(x.astype(np.result_type(x, np.float32)))
        scaled = self.z.astype(x.dtype)  # planted: and y once more
        if self.gamma is not None:
            scaled = scaled * self.gamma.astype(x.dtype)
        return scaled if self.beta is None else scaled + self.beta.astype(x.dtype)

    def backward(self, dy):
        return super().backward(dy.astype(np.result_type(dy, np.float32))).astype(dy.dtype)


class LayerNormCentresDy(RowsLayerNorm):
    def backward(self, dy):
        super().backward(dy)
        d = dy if self.gamma is None else dy * self.gamma.astype(dy.dtype)
        z, r, d = (self.rows(array) for array in (self.z, dy, d))
        mean = r.mean(1, keepdims=True)  # planted: r, where d belongs
        return self.back(self.f * (d - mean - z * (d * z).mean(1, keepdims=True)), dy.shape)


ALL = "y dx dgamma dbeta"
planted = partial(wrong, "LayerNorm")

ROWS = (
    planted(LayerNormNeedsGammaInBackward, "backward-raises", "dx", "over rows; without gamma only", raises=True),
    planted(LayerNormBufferOfFirstBatch, "forward-raises", ALL, "axis by axis; a batch of another size", raises=True),
    planted(LayerNormReusedOutput, "result-overwritten", "y", "axis by axis; a buffer a shape; all numbers are right"),
    planted(LayerNormCacheOnClass, "instances-share-state", "dx dgamma", "over rows; a dict of the class"),
    planted(LayerNormHandsDyBack, "dx-is-dy", "dx", "axis by axis; the very array", hazards="dx-aliases-dy"),
    planted(LayerNormOfBert, "eps-default", "", "over rows; 1e-12"),
    planted(LayerNormDrawnGamma, "parameters-start-elsewhere", "", "axis by axis; gamma is drawn"),
    planted(LayerNormFlatGradients, "parameter-gradients-misshapen", "dgamma dbeta", "over rows; several axes only"),
    planted(
        LayerNormFlatGradientsOfManyRows,
        "parameter-gradients-misshapen",
        "dgamma",
        "axis by axis; several axes and more than 200 rows",
    ),
    planted(LayerNormSquaresInHalf, "computed-in-16-bits", "y dx dgamma", "over rows; where x is float16"),
    planted(LayerNormCentresDy, "dx-mean-term-without-gamma", "dx", "over rows; the mean term"),
    planted(LayerNormRoundsInBetween, "rounded-in-between", "y", "over rows; where x has 16 bits"),
)
