"""What the test files beside this one compute for themselves: the layer by its definition, and differences of it."""

import numpy as np


def oracle(x, gamma, beta, axes=1, eps=1e-5):
    last = tuple(range(-axes, 0))
    mean, var = x.mean(last, keepdims=True), x.var(last, keepdims=True)
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


def numeric(function, x, dy, h=1e-5):
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        more, less = x.copy(), x.copy()
        more[index] += h
        less[index] -= h
        found[index] = ((function(more) - function(less)) * dy).sum() / (2 * h)
    return found


def gradients(x, dy, gamma, beta, axes=1, eps=1e-5):
    dx = numeric(lambda v: oracle(v, gamma, beta, axes, eps), x, dy)
    dgamma = numeric(lambda v: oracle(x, v, beta, axes, eps), gamma, dy)
    dbeta = numeric(lambda v: oracle(x, gamma, v, axes, eps), beta, dy)
    return dx, dgamma, dbeta


def drawn(shape, axes=1, seed=0):
    rng = np.random.default_rng(seed)
    own = shape[-axes:]
    return (
        2 * rng.standard_normal(shape) + 1,
        rng.standard_normal(shape),
        rng.standard_normal(own),
        rng.standard_normal(own),
    )
