"""The lab's network and torch's twin of it, trained side by side: every number of both is the same after every step.

Both start from the same float64 arrays and see the same batches. What is compared after each step: the loss, every
weight and bias, gamma and beta, and running statistic; at the end the logits in eval mode too.

The tolerance. All these numbers are of order one, and are compared in units of u = 2**-53 of max(1, the largest entry
of torch's array). The two networks sum in different orders, so each step adds a few roundoffs to each array:
(8 + 2 s) u after s steps allows two a step, and eight for the longest sums of the first. Rounding is not correlated
between steps, so the difference grows as a random walk does, and was never measured above a quarter of this: 17 u in
300 steps at most. A mistake in a formula is ten orders of magnitude above it, at its first step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from npnorm import BatchNorm
from npnorm.arguments import Array
from npnorm.lab.mlp import NORMS, NormalizedMLP, cross_entropy
from tests.torch_mlp import TorchMLP

U = 2.0**-53
SIZES = (20, 24, 18, 5)  # 24 makes 4 groups of 6, 18 makes 3 of 6
LR = 0.1
STEPS = 300
SAMPLES, BATCH = 136, 16  # the last batch of an epoch has 8


@dataclass(frozen=True)
class Divergence:
    """The first step after which something differs, and the names of all that does."""

    step: int
    names: frozenset[str]


def lockstep(make: Callable[..., NormalizedMLP], norm: str, steps: int = STEPS) -> Divergence | None:
    """Train a network and its twin side by side; None if nothing ever differs."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(SAMPLES, SIZES[0]))
    labels = (x @ rng.normal(size=(SIZES[0], SIZES[-1])) + rng.normal(size=(SAMPLES, SIZES[-1]))).argmax(1)
    network = make(SIZES, norm, rng)
    twin = TorchMLP(SIZES, norm, network.state(), LR)
    order: list[Array] = []
    for step in range(1, steps + 1):
        if not order:
            shuffled = rng.permutation(SAMPLES)
            order = [shuffled[i : i + BATCH] for i in range(0, SAMPLES, BATCH)]
        batch = order.pop(0)
        ours = {"loss": np.array(network.train_step(x[batch], labels[batch], LR))}
        torchs = {"loss": np.array(twin.train_step(x[batch], labels[batch]))}
        names = differing(ours | network.state(), torchs | twin.state(), step)
        if names:
            return Divergence(step, names)
    names = differing({"logits": network.eval().forward(x)}, {"logits": twin.logits(x)}, steps)
    return Divergence(steps, names) if names else None


def differing(ours: dict[str, Array], torchs: dict[str, Array], step: int) -> frozenset[str]:
    """The names of the arrays that differ by more than the tolerance after `step` steps."""
    assert ours.keys() == torchs.keys()
    tolerance = (8 + 2 * step) * U
    return frozenset(
        name
        for name, expected in torchs.items()
        if not np.abs(ours[name] - expected).max() <= tolerance * max(1, np.abs(expected).max())  # NaN differs
    )


@pytest.mark.parametrize("norm", NORMS)
def test_training_is_torchs_at_every_step(norm: str) -> None:
    assert lockstep(NormalizedMLP, norm) is None


class GradientThroughUpdatedWeights(NormalizedMLP):
    """Each layer is stepped before the gradient is handed on through it: the bug of the course notebook."""

    def backward(self, dlogits: Array) -> Array:
        gradient = dlogits
        for layer in reversed(self.layers):
            layer.backward(gradient)  # for its parameters' gradients
            for value, its_gradient in layer.parameters():
                value -= LR * its_gradient
            gradient = layer.backward(gradient)
        return gradient

    def step(self, lr: float) -> None:
        """All is stepped already."""


class SummedGammaGradient(NormalizedMLP):
    """gamma and beta are stepped with gradients summed over the batch, everything else with means."""

    def train_step(self, x: Array, labels: Array, lr: float) -> float:
        self._samples = len(x)
        return super().train_step(x, labels, lr)

    def backward(self, dlogits: Array) -> Array:
        dx = super().backward(dlogits)
        for layer in self.norms:
            for _, gradient in layer.parameters():
                assert gradient is not None
                gradient *= self._samples
        return dx


class EvalStatisticsInTraining(NormalizedMLP):
    """BatchNorm trains on its running statistics."""

    def train_step(self, x: Array, labels: Array, lr: float) -> float:
        self.eval()
        loss = cross_entropy(self.forward(x), labels)
        self.backward(loss.dlogits)
        self.step(lr)
        return loss.value


class ReLUMaskMissing(NormalizedMLP):
    """The gradient passes through ReLU as if it were not there."""

    def backward(self, dlogits: Array) -> Array:
        gradient = dlogits
        for layer in reversed(self.layers):
            if layer not in self.activations:
                gradient = layer.backward(gradient)
        return gradient


class BiasedRunningVariance(NormalizedMLP):
    """The running variance follows the variance divided by n, not by n - 1."""

    def forward(self, x: Array) -> Array:
        layers = [layer for layer in self.norms if isinstance(layer, BatchNorm) and layer.training]
        before = [layer.running_var.copy() for layer in layers if layer.running_var is not None]
        y = super().forward(x)
        for layer, old in zip(layers, before, strict=True):
            assert layer.momentum is not None
            assert layer.running_var is not None
            kept = (1 - layer.momentum) * old
            layer.running_var -= (layer.running_var - kept) / len(x)
        return y


class TinyErrorLate(NormalizedMLP):
    """One weight is off by 1e-12 from step 200 on: no mistake of a formula, a test of the tolerance."""

    steps = 0

    def step(self, lr: float) -> None:
        super().step(lr)
        self.steps += 1
        if self.steps == 200:
            self.linears[0].weight[3, 4] += 1e-12


@dataclass(frozen=True)
class Planted:
    """A mistake, where it applies, when it shows, and in what: `shows` must differ then, and `clean` must not yet."""

    network: type[NormalizedMLP]
    norms: tuple[str, ...]
    shows: frozenset[str]
    clean: frozenset[str]
    step: int = 1


WITH_NORM = tuple(norm for norm in NORMS if norm != "none")
STATISTICS = frozenset(f"norm{i}.running_{which}" for i in (1, 2) for which in ("mean", "var"))
TOP = frozenset({"loss", "linear3.weight", "linear3.bias"})  # where no gradient has come through anything yet
WEIGHTS = frozenset({"linear1.weight", "linear2.weight"})

PLANTED = (
    Planted(GradientThroughUpdatedWeights, tuple(NORMS), shows=WEIGHTS, clean=TOP | STATISTICS),
    Planted(
        SummedGammaGradient,
        WITH_NORM,
        shows=frozenset({"norm1.gamma", "norm2.gamma"}),
        clean=TOP | WEIGHTS | STATISTICS,
    ),
    Planted(EvalStatisticsInTraining, ("batch",), shows=TOP | WEIGHTS | STATISTICS, clean=frozenset()),
    Planted(ReLUMaskMissing, tuple(NORMS), shows=WEIGHTS, clean=TOP | STATISTICS),
    Planted(
        BiasedRunningVariance,
        ("batch",),
        shows=frozenset({"norm1.running_var", "norm2.running_var"}),
        clean=TOP | WEIGHTS | {"norm1.running_mean", "norm2.running_mean"},
    ),
    Planted(TinyErrorLate, ("none", "batch"), shows=frozenset({"linear1.weight"}), clean=TOP, step=200),
)


@pytest.mark.parametrize(
    ("planted", "norm"),
    [
        pytest.param(planted, norm, id=f"{planted.network.__name__}-{norm}")
        for planted in PLANTED
        for norm in planted.norms
    ],
)
def test_a_planted_mistake_breaks_it(planted: Planted, norm: str) -> None:
    divergence = lockstep(planted.network, norm)
    assert divergence is not None
    assert divergence.step == planted.step
    assert planted.shows <= divergence.names
    assert not planted.clean & divergence.names


def test_the_twin_refuses_another_networks_arrays() -> None:
    state = NormalizedMLP(SIZES, "rms").state()
    with pytest.raises(ValueError, match=r"Expected a state of the shapes .*norm1\.beta.* but got"):
        TorchMLP(SIZES, "layer", state, LR)
    with pytest.raises(ValueError, match="Expected norm to be one of none, batch, layer, rms, group but got norm='l2'"):
        TorchMLP(SIZES, "l2", state, LR)
