"""gamma and beta as they start, and the gradient of y.sum()."""

import numpy as np
from helpers import drawn, gradients, oracle
from my_layers import MyLayerNorm


def close(a, b, atol=1e-7):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= atol


def test_layer_norm():
    for shape in ((4, 7), (2, 3, 5)):
        x, dy, gamma, beta = drawn(shape)
        dy, gamma, beta = np.ones(shape), np.ones(shape[-1]), np.zeros(shape[-1])
        layer = MyLayerNorm(shape[-1])
        layer.gamma, layer.beta = gamma, beta
        close(layer.forward(x), oracle(x, gamma, beta))
        dx, dgamma, dbeta = gradients(x, dy, gamma, beta)
        close(layer.backward(dy), dx)
        close(layer.dgamma, dgamma)
        close(layer.dbeta, dbeta)
