"""What is said of a mistake without a name: true conditions, no more, and nothing lifted from a probe that asks too much.

The layers follow public reports of mistakes that the dictionary may come to hold: what is tested is the description, from
the trials, of whatever is wrong.
"""

from dataclasses import replace

import numpy as np
import pytest

import npnorm
from reference.cases.case import Case, make
from reference.cases.scope import Scope
from reference.diagnosis.conditions import CONDITIONS, conditions
from reference.diagnosis.consistency import backward_is_derivative
from reference.diagnosis.unknown import described
from reference.kinds import KINDS
from reference.probing import probe
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess


def description(layer, like, ndims=(2, 4)):
    """All that is said of what is wrong in a layer's probes, whether there is a name for it or not."""
    trials = probe(InProcess(layer, KINDS[like], "it"), ndims).trials
    return described(trials, [], {(t.case, name) for t in trials for name in t.wrong})


# --- layers -----------------------------------------------------------------------------------------------------------


class PaddedLayerNorm(npnorm.LayerNorm):
    """The variance has a share of mean**2 for each lane of a buffer whose width is a power of two."""

    def forward(self, x):
        n = int(np.prod(self.normalized_shape))
        lanes = (1 << (n - 1).bit_length()) - n
        return super().forward(x) * (1 + 0.1 * lanes)


class TwoWorkersBatchNorm(npnorm.BatchNorm):
    """Two halves of the batch count alike, whatever their sizes."""

    def forward(self, x):
        y = super().forward(x)
        return y + 0.1 if self.training and len(x) % 2 and len(x) > 1 else y


class UntrackedEvalBatchNorm(npnorm.BatchNorm):
    """Without running statistics, eval mode normalizes with 0 and 1."""

    def forward(self, x):
        y = super().forward(x)
        return x + 0 * y if not self.track_running_stats and not self.training else y


class MeanSumUndividedBatchNorm(npnorm.BatchNorm):
    """The mean term of dx is a sum."""

    def backward(self, dy):
        dx = super().backward(dy)
        if not self.training:
            return dx
        axes, shape = (0, *range(2, dy.ndim)), (1, -1) + (1,) * (dy.ndim - 2)
        d = dy if self.gamma is None else dy * self.gamma.reshape(shape)
        rstd = 1 / np.sqrt(self.seen.var(axes, keepdims=True) + self.eps)
        return (dx - rstd * (d.sum(axes, keepdims=True) - d.mean(axes, keepdims=True))).astype(dx.dtype)

    def forward(self, x):
        self.seen = x.copy()
        return super().forward(x)


class NoughtLayerNorm(npnorm.LayerNorm):
    """dx is a sum over a row of the Jacobian, which is 0."""

    def backward(self, dy):
        return super().backward(dy) * 0


class ShortLayerNorm(npnorm.LayerNorm):
    """dgamma and dbeta of several axes are flat, and lack their first number."""

    def backward(self, dy):
        dx = super().backward(dy)
        for name in ("dgamma", "dbeta"):
            value = getattr(self, name)
            setattr(self, name, value if value is None or value.ndim < 2 else value.ravel()[1:])
        return dx


class OnePassLayerNorm(npnorm.LayerNorm):
    """The variance is mean(x**2) - mean**2, which at a large mean is rounding, and may be below 0."""

    def forward(self, x):
        axes = tuple(range(x.ndim - len(self.normalized_shape), x.ndim))
        mean = x.mean(axes, keepdims=True)
        var = (x * x).mean(axes, keepdims=True) - mean**2
        with np.errstate(invalid="ignore"):
            return super().forward(x) * np.sqrt((x.var(axes, keepdims=True) + self.eps) / (var + self.eps)).astype(
                x.dtype
            )


class TileLayerNorm(npnorm.LayerNorm):
    """dx has a sum over all rows of a tile, through which the NaN of one row reaches another."""

    def backward(self, dy):
        dx = super().backward(dy)
        return dx + dx.sum(0, keepdims=True) * (len(dx) > 1)


SAID = {  # the layer, its kind, the whole of what is said after the count
    "a power of two": (PaddedLayerNorm, "LayerNorm", "only where as many numbers share a mean as are no power of two"),
    "an odd batch": (
        TwoWorkersBatchNorm,
        "BatchNorm",
        "only in training mode and where the batch size is odd and at a batch of more than 1",
    ),
    "an option and a mode": (
        UntrackedEvalBatchNorm, "BatchNorm", "only with track_running_stats=False and in eval mode",
    ),
    "a coefficient that differs is left out": (
        MeanSumUndividedBatchNorm,
        "BatchNorm",
        "only in training mode; coefficients of dx's terms, each 1 when right: d 1, projection term 1 (unexplained 0.0%)",
    ),
    "nought": (NoughtLayerNorm, "LayerNorm", "dx is 0 throughout, to rounding"),
    "a shape": (ShortLayerNorm, "LayerNorm", "only with several normalized axes; got shape (13,), expected (2, 7)"),
    "no NaN of the NaN probe": (TileLayerNorm, "LayerNorm", "only at a batch of more than 1"),
}  # fmt: skip


@pytest.mark.parametrize(("layer", "like", "words"), SAID.values(), ids=SAID)
def test_said_of_an_unknown_mistake(layer, like, words):
    text = description(layer, like)
    count, _, rest = text.partition(" probes; ")
    assert count.startswith("wrong in ")
    assert rest == words, text


def test_what_some_cases_gave_is_not_said_of_all():
    text = description(OnePassLayerNorm, "LayerNorm")
    assert "only where the mean is not near zero; in " in text
    assert " of them got nan, expected " in text


# --- conditions -------------------------------------------------------------------------------------------------------


class Seen:
    """A trial as far as conditions look at it."""

    def __init__(self, case: Case) -> None:
        self.case = case


def said(fail: list[Case], passed: list[Case]) -> list[str]:
    return conditions([*map(Seen, fail), *map(Seen, passed)], lambda trial: trial.case in fail)


def test_condition_needs_a_probe_that_differs_in_it_alone():
    """What all failing cases have in common is no condition where no case without it was tried in their place."""
    fails = [make("LayerNorm", (4, 6), data="small")]
    other = make("LayerNorm", (4, 6), affine_values="unit", data="shifted")
    assert "where gamma is not the same everywhere" not in said(fails, [other])
    assert said(fails, [replace(fails[0], affine_values="unit")]) == ["where gamma is not the same everywhere"]


def test_one_size_that_fails_by_chance_is_no_condition():
    base = [make("LayerNorm", (size, 6), seed=size) for size in (1, 3, 5, 7, 9, 4, 6)]
    assert said(base[1:2], base[2:]) == []
    assert said(base[:5], base[5:]) == ["where the batch size is odd"]


def test_random_case_alone_has_no_condition():
    trials = probe(InProcess(ShortLayerNorm, KINDS["LayerNorm"], "it"), (3,)).trials
    failing = next(trial for trial in trials if trial.failed)
    right = [trial for trial in trials if not trial.failed]
    text = described(right, [failing], {(failing.case, name) for name in failing.wrong})
    assert text.startswith(f"wrong in none of the {len(right)} probes, but in a random case: {failing.case}")
    assert "only" not in text


def test_conditions_say_each_thing_once():
    assert len({condition.words for condition in CONDITIONS}) == len(CONDITIONS)


# --- which half is wrong ----------------------------------------------------------------------------------------------


class NoGradientsLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        self.dgamma = None
        return -dx if dy.shape[0] == 131 else dx


class WrongInOneShapeLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        return super().backward(dy) * (1 + (dy.shape[0] == 131))


@pytest.mark.parametrize(
    ("layer", "answer"),
    [
        pytest.param(npnorm.LayerNorm, True, id="right"),
        pytest.param(NoGradientsLayerNorm, None, id="a gradient that is not there"),
        pytest.param(WrongInOneShapeLayerNorm, None, id="wrong elsewhere"),
    ],
)
def test_backward_is_called_the_derivative_only_where_that_is_known(layer, answer):
    subject = InProcess(layer, KINDS["LayerNorm"], "it")
    probed = probe(subject, (2,))
    assert backward_is_derivative(subject, probed.discovery.scope, Clock(60), probed.trials) is answer


def test_without_the_verdict_nothing_is_said_of_the_halves():
    subject = InProcess(npnorm.LayerNorm, KINDS["LayerNorm"], "it")
    assert backward_is_derivative(subject, Scope.full(KINDS["LayerNorm"]), Clock(60), []) is None
