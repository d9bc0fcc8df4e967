"""`check`: right layers pass, one seed gives one report, a failing case is small and real, conventions can be accepted.

What a layer may do besides wrong numbers is test_guard's, what it may lack test_coverage's, and the names of mistakes
are test_diagnosis's.
"""

import json
from math import prod

import numpy as np
import pytest

import npnorm
from reference import Refused, check, run
from reference.cases.probes import probes
from reference.diagnosis.conventions import accepted_convention
from reference.kinds import KINDS
from reference.run import LARGE
from reference.subjects.guard import Clock
from reference.subjects.reading import kind_of
from reference.subjects.subject import Subject
from reference.truth import torch_layers
from reference.truth.convention import TORCH
from reference.truth.verdict import judge

MOST = 16.0  # units: what npnorm's layers are held to, at any mean


def quick(layer, like=None, **options):
    """The check with its designed cases alone."""
    return check(layer, like, **({"examples": 0, "minimize": False} | options))


# --- right layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("like", KINDS)
def test_npnorm_passes_within_16_units(like):
    report = check(getattr(npnorm, like), examples=60)
    assert report.passed, report
    assert (report.faults, report.counterexample, report.not_covered) == ([], None, {})
    assert report.backward_is_derivative_of_forward is True
    gradients = ("y", "dx", "dgamma") + (("dbeta",) if like != "RMSNorm" else ())
    assert report.quantities.keys() == {*gradients, *(("running_mean", "running_var") if like == "BatchNorm" else ())}
    assert {
        name: report.quantities[name].largest_error
        for name in gradients
        if report.quantities[name].largest_error > MOST
    } == {}
    assert all(figures.worst_error > 0 for figures in report.quantities.values()), (
        "an error of nothing was not measured"
    )
    assert all(figures.tolerance < 1000 for figures in report.quantities.values()), (
        "a row shows the case that takes the most of its tolerance, not one in which anything would pass"
    )


@pytest.mark.parametrize("like", KINDS)
def test_torchs_own_layers_pass(like):
    report = check(torch_layers.LAYERS[like], examples=5, dtypes=["float64", "float32"])
    assert report.passed, report
    assert report.not_covered == {"float16": "not asked for", "bfloat16": "not asked for"}
    assert all(figures.worst_error <= figures.tolerance for figures in report.quantities.values())


def test_random_cases_are_counted_beside_the_designed_ones():
    alone = quick(npnorm.LayerNorm)
    assert check(npnorm.LayerNorm, examples=15).cases == alone.cases + 15
    assert alone.cases == alone.quantities["y"].cases > 100
    assert alone.quantities["dgamma"].cases < alone.cases, "cases without a gamma have no dgamma"


# --- wrong layers that the tests below share --------------------------------------------------------------------------


class WideGroupNorm(npnorm.GroupNorm):
    """Wrong in dx where there is more than one channel a group."""

    def backward(self, dy):
        dx = super().backward(dy)
        return dx * (1 + 1e-9) if self.num_channels > self.num_groups else dx


class NineFeaturesLayerNorm(npnorm.LayerNorm):
    """Wrong for 2D inputs of nine features, which no designed case has."""

    def forward(self, x):
        return super().forward(x) + (1e-3 if x.shape[1:] == (9,) else 0)


def test_random_cases_find_what_no_designed_case_has():
    assert quick(NineFeaturesLayerNorm).passed
    report = check(NineFeaturesLayerNorm, examples=1000)
    assert not report.passed
    assert report.counterexample.case.shape == (1, 9)
    assert report.quantities["y"].failed == 1, "the cases in which it is made smaller are not counted"


def test_random_cases_are_many_and_each_one_that_fails_is_found(monkeypatch):
    """Others with each seed, again the same with the same seed, no two alike; the last of them as well as the first."""
    judged = []
    monkeypatch.setattr(
        run, "judge", lambda subject, case, *rest: [judged.append(case), judge(subject, case, *rest)][1]
    )
    designed = quick(npnorm.LayerNorm, ndims=[2]).cases

    def drawn(layer, seed=0):
        judged.clear()
        report = check(layer, examples=20, ndims=[2], seed=seed)
        return report, judged[designed:]

    report, one = drawn(npnorm.LayerNorm)
    assert report.cases == designed + 20
    assert len(set(one)) == 20
    assert drawn(npnorm.LayerNorm)[1] == one
    assert not set(drawn(npnorm.LayerNorm, seed=1)[1]) & set(one)
    before = {case.shape for case in (*probes(KINDS["LayerNorm"]), *one[:10])}
    late = next(case for case in one[10:] if case.shape not in before)

    class LateLayerNorm(npnorm.LayerNorm):
        def forward(self, x):
            return super().forward(x) + (1e-3 if x.shape == late.shape else 0)

    report, then = drawn(LateLayerNorm)
    assert not report.passed
    assert then[: one.index(late) + 1] == one[: one.index(late) + 1]
    assert f"x {late.shape} float64, unit data, seed 0" in str(report.counterexample.case), (
        "smaller in all but the shape"
    )


# --- the same again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [npnorm.LayerNorm, WideGroupNorm], ids=["right", "wrong"])
def test_same_seed_same_report(layer):
    first = check(layer, examples=40, seed=3, ndims=[2])
    np.random.seed(8)  # noqa: NPY002 - the global state must not matter
    second = check(layer, examples=40, seed=3, ndims=[2])
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())
    assert str(first) == str(second)


def test_seed_chooses_the_random_cases():
    seen = {}
    for seed in (0, 1):
        shapes = seen[seed] = []

        class Recording(npnorm.RMSNorm):
            def forward(self, x, shapes=shapes):
                shapes.append(x.shape)
                return super().forward(x)

        report = check(Recording, "RMSNorm", seed=seed, examples=10, ndims=[2])
        assert report.seed == seed
    assert seen[0] != seen[1]


def test_progress_counts_up_to_the_total():
    calls = []
    report = check(npnorm.InstanceNorm, examples=5, ndims=[3], progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == list(range(1, report.cases + 1))
    assert {total for _, total in calls} == {report.cases}


# --- arguments that are refused ---------------------------------------------------------------------------------------

NAMELESS = type("Norm", (npnorm.LayerNorm,), {})

REFUSED = {  # the layer and what it is like, the options, the error and its text
    "a layer that cannot be called": (
        (3, "LayerNorm"),
        {},
        TypeError,
        r"layer to be a class or a factory but got 3 \(type int\)",
    ),
    "a like that is none": (
        (npnorm.LayerNorm, "ln"),
        {},
        ValueError,
        r"like to be one of \('GroupNorm', .* but got 'ln'",
    ),
    "examples below 0": ((npnorm.LayerNorm,), {"examples": -1}, ValueError, "examples to be at least 0 but got -1"),
    "a timeout of 0": ((npnorm.LayerNorm,), {"timeout": 0}, ValueError, "timeout to be more than 0 seconds but got 0"),
    "accepting a number": (
        (npnorm.LayerNorm,),
        {"accept": 3},
        TypeError,
        "accept to be the id of a convention, or several, but got 3",
    ),
    "accepting bytes": (
        (npnorm.LayerNorm,),
        {"accept": [b"eps-default"]},
        TypeError,
        "or several, but got b'eps-default'",
    ),
    "accepting a string of no id": ((npnorm.LayerNorm,), {"accept": "a-b"}, ValueError, "a convention but got 'a-b'"),
    "accepting no id": (
        (npnorm.LayerNorm,),
        {"accept": ["eps"]},
        ValueError,
        "the id of a convention but got 'eps': one of eps-argument-ignored, eps-default, eps-default-for-none, eps-outside-sqrt",
    ),
    "accepting a mistake": (
        (npnorm.LayerNorm,),
        {"accept": ["dx-sign"]},
        ValueError,
        "the id of a convention but got 'dx-sign'",
    ),
    "a rank that torch's layer has not": (
        (npnorm.InstanceNorm,),
        {"ndims": [2, 3]},
        ValueError,
        r"ndims to be some of \(3, 4, 5\) for InstanceNorm but got \[2\]",
    ),
    "no rank at all": (
        (npnorm.LayerNorm,),
        {"ndims": []},
        Refused,
        "has nothing to try: no rank and dtype that LayerNorm has was asked for",
    ),
    "a name that tells nothing": ((NAMELESS,), {}, Refused, "the name to tell which layer it is but got 'Norm'"),
}


@pytest.mark.parametrize(("arguments", "options", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_refuses(arguments, options, error, text):
    with pytest.raises(error, match=text):
        check(*arguments, **options)


NAMES = {
    "MyGroupNorm": "GroupNorm", "group_norm": "GroupNorm", "Layernorm": "LayerNorm", "RMS_Norm": "RMSNorm",
    "BatchNorm2d": "BatchNorm", "BatchNormalization": "BatchNorm", "instance_norm_3d": "InstanceNorm",
    "rms_forward": "RMSNorm", "T5RMSLayerNorm": "RMSNorm", "BN": "BatchNorm", "my_ln_2": "LayerNorm", "GN2d": "GroupNorm",
}  # fmt: skip


@pytest.mark.parametrize(("name", "like"), NAMES.items(), ids=NAMES)
def test_name_tells_which_layer_it_is(name, like):
    assert kind_of(name).name == like


@pytest.mark.parametrize("name", ["Norm", "", "LayerNormOrRMSNorm", "forms", "KindOfBnOrGn", "plnorm"])
def test_name_that_tells_none_or_two(name):
    with pytest.raises(Refused, match=r"with like \(--like\), one of"):
        kind_of(name)


# --- the failing case -------------------------------------------------------------------------------------------------


def test_counterexample_is_small_and_fails():
    report = check(WideGroupNorm, examples=60)
    case = report.counterexample.case
    assert prod(case.shape) <= 4
    assert case.options["num_channels"] > case.options["num_groups"]
    assert (case.calls, case.layout, case.dy_layout, case.overwrite) == (1, "C", "C", "")
    assert judge(Subject(WideGroupNorm, KINDS["GroupNorm"], "it"), case, TORCH).wrong == ("dx",)
    (comparison,) = report.counterexample.comparisons
    assert comparison.quantity == "dx"
    assert comparison.error > comparison.tolerance


def test_random_cases_only_make_the_failing_one_smaller():
    designed = quick(WideGroupNorm, ndims=[3])
    assert prod(check(WideGroupNorm, examples=60, ndims=[3]).counterexample.case.shape) < prod(
        designed.counterexample.case.shape
    )
    large = [case for case in probes(KINDS["GroupNorm"], (3,)) if prod(case.shape) >= LARGE]
    assert large, "which are for layers with which all else agrees"
    assert designed.cases + len(large) == quick(npnorm.GroupNorm, ndims=[3]).cases


def test_worst_entries_are_those_of_the_arrays():
    class OneEntryLayerNorm(npnorm.LayerNorm):
        def backward(self, dy):
            dx = super().backward(dy)
            if dx.size:
                dx.flat[1:3] += (1e-3, -1e-2)
            return dx

    example = quick(OneEntryLayerNorm, ndims=[2]).counterexample
    x, dy = example.case.arrays()
    gamma, beta = example.case.parameters()
    layer = torch_layers.LAYERS["LayerNorm"](**example.case.options)
    layer.gamma, layer.beta = gamma, beta
    layer.forward(x)
    expected = layer.backward(dy)
    first, second = example.entries[:2]
    assert (first.quantity, second.quantity) == ("dx", "dx")
    assert first.error > second.error
    off = {np.unravel_index(1, x.shape): 1e-3, np.unravel_index(2, x.shape): -1e-2}
    for entry in (first, second):
        assert entry.expected == pytest.approx(expected[entry.index], rel=1e-9, abs=1e-12)
        assert entry.got - entry.expected == pytest.approx(off[entry.index], rel=1e-9)


def test_figures_are_of_the_worst_case():
    report = quick(WideGroupNorm)
    dx, y = report.quantities["dx"], report.quantities["y"]
    assert not dx.passed
    assert 0 < dx.failed < dx.cases == report.cases
    assert dx.worst_error > dx.tolerance
    assert (y.passed, y.failed) == (True, 0)
    assert y.worst_error <= y.largest_error, "which is not the worst where the tolerance is as much larger"
    assert y.torch_error < y.tolerance, "torch's own error stands beside, in that same case"
    assert y.largest_torch_error > 1000, "but that is large at a large mean"


# --- which half is wrong ----------------------------------------------------------------------------------------------


class UnbiasedLayerNorm:
    """n - 1 in the forward, and the backward that is its derivative."""

    def __init__(self, normalized_shape, eps=1e-5):
        self.eps, self.gamma, self.beta = eps, np.ones(normalized_shape), np.zeros(normalized_shape)

    def forward(self, x):
        self.n = max(x.shape[-1] - 1, 1)
        self.c = x - x.mean(-1, keepdims=True)
        self.r = 1 / np.sqrt((self.c**2).sum(-1, keepdims=True) / self.n + x.dtype.type(self.eps))
        return self.gamma * self.c * self.r + self.beta

    def backward(self, dy):
        leading = tuple(range(dy.ndim - 1))
        self.dgamma, self.dbeta = (dy * self.c * self.r).sum(leading), dy.sum(leading)
        d = self.gamma * dy
        dx = self.r * (d - self.c * self.r**2 * (d * self.c).sum(-1, keepdims=True) / self.n)
        return dx - dx.mean(-1, keepdims=True)


class HalfDxLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        return super().backward(dy) / 2


class HalfDgammaLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.dgamma is not None:
            self.dgamma /= 2
        return dx


def single_precision_layer_norm(normalized_shape):
    """Takes float32 alone, in which nothing can be differenced."""
    layer = HalfDxLayerNorm(normalized_shape)
    forward = layer.forward

    def narrow(x):
        if x.dtype != np.float32:
            raise TypeError(f"Expected float32 but got {x.dtype}")
        return forward(x)

    layer.forward = narrow
    return layer


@pytest.mark.parametrize(
    ("layer", "answer"),
    [
        pytest.param(UnbiasedLayerNorm, True, id="wrong-forward-with-its-derivative"),
        pytest.param(HalfDxLayerNorm, False, id="wrong-dx"),
        pytest.param(HalfDgammaLayerNorm, False, id="wrong-dgamma"),
        pytest.param(single_precision_layer_norm, None, id="float32-only"),
    ],
)
def test_backward_is_derivative_of_forward(layer, answer):
    report = quick(layer, ndims=[2])
    assert not report.passed
    assert report.backward_is_derivative_of_forward is answer


# --- eval mode --------------------------------------------------------------------------------------------------------


def test_mistake_of_eval_mode_alone():
    class EvalBatchNorm(npnorm.BatchNorm):
        def backward(self, dy):
            dx = super().backward(dy)
            return dx if self.training else 2 * dx

    report = quick(EvalBatchNorm, ndims=[2])
    assert {name for name, figures in report.quantities.items() if not figures.passed} == {"dx"}
    assert report.counterexample.case.training is False
    assert "in eval mode" in report.faults[0].evidence
    assert report.backward_is_derivative_of_forward is False


# --- conventions ------------------------------------------------------------------------------------------------------


class PlainBatchNorm:
    """A textbook layer, right but for the conventions that its subclasses follow."""

    fixed_eps = None
    biased = inverted = outside = False

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        self.eps = eps if self.fixed_eps is None else self.fixed_eps
        self.gamma, self.beta = np.ones(num_features), np.zeros(num_features)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.momentum, self.training, self.batches = momentum, True, 0

    def forward(self, x):
        self.axes, self.shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
        n, eps = x.size // x.shape[1], x.dtype.type(self.eps)
        if self.training:
            mean, var = x.mean(self.axes, keepdims=True), x.var(self.axes, keepdims=True)
            self.batches += 1
            new = 1 / self.batches if self.momentum is None else 1 - self.momentum if self.inverted else self.momentum
            stored = var.ravel() * (1 if self.biased else n / (n - 1))
            self.running_mean = (1 - new) * self.running_mean + new * mean.ravel()
            self.running_var = (1 - new) * self.running_var + new * stored
        else:
            mean, var = (v.reshape(self.shape).astype(x.dtype) for v in (self.running_mean, self.running_var))
        self.live, self.std = self.training, np.sqrt(var)
        self.s = self.std + eps if self.outside else np.sqrt(var + eps)
        self.xhat = (x - mean) / self.s
        return self.gamma.reshape(self.shape) * self.xhat + self.beta.reshape(self.shape)

    def backward(self, dy):
        self.dgamma, self.dbeta = (dy * self.xhat).sum(self.axes), dy.sum(self.axes)
        d = self.gamma.reshape(self.shape) * dy
        if self.live:
            with np.errstate(all="ignore"):
                slope = self.s / self.std if self.outside else 1
                projection = self.xhat * slope * (d * self.xhat).mean(self.axes, keepdims=True)
            d = d - d.mean(self.axes, keepdims=True) - projection
        return d / self.s


class BiasedBatchNorm(PlainBatchNorm):
    biased = True


class InvertedBatchNorm(PlainBatchNorm):
    inverted = True


class OutsideBatchNorm(PlainBatchNorm):
    outside = True


class IgnoringBatchNorm(PlainBatchNorm):
    fixed_eps = 2e-5


class AllBatchNorm(PlainBatchNorm):
    biased, inverted, fixed_eps = True, True, 2e-5


CONVENTIONS = {
    "running-var-biased": (BiasedBatchNorm, {"running_var"}),
    "momentum-inverted": (InvertedBatchNorm, {"running_mean", "running_var"}),
    "eps-outside-sqrt": (OutsideBatchNorm, {"y"}),
    "eps-argument-ignored": (IgnoringBatchNorm, {"y"}),
}


def test_textbook_layer_without_a_convention_passes():
    assert check(PlainBatchNorm, examples=30).passed


@pytest.mark.parametrize(("id", "layer", "spoils"), [(id, *row) for id, row in CONVENTIONS.items()], ids=CONVENTIONS)
def test_convention_is_named_and_can_be_accepted(id, layer, spoils):
    strict = quick(layer, ndims=[2])
    assert [(fault.id, fault.kind) for fault in strict.faults] == [(id, "convention")]
    assert spoils <= {name for name, figures in strict.quantities.items() if not figures.passed}
    accepted = check(layer, accept=[id], examples=5, ndims=[2])
    assert accepted.passed, accepted
    assert accepted.accepted == (id,)
    assert accepted.quantities.keys() == strict.quantities.keys()


def test_several_conventions_can_be_accepted():
    ids = ["running-var-biased", "momentum-inverted", "eps-argument-ignored"]
    assert {fault.id for fault in quick(AllBatchNorm, ndims=[2]).faults} == set(ids)
    assert check(AllBatchNorm, accept=ids, examples=5, ndims=[2]).passed
    fewer = quick(AllBatchNorm, accept=ids[1:], ndims=[2])
    assert [fault.id for fault in fewer.faults] == ["running-var-biased"]


@pytest.mark.parametrize(("id", "layer"), [(id, row[0]) for id, row in CONVENTIONS.items()], ids=CONVENTIONS)
def test_mistake_beside_an_accepted_convention_is_caught(id, layer):
    class MistakenBatchNorm(layer):
        def backward(self, dy):
            dx = super().backward(dy)
            self.dbeta = -self.dbeta
            return dx

    report = quick(MistakenBatchNorm, accept=[id], ndims=[2])
    assert {name for name, figures in report.quantities.items() if not figures.passed} == {"dbeta"}
    assert all(fault.kind == "mistake" for fault in report.faults)


@pytest.mark.parametrize("id", [id for id in CONVENTIONS if id != "eps-argument-ignored"])
def test_right_layer_does_not_follow_an_accepted_convention(id):
    """What is accepted is what the layer is held to: torch's own choice is then the difference."""
    subject = Subject(npnorm.BatchNorm, KINDS["BatchNorm"], "it")
    convention = accepted_convention(subject, [id], [], Clock(60))
    wrong = {name for case in probes(KINDS["BatchNorm"], (2,)) for name in judge(subject, case, convention).wrong}
    assert CONVENTIONS[id][1] <= wrong


def test_accepted_convention_of_another_layer_does_not_matter():
    assert quick(npnorm.LayerNorm, accept=["running-var-biased", "momentum-inverted"], ndims=[2]).passed


def test_report_of_an_rms_norm_shows_the_formulas_of_rms_norm():
    """LayerNorm's dx as the right one would make the next mistake of it."""

    class SignRMSNorm(npnorm.RMSNorm):
        def backward(self, dy):
            return -super().backward(dy)

    (fault,) = quick(SignRMSNorm, ndims=[2]).faults
    assert (fault.id, fault.wrong) == ("dx-sign", "dx = -rstd * (d - xhat * mean(d * xhat))")
    assert fault.right == "dx = rstd * (d - xhat * mean(d * xhat)), d = gamma * dy"
