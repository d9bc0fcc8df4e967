"""The lab's network by itself: its gradients against differences of its loss, its parts, its modes, its refusals.

That it trains as torch's does is `test_lockstep`'s.
"""

import numpy as np
import pytest

from npnorm.arguments import Array
from npnorm.lab.mlp import NORMS, ROWS, NormalizedMLP, cross_entropy, groups_of

SIZES = (6, 12, 9, 4)


def batch(samples: int = 10) -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(samples, SIZES[0])), rng.integers(SIZES[-1], size=samples)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_differences_of_the_loss(norm: str) -> None:
    """Every entry of every gradient against (loss(p + h) - loss(p - h)) / 2h, whose own error is about 1e-9 here."""
    x, labels = batch()
    network = NormalizedMLP(SIZES, norm, rng=5)
    rng = np.random.default_rng(8)
    for layer in network.layers:  # away from 0 and 1, where a forgotten factor does not show
        for value, _ in layer.parameters():
            value += rng.normal(scale=0.3, size=value.shape)

    dx = network.backward(cross_entropy(network.forward(x), labels).dlogits)
    pairs = [(x, dx)] + [(value, gradient) for layer in network.layers for value, gradient in layer.parameters()]
    gradients = [(value, np.array(gradient)) for value, gradient in pairs]

    h = 1e-5
    for value, gradient in gradients:
        numerical = np.empty_like(value)
        for index in np.ndindex(value.shape):
            kept = value[index]
            value[index] = kept + h
            above = cross_entropy(network.forward(x), labels).value
            value[index] = kept - h
            below = cross_entropy(network.forward(x), labels).value
            value[index] = kept
            numerical[index] = (above - below) / (2 * h)
        np.testing.assert_allclose(gradient, numerical, rtol=0, atol=2e-8)
        assert np.abs(gradient).max() > 1e-3 or np.abs(numerical).max() < 1e-8  # zero only where it is


@pytest.mark.parametrize(
    ("width", "groups"), [(256, 4), (8, 4), (4, 4), (9, 3), (6, 3), (10, 2), (2, 2), (7, 1), (1, 1)]
)
def test_groups_are_four_or_the_largest_divisor_below(width: int, groups: int) -> None:
    assert groups_of(width) == groups


def test_he_initialization() -> None:
    network = NormalizedMLP((400, 300, 200, 10), rng=0)
    for linear, inputs in zip(network.linears, (400, 300, 200), strict=True):
        assert linear.weight.std() == pytest.approx(np.sqrt(2 / inputs), rel=0.05)
        assert not linear.bias.any()


def test_weights_come_from_the_seed_alone_and_not_from_the_norm() -> None:
    first = NormalizedMLP(SIZES, "none", rng=4).linears
    for norm in NORMS:
        again = NormalizedMLP(SIZES, norm, rng=np.random.default_rng(4)).linears
        assert all((a.weight == b.weight).all() for a, b in zip(first, again, strict=True))
    assert (NormalizedMLP(SIZES, rng=5).linears[0].weight != first[0].weight).all()


@pytest.mark.parametrize("norm", NORMS)
def test_each_hidden_layer_and_only_they_are_normalized_and_rectified(norm: str) -> None:
    network = NormalizedMLP(SIZES, norm)
    hidden = ["Linear", "ReLU"] if norm == "none" else ["Linear", type(network.norms[0]).__name__, "ReLU"]
    assert [type(layer).__name__ for layer in network.layers] == [*hidden, *hidden, "Linear"]
    assert network.forward(batch()[0]).min() < 0


@pytest.mark.parametrize("norm", NORMS)
def test_a_float32_network_stays_one(norm: str) -> None:
    x, labels = batch()
    network = NormalizedMLP(SIZES, norm, dtype=np.float32)
    network.train_step(x.astype(np.float32), labels, 0.1)
    assert network.forward(x.astype(np.float32)).dtype == np.float32
    assert {value.dtype for layer in network.layers for value, _ in layer.parameters()} == {np.dtype(np.float32)}


def test_cross_entropy_is_the_mean_of_minus_log_softmax() -> None:
    logits = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    labels = np.array([0, 2])
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = cross_entropy(logits, labels)
    assert loss.value == pytest.approx(-(np.log(softmax[0, 0]) + np.log(softmax[1, 2])) / 2, rel=1e-14)
    np.testing.assert_allclose(loss.dlogits, (softmax - np.eye(3)[labels]) / 2, rtol=1e-14)


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    loss = cross_entropy(np.array([[1e5, -1e5], [1e5, -1e5]]), np.array([0, 1]))
    assert loss.value == 1e5
    np.testing.assert_array_equal(loss.dlogits, [[0, 0], [0.5, -0.5]])


def test_measuring_uses_running_statistics_and_changes_nothing() -> None:
    x, labels = batch()
    network = NormalizedMLP(SIZES, "batch")
    network.train_step(x, labels, 0.1)
    before = network.state()
    alone = [int(network.predict(x[i : i + 1])[0]) for i in range(len(x))]  # batch statistics refuse one sample
    assert network.predict(x).tolist() == alone
    assert network.accuracy(x, labels) == sum(a == b for a, b in zip(alone, labels, strict=True)) / len(labels)
    assert network.training
    assert not network.eval().training
    network.predict(x)
    assert not network.training
    assert all((array == before[name]).all() for name, array in network.state().items())


def test_a_training_step_trains_in_training_mode_whatever_the_mode_was() -> None:
    x, labels = batch()
    network, other = NormalizedMLP(SIZES, "batch"), NormalizedMLP(SIZES, "batch")
    assert network.eval().train_step(x, labels, 0.1) == other.train_step(x, labels, 0.1)
    assert network.training
    assert all((array == other.state()[name]).all() for name, array in network.state().items())


def test_prediction_in_parts_is_prediction_at_once() -> None:
    x, _ = batch(2 * ROWS + 1)
    network = NormalizedMLP(SIZES, "layer")
    np.testing.assert_array_equal(network.predict(x), network.forward(x).argmax(1))
    assert network.predict(x[:0]).shape == (0,)


def test_state_is_a_copy_with_every_array() -> None:
    network = NormalizedMLP(SIZES, "batch")
    names = [f"linear{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")]
    names += [f"norm{i}.{part}" for i in (1, 2) for part in ("gamma", "beta", "running_mean", "running_var")]
    assert sorted(network.state()) == sorted(names)
    network.state()["linear1.weight"][:] = 0
    assert network.linears[0].weight.any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(
            ((6, 4), "l2"), ValueError, "Expected norm to be one of none, batch, layer, rms, group", id="norm"
        ),
        pytest.param(((6,),), ValueError, r"at least two entries but got \(6,\)", id="one-size"),
        pytest.param(((6, 0, 4),), ValueError, r"Expected layer_sizes\[1\] to be at least 1", id="zero-width"),
        pytest.param((("6", 4),), TypeError, r"Expected layer_sizes\[0\] to be an int but got", id="text"),
    ],
)
def test_a_wrong_network_is_refused(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        NormalizedMLP(*arguments)


def test_wrong_calls_are_refused() -> None:
    network = NormalizedMLP(SIZES)
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 6\) but got \(3, 5\)"):
        network.forward(np.zeros((3, 5)))
    with pytest.raises(TypeError, match="Expected x to be an array of floats but got dtype int64"):
        network.forward(np.zeros((3, 6), np.int64))
    with pytest.raises(RuntimeError, match="Expected a forward pass before backward"):
        network.backward(np.zeros((3, 4)))
    network.forward(np.zeros((3, 6)))
    with pytest.raises(RuntimeError, match="Expected a backward pass before step"):
        network.step(0.1)
