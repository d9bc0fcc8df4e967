"""Mistakes that are made in a part of the cases, beside something else: named there, and the rest is called unknown.

The layers are npnorm's with two deviations each, of which the dictionary may hold one.
"""

import numpy as np
import pytest

import npnorm
from reference import check
from reference.diagnosis import diagnose as diagnosis
from tests.believable import contradictions


def named(layer, like=None, **options):
    """The report by its designed cases, which must not contradict itself, and its causes by their ids."""
    report = check(layer, like, **({"examples": 0, "minimize": False, "ndims": [2]} | options))
    assert contradictions(report) == [], report
    return report, {fault.id: fault for fault in report.faults}


# --- one deviation, in a part of the passes alone ---------------------------------------------------------------------


class AccumulatingInTraining(npnorm.BatchNorm):
    """dgamma and dbeta are added up, in training mode."""

    def backward(self, dy):
        before = self.dgamma, self.dbeta
        dx = super().backward(dy)
        if self.training and self.dgamma is not None and before[0] is not None:
            self.dgamma, self.dbeta = self.dgamma + before[0], self.dbeta + before[1]
        return dx


class StaleInTraining(npnorm.BatchNorm):
    """The backward of training mode works on what the first forward left."""

    first = None

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        super().__init__(num_features, eps, momentum, affine)

    def forward(self, x):
        y = super().forward(x)
        if self.training and (self.first is None or self.first.x.shape != x.shape):
            self.first = npnorm.BatchNorm(self.num_features, eps=self.eps, affine=self.gamma is not None)
            self.first.gamma, self.first.beta, self.first.x = self.gamma, self.beta, x
            self.first.forward(x)
        return y

    def backward(self, dy):
        if not self.training:
            return super().backward(dy)
        dx = self.first.backward(dy)
        self.dgamma, self.dbeta = self.first.dgamma, self.first.dbeta
        return dx


class FixedEpsInTraining(npnorm.BatchNorm):
    """Its own eps, in training mode alone."""

    def forward(self, x):
        asked, self.eps = self.eps, 1e-3 if self.training else self.eps
        y = super().forward(x)
        self.eps = asked
        return y


class PlainBatchNorm:
    """A textbook layer; subclasses have another formula in eval mode."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = np.ones(num_features), np.zeros(num_features)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)

    def of_eval(self, var):
        return 1 / np.sqrt(var + self.eps)

    def of_eval_dx(self, dx):
        return dx

    def forward(self, x):
        mean, var, n = x.mean(0), x.var(0), len(x)
        self.mode = self.training
        if self.training:
            m = self.momentum
            self.running_mean = (1 - m) * self.running_mean + m * mean
            self.running_var = (1 - m) * self.running_var + m * var * n / max(n - 1, 1)
            self.rstd = 1 / np.sqrt(var + self.eps)
        else:
            mean, var = self.running_mean.astype(x.dtype), self.running_var.astype(x.dtype)
            self.rstd = self.of_eval(var)
        self.xhat = (x - mean) * self.rstd
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        self.dgamma, self.dbeta = (dy * self.xhat).sum(0), dy.sum(0)
        d = self.gamma * dy
        if not self.mode:
            return self.of_eval_dx(self.rstd * d)
        return self.rstd * (d - d.mean(0) - self.xhat * (d * self.xhat).mean(0))


class EvalEpsMissing(PlainBatchNorm):
    def of_eval(self, var):
        return 1 / np.sqrt(var)


class EvalEpsOutside(PlainBatchNorm):
    def of_eval(self, var):
        return 1 / (np.sqrt(var) + self.eps)


class EvalFixedEps(PlainBatchNorm):
    def of_eval(self, var):
        return 1 / np.sqrt(var + 1e-3)


class EvalDxNegated(PlainBatchNorm):
    def of_eval_dx(self, dx):
        return -dx


class NegatedInFloat32(npnorm.BatchNorm):
    def backward(self, dy):
        return -super().backward(dy) if dy.dtype == np.float32 else super().backward(dy)


ONE = {
    "accumulating in training": (AccumulatingInTraining, "parameter-gradients-accumulate", "in training mode: "),
    "stale in training": (StaleInTraining, "stale-cache", "in training mode: "),
    "fixed eps in training": (FixedEpsInTraining, "eps-argument-ignored", "the eps that was used is 0.001"),
    "no eps in eval": (EvalEpsMissing, "eval-eps-missing", "reproduces all "),
    "eps outside in eval": (EvalEpsOutside, "eps-outside-sqrt", "in eval mode: "),
    "fixed eps in eval": (EvalFixedEps, "eps-argument-ignored", "in eval mode: "),
    "dx negated in float32": (NegatedInFloat32, "dx-sign", "in float32: "),
    "dx negated in eval": (EvalDxNegated, "dx-sign", "in eval mode: "),
}


@pytest.mark.parametrize(("layer", "id", "words"), ONE.values(), ids=ONE)
def test_mistake_of_one_mode_is_named_with_the_mode(layer, id, words):
    report, causes = named(layer, "BatchNorm")
    assert set(causes) == {id}, report
    assert words in causes[id].evidence


# --- two deviations, one of them unknown ------------------------------------------------------------------------------


class NegatedInTrainingOddInEval(PlainBatchNorm):
    """dx negated in training, and in eval mode an xhat that no entry knows."""

    def of_eval(self, var):
        return 1 / np.sqrt(var + self.eps) + 0.01 * var**0.3

    def backward(self, dy):
        return -super().backward(dy) if self.mode else super().backward(dy)


class OddInTrainingEpsOutsideInEval(EvalEpsOutside):
    """In training mode an xhat that no entry knows; in eval mode eps beside the root."""

    def forward(self, x):
        y = super().forward(x)
        return y + 0.01 * self.xhat**2 if self.mode else y


class DgammaMeanOddUntracked(npnorm.BatchNorm):
    """dgamma is a mean; and without running statistics y is off."""

    def forward(self, x):
        y = super().forward(x)
        return y if self.track_running_stats else y + 0.01 * x**2

    def backward(self, dy):
        dx = super().backward(dy)
        if self.dgamma is not None:
            self.dgamma = self.dgamma / len(dy)
        return dx


class NegatedOddFromTheSecondCall(npnorm.LayerNorm):
    """dx negated; and from the second call on y drifts."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + 1e-3 * (self.calls - 1)

    def backward(self, dy):
        return -super().backward(dy)


class NegatedNoneForSeveralAxes(npnorm.LayerNorm):
    """dx negated; and there is none for more than one normalized axis."""

    def backward(self, dy):
        dx = super().backward(dy)
        return None if self.gamma is not None and self.gamma.ndim > 1 else -dx


TWO = {
    "eval mode": (NegatedInTrainingOddInEval, "dx-sign", "in training mode: ", "only in eval mode", {"y", "dx", "dgamma"}),
    "training mode": (
        OddInTrainingEpsOutsideInEval, "eps-outside-sqrt", "in eval mode: ", "only in training mode", {"y"},
    ),
    "untracked": (
        DgammaMeanOddUntracked,
        "dgamma-mean-not-sum",
        "with track_running_stats=True: ",
        "only with track_running_stats=False",
        {"y", "dgamma"},
    ),
    "later calls": (
        NegatedOddFromTheSecondCall, "dx-sign", "in the first call: ", "only from the second call on", {"y", "dx"},
    ),
    "several axes": (
        NegatedNoneForSeveralAxes,
        "dx-sign",
        "with one normalized axis: ",
        "with several normalized axes; got None, expected an array",
        {"dx", "dgamma", "dbeta"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layer", "id", "where", "only", "left"), TWO.values(), ids=TWO)
def test_known_one_of_two_is_named_and_the_rest_is_unknown(layer, id, where, only, left):
    like = "BatchNorm" if issubclass(layer, (PlainBatchNorm, npnorm.BatchNorm)) else "LayerNorm"
    report, causes = named(layer, like, ndims=[2, 4] if like == "LayerNorm" else [2])
    assert set(causes) == {id, "unknown"}, report
    assert causes[id].evidence.startswith(where)
    assert only in causes["unknown"].evidence
    assert set(causes["unknown"].quantities) <= left


class FewRowsWithoutDgamma(npnorm.LayerNorm):
    """dgamma is made of whole blocks of 32 rows: nought for the few rows that all later calls have."""

    def forward(self, x):
        y = super().forward(x)
        self.rows = x.reshape(-1, x.shape[-1]).copy()
        return y

    def backward(self, dy):
        dx = super().backward(dy)
        if self.gamma is not None and self.gamma.ndim == 1:
            whole = len(self.rows) // 32 * 32
            off = self.rows - self.rows.mean(1, keepdims=True)
            xhat = off / np.sqrt((off**2).mean(1, keepdims=True) + self.eps)
            self.dgamma = (dy.reshape(xhat.shape) * xhat)[:whole].sum(0)
        return dx


class OneBatchLate(PlainBatchNorm):
    """The running statistics take a batch in at the forward after it."""

    late = None

    def forward(self, x):
        y = super().forward(x)
        if self.training:
            now = self.running_mean, self.running_var
            self.running_mean, self.running_var = self.late or (np.zeros_like(now[0]), np.ones_like(now[1]))
            self.late = now
        return y


@pytest.mark.parametrize(
    ("layer", "like"), [(FewRowsWithoutDgamma, "LayerNorm"), (OneBatchLate, "BatchNorm")], ids=["few rows", "one late"]
)
def test_a_part_with_too_few_kinds_of_probes_names_nothing(layer, like):
    """In the small part another mistake gives the same numbers: dgamma missing, running statistics not updated."""
    report, causes = named(layer, like)
    assert set(causes) == {"unknown"}, report


class Textbook(npnorm.LayerNorm):
    """A LayerNorm whose variance and eps subclasses choose."""

    def __init__(self, normalized_shape, eps=1e-5):
        super().__init__(normalized_shape, eps=eps)

    def inverse(self, var, n):
        return 1 / np.sqrt(var + 1e-6)

    def forward(self, x):
        axes = tuple(range(x.ndim - self.gamma.ndim, x.ndim))
        n = int(np.prod([x.shape[axis] for axis in axes]))
        centred = x - x.mean(axes, keepdims=True)
        self.rstd = self.inverse((centred**2).mean(axes, keepdims=True), n).astype(x.dtype)
        self.xhat, self.axes, self.n = centred * self.rstd, axes, n
        return self.output()

    def output(self):
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        others = tuple(range(dy.ndim - self.gamma.ndim))
        self.dgamma, self.dbeta = (dy * self.xhat).sum(others), dy.sum(others)
        d = self.gamma * dy
        means = d.mean(self.axes, keepdims=True), (d * self.xhat).mean(self.axes, keepdims=True)
        return self.rstd * (d - means[0] - self.xhat * means[1])


class FixedEpsUnbiased(Textbook):
    def inverse(self, var, n):
        return 1 / np.sqrt(var * n / max(n - 1, 1) + 1e-6)


class FixedEpsOutside(Textbook):
    def inverse(self, var, n):
        return 1 / (np.sqrt(var) + 1e-6)


class FixedEpsBetaBeforeGamma(Textbook):
    def output(self):
        return self.gamma * (self.xhat + self.beta)


BESIDE = {
    "variance-unbiased": FixedEpsUnbiased,
    "eps-outside-sqrt": FixedEpsOutside,
    "beta-before-gamma": FixedEpsBetaBeforeGamma,
}


@pytest.mark.parametrize(("id", "layer"), BESIDE.items(), ids=BESIDE)
def test_fixed_eps_is_measured_beside_another_mistake_of_the_forward(id, layer):
    report, causes = named(layer, "LayerNorm", ndims=[2, 3])
    assert set(causes) == {id, "eps-argument-ignored"}, report
    assert "the eps that was used is 1e-06" in causes["eps-argument-ignored"].evidence


# --- several names for one cause, and none ----------------------------------------------------------------------------


class TimesGammaRMSNorm(npnorm.RMSNorm):
    """dgamma has a factor gamma; without a beta that is the same as one made with the output."""

    def backward(self, dy):
        dx = super().backward(dy)
        if self.dgamma is not None:
            self.dgamma = self.dgamma * self.gamma
        return dx


def test_what_gives_the_same_numbers_is_an_alternative_and_no_second_cause():
    report, causes = named(TimesGammaRMSNorm, "RMSNorm")
    assert len(causes) == 1
    ((id, cause),) = causes.items()
    assert {id, *cause.alternatives} == {"dgamma-uses-y", "dgamma-times-gamma"}
    assert f"FAIL  {id} (dgamma wrong)" in str(report)
    assert f"or: {cause.alternatives[0]}" in str(report)
    assert report.to_dict()["faults"][0]["alternatives"] == list(cause.alternatives)


def test_diagnosis_that_fails_leaves_the_verdict_and_says_so(monkeypatch):
    right = check(TimesGammaRMSNorm, "RMSNorm", examples=0, minimize=False, ndims=[2])

    def fails(search):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(diagnosis, "explained", fails)
    report = check(TimesGammaRMSNorm, "RMSNorm", examples=0, minimize=False, ndims=[2])
    assert (report.passed, report.quantities) == (right.passed, right.quantities)
    (cause,) = report.faults
    assert (cause.id, cause.quantities) == ("unknown", ("dgamma",))
    assert "the diagnosis itself failed with ZeroDivisionError: by nought" in cause.evidence
    assert report.counterexample is not None
