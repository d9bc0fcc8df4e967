"""LayerNorm by einsum over (..., features) with module-level functions; mistakes in the parameter gradients.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial
from math import prod

import numpy as np

from tests.planted.row import wrong

# Each gradient takes (dy, cache): dy is (rows, features), cache a dictionary of the forward's arrays.


def sum_dy_xhat(dy, cache):
    return np.einsum("rf,rf->f", dy, cache["xhat"])


def sum_dy(dy, cache):
    return np.einsum("rf->f", dy)


class EinsumLayerNorm:
    """Right. The two gradients of the parameters are handed in, so that they can be exchanged one by one."""

    def __init__(
        self,
        normalized_shape,
        eps=1e-5,
        elementwise_affine=True,
        bias=True,
        *,
        dgamma=sum_dy_xhat,
        dbeta=sum_dy,
    ):
        self.normalized_shape = normalized_shape
        self.eps = eps
        self.gamma = np.ones(normalized_shape) if elementwise_affine else None
        self.beta = np.zeros(normalized_shape) if elementwise_affine and bias else None
        self._dgamma, self._dbeta = dgamma, dbeta

    def forward(self, x):
        features = prod(np.atleast_1d(self.normalized_shape).tolist())
        rows = x.reshape(x.size // features, features)
        centred = rows - np.einsum("rf->r", rows)[:, None] / features
        var = np.einsum("rf,rf->r", centred, centred) / features
        sigma = np.sqrt(var + self.eps)[:, None]
        out = centred / sigma
        self.cache = {
            "x": rows.copy(),
            "centred": centred,
            "xhat": out.copy(),
            "sigma": sigma,
            "shape": x.shape,
        }
        if self.gamma is not None:
            out = np.einsum("rf,f->rf", out, self.gamma.astype(x.dtype).ravel())
        if self.beta is not None:
            out = out + self.beta.astype(x.dtype).ravel()
        self.cache["y"] = out.copy()
        return out.reshape(x.shape)

    def backward(self, dy):
        xhat = self.cache["xhat"]
        d = dy.reshape(xhat.shape)
        if self.gamma is not None:
            self.cache["gamma"] = self.gamma.astype(dy.dtype).ravel()
            self.dgamma = self.shaped(self._dgamma(d, self.cache))
        if self.beta is not None:
            self.dbeta = self.shaped(self._dbeta(d, self.cache))
        if self.gamma is not None:
            d = np.einsum("rf,f->rf", d, self.cache["gamma"])
        along = np.einsum("rf,rf->r", d, xhat)[:, None] / d.shape[1]
        dx = (d - d.mean(axis=1)[:, None] - along * xhat) / self.cache["sigma"]
        return dx.reshape(dy.shape)

    def shaped(self, gradient):
        return gradient.reshape(self.gamma.shape) if np.size(gradient) == self.gamma.size else gradient


def sum_dy_x(dy, cache):
    return np.einsum("rf,rf->f", dy, cache["x"])  # planted: x


def sum_dy_centred(dy, cache):
    return np.einsum("rf,rf->f", dy, cache["centred"])  # planted: not divided by sigma


def sum_dy_y(dy, cache):
    return np.einsum("rf,rf->f", dy, cache["y"])  # planted: y


def sum_dy_xhat_gamma(dy, cache):
    return np.einsum("rf,rf,f->f", dy, cache["xhat"], cache["gamma"])  # planted: gamma


def mean_dy_xhat(dy, cache):
    return np.einsum("rf,rf->f", dy, cache["xhat"]) / len(dy)  # planted: / rows


def sum_dy_xhat_over_batch(dy, cache):
    return np.einsum("rf,rf->f", dy, cache["xhat"]) / cache["shape"][0]  # planted: / x.shape[0]


def minus_sum_dy_xhat(dy, cache):
    return -np.einsum("rf,rf->f", dy, cache["xhat"])  # planted: -


def sum_dy_xhat_over_axis_0(dy, cache):
    return (dy * cache["xhat"]).reshape(cache["shape"]).sum(axis=0)  # planted: the other leading axes stay


def sum_dy_over_axis_0(dy, cache):
    return dy.reshape(cache["shape"]).sum(axis=0)  # planted: the other leading axes stay


def mean_dy(dy, cache):
    return np.einsum("rf->f", dy) / len(dy)  # planted: / rows


def sum_dy_gamma(dy, cache):
    return np.einsum("rf,f->f", dy, cache["gamma"])  # planted: gamma


def one_number_dy_xhat(dy, cache):
    return np.einsum("rf,rf->", dy, cache["xhat"]).reshape(1)  # planted: f is summed too


def one_number_dy(dy, cache):
    return np.einsum("rf->", dy).reshape(1)  # planted: f is summed too


def row_sums_dy_xhat(dy, cache):
    return np.einsum("rf,rf->r", dy, cache["xhat"])  # planted: f is summed where r should be


def row_sums_dy(dy, cache):
    return np.einsum("rf->r", dy)  # planted: f is summed where r should be


class EinsumWithoutParameterGradients(EinsumLayerNorm):
    def backward(self, dy):
        xhat = self.cache["xhat"]  # planted: dgamma and dbeta are never mentioned
        d = dy.reshape(xhat.shape)
        if self.gamma is not None:
            d = d * self.gamma.astype(dy.dtype).ravel()
        along = np.einsum("rf,rf->r", d, xhat)[:, None] / d.shape[1]
        dx = (d - d.mean(axis=1)[:, None] - along * xhat) / self.cache["sigma"]
        return dx.reshape(dy.shape)


planted = partial(wrong, "LayerNorm", style="einsum: ")


def with_gradients(fault, quantities, note, **gradients):
    """A row of the layer with these functions for its own; it is called by the mistake that they are."""
    layer = partial(EinsumLayerNorm, **gradients)
    layer.__name__ = f"EinsumLayerNorm[{fault}]"
    return planted(layer, fault, quantities, note)


ROWS = (
    with_gradients("dgamma-uses-x", "dgamma", "sum(dy * x); always", dgamma=sum_dy_x),
    with_gradients("dgamma-uses-centred-x", "dgamma", "sum(dy * (x - mean)); always", dgamma=sum_dy_centred),
    with_gradients("dgamma-uses-y", "dgamma", "sum(dy * y); when gamma, beta are not 1, 0", dgamma=sum_dy_y),
    with_gradients("dgamma-times-gamma", "dgamma", "times gamma; when it differs from 1", dgamma=sum_dy_xhat_gamma),
    with_gradients("dgamma-mean-not-sum", "dgamma", "mean over all rows; more than one row", dgamma=mean_dy_xhat),
    with_gradients("dgamma-divided-by-batch", "dgamma", "over x.shape[0] only", dgamma=sum_dy_xhat_over_batch),
    with_gradients("dgamma-sign", "dgamma", "negated; always", dgamma=minus_sum_dy_xhat),
    with_gradients("dgamma-batch-axis-only", "dgamma", "axis 0 only; from rank 3", dgamma=sum_dy_xhat_over_axis_0),
    with_gradients("dbeta-batch-axis-only", "dbeta", "axis 0 only; from rank 3", dbeta=sum_dy_over_axis_0),
    with_gradients("dbeta-mean-not-sum", "dbeta", "mean over all rows; more than one row", dbeta=mean_dy),
    with_gradients("dbeta-times-gamma", "dbeta", "times gamma; when it differs from 1", dbeta=sum_dy_gamma),
    with_gradients("dgamma-dbeta-swapped", "dgamma dbeta", "exchanged; always", dgamma=sum_dy, dbeta=sum_dy_xhat),
    with_gradients("dgamma-without-xhat", "dgamma", "sum(dy); always", dgamma=sum_dy),
    with_gradients(
        "parameter-gradients-summed-to-scalar",
        "dgamma dbeta",
        "arrays of shape (1,); always",
        dgamma=one_number_dy_xhat,
        dbeta=one_number_dy,
    ),
    with_gradients(
        "parameter-gradients-over-normalized-axes",
        "dgamma dbeta",
        "one number a row, in gamma's shape where as many rows as features; always",
        dgamma=row_sums_dy_xhat,
        dbeta=row_sums_dy,
    ),
    planted(
        EinsumWithoutParameterGradients,
        "parameter-gradients-missing",
        "dgamma dbeta",
        "the attributes do not exist; always",
    ),
)
