"""A third opinion on every backward: central differences of the layer's own forward. Knows no formula and no reference.

The loss is sum(dy * y). A central difference D(h) of it errs by the curvature, about D(2h) - D(h) over 3, and by the
rounding of y, at most 16 roundoffs of the terms of the loss divided by h. The bound is made of just these two, for each
entry by itself, and is asserted to be small against the gradient.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from npnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

Array = NDArray[Any]
STEP = 1e-4
ROUNDOFF = float(np.finfo(float).eps) / 2


def _eval_batch_norm() -> BatchNorm:
    layer = BatchNorm(4)
    layer(np.random.default_rng(3).normal(2, 3, (6, 4)))
    return layer.eval()


LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "GroupNorm-2D": (lambda: GroupNorm(2, 6), (3, 6)),
    "GroupNorm-3D": (lambda: GroupNorm(3, 6), (2, 6, 3)),
    "GroupNorm-4D": (lambda: GroupNorm(2, 4), (2, 4, 3, 2)),
    "GroupNorm-5D": (lambda: GroupNorm(1, 4), (1, 4, 2, 1, 3)),
    "GroupNorm-large eps": (lambda: GroupNorm(2, 4, eps=0.5), (2, 4, 3)),
    "GroupNorm-no affine": (lambda: GroupNorm(2, 4, affine=False), (2, 4, 3)),
    "LayerNorm-2D": (lambda: LayerNorm(6), (4, 6)),
    "LayerNorm-3D two axes": (lambda: LayerNorm((3, 4)), (2, 3, 4)),
    "LayerNorm-4D one axis": (lambda: LayerNorm(5), (2, 2, 2, 5)),
    "LayerNorm-4D all axes": (lambda: LayerNorm((2, 2, 3, 2)), (2, 2, 3, 2)),
    "LayerNorm-no bias": (lambda: LayerNorm(6, bias=False), (4, 6)),
    "RMSNorm-2D": (lambda: RMSNorm(6), (4, 6)),
    "RMSNorm-3D two axes": (lambda: RMSNorm((3, 4)), (2, 3, 4)),
    "RMSNorm-4D large eps": (lambda: RMSNorm(5, eps=0.5), (2, 2, 2, 5)),
    "BatchNorm-2D": (lambda: BatchNorm(4), (6, 4)),
    "BatchNorm-3D": (lambda: BatchNorm(4), (3, 4, 3)),
    "BatchNorm-4D": (lambda: BatchNorm(4), (2, 4, 2, 3)),
    "BatchNorm-5D": (lambda: BatchNorm(4), (2, 4, 1, 2, 3)),
    "BatchNorm-eval 2D": (_eval_batch_norm, (3, 4)),
    "BatchNorm-eval 4D": (_eval_batch_norm, (2, 4, 3, 2)),
    "BatchNorm-eval without running statistics": (lambda: BatchNorm(4, track_running_stats=False).eval(), (5, 4)),
    "InstanceNorm-3D": (lambda: InstanceNorm(3), (2, 3, 6)),
    "InstanceNorm-4D": (lambda: InstanceNorm(3, affine=True), (2, 3, 2, 4)),
    "InstanceNorm-5D": (lambda: InstanceNorm(2, affine=True), (2, 2, 2, 2, 3)),
}


class Trial:
    """One layer with its arrays, and the differences of its loss."""

    def __init__(self, build: Callable[[], Any], shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(11)
        self.layer = build()
        self.x, self.dy = 2 * rng.standard_normal(shape) + 1, rng.standard_normal(shape) + 0.3
        for name in ("gamma", "beta"):
            value = getattr(self.layer, name)
            if value is not None:
                setattr(self.layer, name, rng.uniform(0.5, 2, value.shape) * rng.choice((-1, 1), value.shape))

    def analytic(self, name: str) -> Array | None:
        self.layer(self.x)
        dx = self.layer.backward(self.dy)
        return dx if name == "x" else getattr(self.layer, f"d{name}")

    def loss_at(self, name: str, array: Array) -> float:
        """The loss with `array` in the place of x, gamma or beta."""
        if name == "x":
            return float(np.vdot(self.dy, self.layer(array)))
        before = getattr(self.layer, name)
        setattr(self.layer, name, array)
        loss = float(np.vdot(self.dy, self.layer(self.x)))
        setattr(self.layer, name, before)
        return loss

    def quotients(self, name: str, step: float) -> Array:
        """D(step), by every entry."""
        start = self.x if name == "x" else getattr(self.layer, name)
        found = np.empty(start.shape)
        for index in np.ndindex(start.shape):
            up, down = start.copy(), start.copy()
            up[index] += step
            down[index] -= step
            found[index] = (self.loss_at(name, up) - self.loss_at(name, down)) / (up[index] - down[index])
        return found

    @property
    def rounding(self) -> float:
        """How far the loss may be off: 16 roundoffs of each y, and one of the sum for each of its terms."""
        terms = np.abs(self.dy) * (np.abs(self.layer(self.x)) + 2)
        return float((16 + self.dy.size) * ROUNDOFF * terms.sum())


@pytest.fixture(params=[pytest.param(row, id=name) for name, row in LAYERS.items()])
def trial(request: pytest.FixtureRequest) -> Trial:
    return Trial(*request.param)


def test_dx_is_the_slope_of_the_forward(trial: Trial) -> None:
    dx = trial.analytic("x")
    assert dx is not None
    fine, coarse = trial.quotients("x", STEP), trial.quotients("x", 2 * STEP)
    # a third of the difference is the curvature's part of `fine`, to first order: the whole is three times that
    bound = np.abs(coarse - fine) + 2 * trial.rounding / STEP
    assert (np.abs(dx - fine) <= bound).all(), np.abs(dx - fine).max()
    assert bound.max() < 1e-6 * np.abs(dx).max()


@pytest.mark.parametrize("name", ["gamma", "beta"])
def test_parameter_gradients_are_the_slopes_of_the_forward(trial: Trial, name: str) -> None:
    """y is linear in gamma and beta, so a step of any length will do, and only rounding is left."""
    gradient = trial.analytic(name)
    assert (gradient is None) == (getattr(trial.layer, name) is None)
    if gradient is None:
        return
    slopes = trial.quotients(name, 0.5)
    bound = 8 * trial.rounding
    assert (np.abs(gradient - slopes) <= bound).all(), np.abs(gradient - slopes).max()
    assert bound < 1e-11 * np.abs(gradient).max()


@pytest.mark.parametrize("factor", [1 + 1e-5, -1, 0.5])
def test_the_check_sees_a_wrong_gradient(factor: float) -> None:
    """A dx that is off by a hundred-thousandth of itself is outside the bound."""
    trial = Trial(*LAYERS["GroupNorm-3D"])
    right = trial.layer.backward
    trial.layer.backward = lambda dy: factor * right(dy)
    with pytest.raises(AssertionError):
        test_dx_is_the_slope_of_the_forward(trial)
