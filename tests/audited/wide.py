"""A tolerance that grows with the rows."""

import numpy as np
from helpers import drawn, gradients, oracle
from my_layers import MyLayerNorm


def close(a, b, atol=1e-7):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= atol


def test_layer_norm():
    for shape in ((40, 7), (20, 3, 5)):
        x, dy, gamma, beta = drawn(shape)
        layer = MyLayerNorm(shape[-1])
        layer.gamma, layer.beta = gamma, beta
        close(layer.forward(x), oracle(x, gamma, beta), 1e-4 * 40 * shape[-1])
        dx, dgamma, dbeta = gradients(x, dy, gamma, beta)
        close(layer.backward(dy), dx, 1e-4 * 40 * shape[-1])
        close(layer.dgamma, dgamma, 1e-4 * 40 * shape[-1])
        close(layer.dbeta, dbeta, 1e-4 * 40 * shape[-1])
