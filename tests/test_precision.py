"""Digits that are lost, told from wrong formulas: by layers that lose them, and by layers that are wrong in similar ways."""

import re

import numpy as np
import pytest

import npnorm
from reference import check
from reference.diagnosis.precision import one_pass_variance
from reference.kinds import KINDS
from reference.probing import probe
from reference.subjects.in_process import InProcess
from tests.planted import BY_FAULT
from tests.planted.wrong.bases import RowsLayerNorm
from tests.planted.wrong.batch_norm.over_rows import MomentsBatchNorm
from tests.planted.wrong.layer_norm.over_rows import MomentsLayerNorm

ONE_PASS = [row for row in BY_FAULT["one-pass-variance"] if row.expected == {"one-pass-variance"}]


def _trials(layer, like):
    return probe(InProcess(layer, KINDS[like], "it"), [2]).trials


@pytest.mark.parametrize("row", ONE_PASS, ids=lambda row: row.layer.__name__)
def test_one_pass_variance_is_told_by_how_its_error_grows(row):
    trials = probe(InProcess(row.layer, KINDS[row.kind], "it")).trials
    found = one_pass_variance(trials)
    assert found is not None
    assert re.match(r"y is wrong only where \|mean\| is 1\.\de\+02 to \d\.\de\+06 deviations", found)


class MeanRounded(RowsLayerNorm):
    def statistics(self, r):
        mean, var = super().statistics(r)
        return mean.astype(np.float32).astype(r.dtype), var  # a whole row is off, by the same number


class VarianceOffByMean(RowsLayerNorm):
    def statistics(self, r):
        mean, var = super().statistics(r)
        # as a one-pass variance in fewer digits would be, and by more than in these
        return mean, var + np.where(np.abs(mean) > 50, 1e-9 * mean**2, 0)


class VarianceOffByLess(RowsLayerNorm):
    def statistics(self, r):
        mean, var = super().statistics(r)
        return mean, np.where(
            np.abs(np.abs(mean) - 1e6) < 1e4, (1 + 3e-7) * var, var
        )  # a one-pass variance has no such digits left


class VarianceOffAtOffsets(RowsLayerNorm):
    def statistics(self, r):
        mean, var = super().statistics(r)
        return mean, np.where(np.abs(mean) > 50, 1.5 * var, var)  # does not grow with the mean


class AlsoWrongNearby(MomentsLayerNorm):
    def factor(self, v):
        return 1 / (v + self.eps)


class ElementsOffToo(MomentsLayerNorm):
    def forward(self, x):
        noise = np.cos(np.arange(x.size)).reshape(x.shape)
        # grows as a one-pass variance's error does, but a row of it is not the right row
        return super().forward(x) + np.where((x > 50).all(-1, keepdims=True), 2e-16 * x**2 * noise, 0)


class NotANumber(MomentsLayerNorm):
    def statistics(self, r):
        mean, var = super().statistics(r)
        return mean, np.where((np.abs(mean) > 50) & (np.abs(mean) < 500), np.nan, var)  # where digits are left


WRONG_OTHERWISE = {
    "another mean": MeanRounded,
    "more than roundoff": VarianceOffByMean,
    "less than roundoff": VarianceOffByLess,
    "the same at every large mean": VarianceOffAtOffsets,
    "wrong at small means too": AlsoWrongNearby,
    "element by element": ElementsOffToo,
    "not a number without need": NotANumber,
}


@pytest.mark.parametrize("layer", WRONG_OTHERWISE.values(), ids=WRONG_OTHERWISE)
def test_nothing_else_is_taken_for_a_one_pass_variance(layer):
    trials = _trials(layer, "LayerNorm")
    assert any("y" in trial.wrong and "offset" in trial.case.data for trial in trials)
    assert one_pass_variance(trials) is None


@pytest.mark.parametrize("like", ["LayerNorm", "RMSNorm", "BatchNorm"])
def test_right_layer_has_none(like):
    assert one_pass_variance(_trials(getattr(npnorm, like), like)) is None


def test_mistake_of_eval_mode_does_not_hide_it():
    """There the statistics are given, and none of them is the batch's own variance."""

    class EvalWithoutEps(MomentsBatchNorm):
        def factor(self, v):
            return 1 / np.sqrt(v) if self.fixed else super().factor(v)

    trials = _trials(EvalWithoutEps, "BatchNorm")
    assert any("y" in trial.wrong and not trial.case.training for trial in trials)
    assert one_pass_variance(trials) == one_pass_variance(_trials(MomentsBatchNorm, "BatchNorm")) is not None


def test_layer_held_to_a_convention():
    """A variance that is off is looked for beside the convention, not instead of it."""

    class PlusOne(MomentsLayerNorm):
        def weight(self, gamma):
            return 1 + gamma

    trials = probe(InProcess(PlusOne, KINDS["LayerNorm"], "it"), [2], ["gamma-plus-one"]).trials
    changes = {"gamma": (lambda p, gamma: gamma + 1 if p.case.has_gamma else gamma,)}
    assert one_pass_variance(trials) is None
    assert one_pass_variance(trials, changes) is not None


# --- float32's precision in float64 -----------------------------------------------------------------------------------


class InFloat32RMSNorm:
    """As Keras' layer does: float32 inside, whatever x is, and a constant of its own where eps is None."""

    for_none = 1e-7

    def __init__(self, normalized_shape, eps=None):
        self.gamma = np.ones(normalized_shape)
        self.axes = tuple(range(-self.gamma.ndim, 0))
        self.eps = np.float32(self.for_none if eps is None else eps)

    def forward(self, x):
        self.dtype, self.g = x.dtype, self.gamma.astype(np.float32)
        with np.errstate(all="ignore"):  # what float32 does not hold is infinite
            wide = x.astype(np.float32)
            self.rstd = 1 / np.sqrt((wide * wide).mean(self.axes, keepdims=True) + self.eps)
            self.xhat = wide * self.rstd
        return (self.g * self.xhat).astype(x.dtype)

    def backward(self, dy):
        d = dy.astype(np.float32)
        self.dgamma = (d * self.xhat).sum(tuple(range(d.ndim - self.gamma.ndim))).astype(self.dtype)
        d = d * self.g
        return (self.rstd * (d - self.xhat * (d * self.xhat).mean(self.axes, keepdims=True))).astype(self.dtype)


class TwoForNoneRMSNorm(InFloat32RMSNorm):
    """Of two constants neither is the one that was used."""

    def __init__(self, normalized_shape, eps=None):
        super().__init__(normalized_shape, eps)
        if eps is None and self.gamma.ndim > 1:
            self.eps = np.float32(1e-4)

    def forward(self, x):
        if x.ndim == 2 and self.eps == np.float32(1e-7):
            self.eps = np.float32(1e-3)
        return super().forward(x)


class EpsInFloat32LayerNorm(RowsLayerNorm):
    """As Paddle's layers do: all in x's dtype, but eps is a float of C."""

    def __init__(self, normalized_shape, eps=1e-5):
        super().__init__(normalized_shape, float(np.float32(eps)))


def test_another_eps_for_none_does_not_hide_lost_precision():
    """It is wrong in float32 too, where eps is None, and NaN where float32 ends."""
    report = check(InFloat32RMSNorm, examples=0)
    assert {fault.id for fault in report.faults} == {"dtype-demoted", "eps-default-for-none"}
    assert "as an eps of 1e-07 gives" in next(f.evidence for f in report.faults if f.id == "eps-default-for-none")
    report = check(InFloat32RMSNorm, examples=0, dtypes=("float32",))
    assert [fault.id for fault in report.faults] == ["eps-default-for-none"]


def test_an_eps_for_none_that_is_not_one_constant_is_not_named():
    report = check(TwoForNoneRMSNorm, examples=0, dtypes=("float32",))
    assert [fault.id for fault in report.faults] == ["unknown"]


def test_a_rounded_eps_is_said_of_lost_precision():
    (fault,) = check(EpsInFloat32LayerNorm, examples=0, dtypes=("float64",)).faults
    assert fault.id == "dtype-demoted"
    assert fault.evidence.endswith("; in y, dx, dgamma as eps rounded to float32 gives")
    (fault,) = check(InFloat32RMSNorm, examples=0, dtypes=("float64",), ndims=(2,)).faults
    assert "as eps rounded" not in fault.evidence
