"""JAX functions and modules as subjects: right ones pass, wrong ones are named, and the caller's JAX stays as it is."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference import check, from_jax
from reference.cases.case import make
from reference.kinds import kind_named
from reference.subjects.frameworks import framework_of
from reference.subjects.functions import arguments_of
from reference.subjects.loading import opened

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install '.[jax]'")
jnp = jax.numpy

FEW = {"ndims": (2,), "dtypes": ("float64", "float32"), "examples": 20}  # each shape costs a compilation


def layer_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def forward(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    rstd = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps)
    return centred * rstd * weight + bias, (centred * rstd, rstd, weight)


def backward(eps: float, kept: Any, dy: Any) -> Any:
    xhat, rstd, weight = kept
    d = weight * dy
    dx = rstd * (d - d.mean(-1, keepdims=True) - xhat * (d * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum(0), dy.sum(0)


def gamma_outside(eps: float, kept: Any, dy: Any) -> Any:
    xhat, rstd, weight = kept
    dx = weight * rstd * (dy - dy.mean(-1, keepdims=True) - xhat * (dy * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum(0), dy.sum(0)


def no_gradient(eps: float, kept: Any, dy: Any) -> Any:
    raise RuntimeError("no gradient here")


def with_gradient(backward: Any) -> Any:
    @partial(jax.custom_vjp, nondiff_argnums=(3,))
    def own_layer_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
        return forward(x, weight, bias, eps)[0]

    own_layer_norm.defvjp(forward, backward)
    return own_layer_norm


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(layer_norm, id="plain", marks=pytest.mark.slow),
        pytest.param(jax.jit(layer_norm), id="jit", marks=pytest.mark.slow),
        pytest.param(with_gradient(backward), id="custom_vjp"),
    ],
)
def test_a_right_function_passes(f: Any) -> None:
    report = check(from_jax(f), **FEW)
    assert report.passed, str(report)
    assert {"y", "dx", "dgamma", "dbeta"} <= report.quantities.keys()
    assert report.cases > 70


@pytest.mark.parametrize(
    ("gradient", "name", "wrong"),
    [(gamma_outside, "dx-gamma-outside-means", {"dx"}), (no_gradient, "backward-raises", {"dx", "dgamma", "dbeta"})],
)
def test_a_wrong_gradient_is_named(gradient: Any, name: str, wrong: set[str]) -> None:
    report = check(from_jax(with_gradient(gradient)), **FEW)
    assert [fault.id for fault in report.faults] == [name]
    assert {quantity for quantity, figures in report.quantities.items() if not figures.passed} == wrong


def test_a_function_for_the_last_axis_is_not_held_to_several() -> None:
    report = check(from_jax(layer_norm), ndims=(3,), dtypes=("float64",), examples=0)
    assert report.passed
    assert "several normalized axes" in report.not_covered

    def layer_norm_of_all(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
        axes = tuple(range(-weight.ndim, 0))
        return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + eps) * weight + bias

    report = check(from_jax(layer_norm_of_all), ndims=(3,), dtypes=("float64",), examples=0)
    assert report.passed
    assert "several normalized axes" not in report.not_covered


def batch_norm(
    x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, training: bool = True, momentum: float = 0.1
) -> Any:
    axes, n = (0, *range(2, x.ndim)), x.size // x.shape[1]
    lying = (1, -1, *[1] * (x.ndim - 2))
    mean, var = (x.mean(axes), x.var(axes)) if training else (running_mean, running_var)
    if training:
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var = (1 - momentum) * running_var + momentum * var * n / (n - 1)
    xhat = (x - mean.reshape(lying)) / jnp.sqrt(var.reshape(lying) + 1e-5)
    return xhat * gamma.reshape(lying) + beta.reshape(lying), (running_mean, running_var)


def test_a_function_with_running_statistics() -> None:
    report = check(from_jax(batch_norm), **FEW)
    assert report.passed, str(report)
    assert {"running_mean", "running_var"} <= report.quantities.keys()
    assert "eval mode" not in report.not_covered


def test_channels_that_are_last_are_found() -> None:
    def group_norm(x: Any, scale: Any, offset: Any, num_groups: int, epsilon: float = 1e-5) -> Any:
        n, channels = x.shape[0], x.shape[-1]
        grouped = x.reshape(n, -1, num_groups, channels // num_groups)
        mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
        return ((grouped - mean) / jnp.sqrt(var + epsilon)).reshape(x.shape) * scale + offset

    layer = from_jax(group_norm)(num_groups=2, num_channels=6, eps=1e-5)
    x = np.random.default_rng(0).standard_normal((3, 6, 4, 5)) + np.arange(6).reshape(-1, 1, 1)
    y = layer.forward(x)
    assert y.shape == (3, 6, 4, 5)
    np.testing.assert_allclose(y.reshape(3, 2, -1).mean(-1), 0, atol=1e-12)
    first = from_jax(group_norm, channels_last=False)(num_groups=2, num_channels=6, eps=1e-5)
    assert np.abs(first.forward(x).reshape(3, 2, -1).mean(-1)).max() > 0.1


def test_64_bits_are_on_for_a_call_alone_and_x_is_copied() -> None:
    before = jax.config.jax_enable_x64
    layer = from_jax(layer_norm)(normalized_shape=5, eps=1e-5)
    x, dy = np.random.default_rng(1).standard_normal((2, 3, 5))
    y = layer.forward(x)
    expected = layer.backward(dy)
    assert y.dtype == expected.dtype == np.float64
    assert jax.config.jax_enable_x64 == before
    layer.forward(x)
    x[...] = 7.0
    np.testing.assert_array_equal(layer.backward(dy), expected)
    y[...] = 0.0  # it is the caller's, who may write into it


def test_a_function_that_asks_for_something_else_is_refused_with_a_sentence() -> None:
    def layer_norm(x: Any, weight: Any, mesh: Any) -> Any: ...

    with pytest.raises(TypeError, match="it asks for mesh"):
        from_jax(layer_norm)
    with pytest.raises(ValueError, match="say which with like"):
        from_jax(lambda x, weight: x)


def test_a_bias_without_a_default_is_an_array_and_with_one_of_true_a_flag() -> None:
    kind = kind_named("LayerNorm")
    assert arguments_of(lambda x, weight, bias: x, kind, {}).named == {"weight": "gamma", "bias": "beta"}
    assert arguments_of(lambda x, weight, bias=True: x, kind, {}).named == {"weight": "gamma", "bias": "bias"}


# --- told by themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f", [layer_norm, jax.jit(layer_norm), with_gradient(backward)], ids=["plain", "jit", "custom_vjp"]
)
def test_a_function_is_known_to_be_of_jax(f: Any) -> None:
    framework = framework_of(f)
    assert framework is not None
    assert framework.name == "jax"
    assert framework_of(from_jax(f)) is None  # which has the form of the protocol already


def test_a_file_s_function_is_read_by_the_command_s_way(tmp_path: Path) -> None:
    path = tmp_path / "own_norms.py"
    path.write_text(
        "import jax.numpy as jnp\n\n\ndef own_rms_norm(x, weight, eps=1e-6):\n"
        "    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight\n"
    )
    layer, kind = opened(f"{path}:own_rms_norm", None)
    assert kind.name == "RMSNorm"
    y = layer(normalized_shape=4, eps=1e-6).forward(np.full((2, 4), 3.0))
    np.testing.assert_allclose(y, 1, rtol=1e-6)


def test_a_module_is_no_class_of_them_and_there_is_one_device() -> None:
    linen = flax_library("linen")
    with pytest.raises(TypeError, match="Expected a class of modules or a function but got a module, a LayerNorm"):
        from_jax(linen.LayerNorm(), "LayerNorm")
    with pytest.raises(ValueError, match="Expected device to be 'cpu'"):
        from_jax(layer_norm, None, "cuda")


def test_no_fix_is_looked_for_where_each_try_is_compiled() -> None:
    report = check(from_jax(with_gradient(gamma_outside)), ndims=(2,), dtypes=("float64",), examples=0, fix=True)
    assert not report.passed
    assert report.not_fixed == "none is looked for, since each try would be compiled anew"


# --- modules ----------------------------------------------------------------------------------------------------------


def flax_library(name: str) -> Any:
    return pytest.importorskip(f"flax.{name}", reason="Flax is not installed: pip install '.[frameworks]'")


LAYERS = [("linen", "LayerNorm"), ("linen", "GroupNorm"), ("nnx", "RMSNorm"), ("nnx", "LayerNorm")]


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name"), LAYERS, ids=[f"{library}-{name}" for library, name in LAYERS])
def test_a_module_of_flax_passes_with_the_slow_variance_and_is_named_with_the_fast_one(library: str, name: str) -> None:
    cls = getattr(flax_library(library), name)
    report = check(from_jax(cls, use_fast_variance=False), **FEW)
    assert report.passed, str(report)
    if kind_named(name).centred:
        report = check(from_jax(cls), **FEW)
        assert [fault.id for fault in report.faults] == ["one-pass-variance"]


@pytest.mark.slow
def test_the_statistics_of_flax_are_read_and_their_conventions_named() -> None:
    batch_norm = from_jax(flax_library("linen").BatchNorm, use_fast_variance=False)
    conventions = {"momentum-inverted", "running-var-biased"}
    assert {fault.id for fault in check(batch_norm, **FEW).faults} == conventions
    report = check(batch_norm, accept=conventions, **FEW)
    assert report.passed, str(report)
    assert {"running_mean", "running_var"} <= report.quantities.keys()


def test_equinox_is_called_with_one_sample() -> None:
    equinox = pytest.importorskip("equinox", reason="Equinox is not installed: pip install '.[frameworks]'")
    report = check(from_jax(equinox.nn.GroupNorm), ndims=(3,), dtypes=("float64",), examples=10)
    assert report.passed, str(report)
    assert "affine" not in report.not_covered
    with pytest.raises(TypeError, match="wrap it in a function"):
        from_jax(equinox.nn.BatchNorm)


def test_a_new_layer_of_the_same_options_is_not_compiled_anew() -> None:
    factory = from_jax(layer_norm)
    case = make("LayerNorm", (3, 4), eps=1e-5)
    seconds = []
    for seed in range(3):
        layer = factory(normalized_shape=4, eps=1e-5)
        x, dy = make(case.kind, case.shape, seed=seed).arrays()
        layer.forward(x)
        layer.backward(dy)
        seconds.append(factory.compiling)
    assert seconds[0] > 0.05
    assert seconds[2] - seconds[0] < 0.02
