"""The largest difference with its sign."""

import numpy as np
from helpers import drawn, gradients, oracle
from my_layers import MyLayerNorm


def close(a, b, atol=1e-7):
    assert np.max(a - b) <= atol


def test_layer_norm():
    for shape in ((4, 7), (2, 3, 5)):
        x, dy, gamma, beta = drawn(shape)
        layer = MyLayerNorm(shape[-1])
        layer.gamma, layer.beta = gamma, beta
        close(layer.forward(x), oracle(x, gamma, beta))
        dx, dgamma, dbeta = gradients(x, dy, gamma, beta)
        close(layer.backward(dy), dx)
        close(layer.dgamma, dgamma)
        close(layer.dbeta, dbeta)
