"""The arithmetic of normalization and of its gradient: the one place that has it.

Every layer is a way to see its input as a *canonical* array of shape (A, G, K, S), in which the K * S numbers of
each (a, g) share a mean and a variance, and in which gamma and beta have the shape (G, K) or (G, 1):

    GroupNorm     (N, groups, channels per group, space)     gamma (groups, channels per group)
    LayerNorm     (rows, 1, features, 1)                     gamma (1, features)
    InstanceNorm  (N, channels, 1, space)                    gamma (channels, 1)
    BatchNorm     (1, channels, N, space), a transposed view gamma (channels, 1)

This module must not know layers, options, modes or running averages; it sees canonical arrays of one floating dtype.

Accuracy. The mean of numbers that lie far from zero is known only to a roundoff of the *mean*, which may be many
deviations. Subtracting it is exact, though, so the mean of what is left is the error, and subtracting that too
leaves an error of a roundoff of the *deviation*, at any mean (the corrected two-pass algorithm of Chan, Golub and
LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983).
"""

from typing import NamedTuple

import numpy as np

from npnorm.arguments import Array

SHARED = (2, 3)  # the axes whose numbers share a mean and a variance


class Normalized(NamedTuple):
    """What a forward pass gives: the output, the statistics, and what the backward pass needs."""

    y: Array
    mean: Array  # (A, G, 1, 1)
    var: Array  # (A, G, 1, 1), the mean of the squared distances from `mean`
    xhat: Array  # (A, G, K, S)
    rstd: Array  # (A, G, 1, 1)


def normalize(
    x: Array, gamma: Array | None, beta: Array | None, eps: float, center: bool = True
) -> Normalized:
    """y = gamma * xhat + beta with xhat = (x - mean) * rstd and rstd = 1 / sqrt(var + eps).

    `center=False` leaves the mean out of all of it, as RMSNorm does.
    """
    if center:
        mean = x.mean(SHARED, keepdims=True)
        centred = x - mean
        correction = centred.mean(SHARED, keepdims=True)
        centred -= correction
        mean += np.where(np.isfinite(mean), correction, 0)  # an infinite mean stays infinite, as in torch
    else:
        mean = np.zeros((*x.shape[:2], 1, 1), x.dtype)
        centred = x
    var = np.square(centred).mean(SHARED, keepdims=True)
    rstd = 1 / np.sqrt(var + x.dtype.type(eps))
    xhat = centred * rstd
    return Normalized(_affine(xhat, gamma, beta), mean, var, xhat, rstd)


def normalize_with(x: Array, gamma: Array | None, beta: Array | None, mean: Array, rstd: Array) -> Normalized:
    """The same with a given mean and rstd of shape (1, G, 1, 1), as BatchNorm in eval mode."""
    xhat = (x - mean) * rstd
    return Normalized(_affine(xhat, gamma, beta), mean, mean, xhat, rstd)


def input_gradient(dy: Array, gamma: Array | None, xhat: Array, rstd: Array, center: bool = True) -> Array:
    """dx = rstd * (d - mean(d) - xhat * mean(d * xhat)) with d = gamma * dy; no mean(d) where `center` is False."""
    d = dy if gamma is None else dy * gamma[:, :, None]
    dx = d - xhat * (d * xhat).mean(SHARED, keepdims=True)
    if center:
        dx -= d.mean(SHARED, keepdims=True)
    dx *= rstd
    return dx


def input_gradient_with(dy: Array, gamma: Array | None, rstd: Array) -> Array:
    """dx = rstd * gamma * dy: the gradient where mean and rstd were given, and do not depend on x."""
    return dy * rstd if gamma is None else dy * (rstd * gamma[:, :, None])


def parameter_gradients(dy: Array, xhat: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """dgamma = sum(dy * xhat) and dbeta = sum(dy) over all that shares a gamma of `shape` (G, K) or (G, 1)."""
    axes = (0, 3) if shape[1] == dy.shape[2] else (0, 2, 3)
    return (dy * xhat).sum(axes).reshape(shape), dy.sum(axes).reshape(shape)


def _affine(xhat: Array, gamma: Array | None, beta: Array | None) -> Array:
    y = xhat.copy() if gamma is None else xhat * gamma[:, :, None]
    if beta is not None:
        y += beta[:, :, None]
    return y
