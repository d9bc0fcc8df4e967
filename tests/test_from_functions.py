"""A pair of functions with a cache, forward and backward, made a layer by `from_functions`."""

import numpy as np
import pytest

import npnorm
from reference import check, from_functions


def _axes(x, normalized_shape):
    return tuple(range(x.ndim - np.size(normalized_shape), x.ndim))


def ln_forward(x, gamma, beta, normalized_shape, eps=1e-5):
    axes = _axes(x, normalized_shape)
    mean = x.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + x.dtype.type(eps))
    xhat = (x - mean) * rstd
    return gamma * xhat + beta, (xhat, rstd, gamma, axes)


def ln_backward(dy, cache):
    xhat, rstd, gamma, axes = cache
    leading, d = tuple(range(axes[0])), gamma * dy
    dx = rstd * (d - d.mean(axes, keepdims=True) - xhat * (d * xhat).mean(axes, keepdims=True))
    return dx, (dy * xhat).sum(leading), dy.sum(leading)


def rms_forward(x, normalized_shape, gamma=None, eps=1e-5):
    axes = _axes(x, normalized_shape)
    rstd = 1 / np.sqrt((x**2).mean(axes, keepdims=True) + x.dtype.type(float(eps)))
    return x * rstd if gamma is None else gamma * x * rstd, (x * rstd, rstd, gamma, axes)


def rms_backward(dy, cache):
    xhat, rstd, gamma, axes = cache
    d = dy if gamma is None else gamma * dy
    dx = rstd * (d - xhat * (d * xhat).mean(axes, keepdims=True))
    return dx if gamma is None else (dx, (dy * xhat).sum(tuple(range(axes[0]))))


def bn_forward(x, gamma, beta, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    axes, shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
    n = x.size // x.shape[1]
    mean, var = (x.mean(axes), x.var(axes)) if training else (running_mean.astype(x.dtype), running_var.astype(x.dtype))
    if training:
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (var * n / (n - 1) - running_var)
    rstd = 1 / np.sqrt(var + x.dtype.type(eps))
    xhat = (x - mean.reshape(shape)) * rstd.reshape(shape)
    return gamma.reshape(shape) * xhat + beta.reshape(shape), (xhat, (gamma * rstd).reshape(shape), axes, training)


def bn_backward(dy, cache):
    xhat, factor, axes, training = cache
    d = dy
    if training:
        d = dy - dy.mean(axes, keepdims=True) - xhat * (dy * xhat).mean(axes, keepdims=True)
    return factor * d, (dy * xhat).sum(axes), dy.sum(axes)


def gn_forward(x, gamma, beta, num_groups, **rest):
    layer = npnorm.GroupNorm(num_groups, x.shape[1], rest.get("eps", 1e-5), rest.get("affine", True))
    layer.gamma, layer.beta = gamma, beta
    return layer.forward(x), layer


def gn_backward(dy, layer):
    return {"dx": layer.backward(dy), "dgamma": layer.dgamma, "dbeta": layer.dbeta}


PAIRS = {
    "LayerNorm": (ln_forward, ln_backward, {"elementwise_affine", "bias"}),
    "RMSNorm": (rms_forward, rms_backward, {"eps=None"}),
    "BatchNorm": (bn_forward, bn_backward, {"affine", "track_running_stats", "momentum=None"}),
    "GroupNorm": (gn_forward, gn_backward, {"affine"}),
}


@pytest.mark.parametrize(("like", "pair"), PAIRS.items(), ids=PAIRS)
def test_pair_of_functions_is_a_layer(like, pair):
    forward, backward, lacking = pair
    report = check(from_functions(forward, backward, like=like), like, examples=5)
    assert report.passed, report
    assert report.not_covered.keys() - {"float16", "bfloat16"} == lacking
    assert {"y", "dx", "dgamma"} <= report.quantities.keys()
    assert ("running_var" in report.quantities) == (like == "BatchNorm")


def test_pair_of_functions_needs_no_second_word():
    """One call says what it is like; the names of the functions need not."""
    assert check(from_functions(ln_forward, ln_backward, like="LayerNorm"), examples=0, ndims=[2]).passed


def test_wrong_pair_of_functions_is_caught():
    def backward(dy, cache):
        dx, dgamma, dbeta = ln_backward(dy, cache)
        return dx, dgamma / len(dy), dbeta

    report = check(from_functions(ln_forward, backward, like="LayerNorm"), "LayerNorm", examples=0, ndims=[2, 3])
    assert [fault.id for fault in report.faults] == ["dgamma-divided-by-batch"]


def test_further_arguments_are_fixed():
    def forward(x, gamma, beta, normalized_shape, eps, extra):
        assert extra == "given"
        return ln_forward(x, gamma, beta, normalized_shape, eps)

    layer = from_functions(forward, ln_backward, like="LayerNorm", extra="given")
    assert check(layer, "LayerNorm", examples=0, ndims=[2]).passed


def test_pair_of_functions_of_no_known_layer():
    with pytest.raises(ValueError, match=r"Expected like to be one of \('GroupNorm', .* but got 'Norm'"):
        from_functions(ln_forward, ln_backward, like="Norm")
