"""Every quantity, random gamma, beta and dy, ranks, axes, eps, parameters, two calls."""

import numpy as np
import pytest
from helpers import drawn, gradients, oracle
from my_layers import MyLayerNorm

CASES = [((4, 7), 1), ((2, 3, 5), 1), ((2, 3, 5), 2), ((2, 3, 2, 4), 1), ((2, 3, 2, 4), 2)]


def close(a, b):
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 1e-7


@pytest.mark.parametrize(("shape", "axes"), CASES)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize(("affine", "bias"), [(True, True), (True, False), (False, False)])
def test_layer_norm(shape, axes, eps, affine, bias):
    layer = MyLayerNorm(shape[-axes:], eps=eps, elementwise_affine=affine, bias=bias)
    for seed in range(2):
        x, dy, gamma, beta = drawn(shape, axes, seed)
        gamma, beta = gamma if affine else 0 * gamma + 1, beta if affine and bias else 0 * beta
        layer.gamma, layer.beta = gamma if affine else None, beta if affine and bias else None
        close(layer.forward(x), oracle(x, gamma, beta, axes, eps))
        dx, dgamma, dbeta = gradients(x, dy, gamma, beta, axes, eps)
        close(layer.backward(dy), dx)
        if affine:
            close(layer.dgamma, dgamma)
        if affine and bias:
            close(layer.dbeta, dbeta)
