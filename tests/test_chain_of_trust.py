"""Who proves whom: the definition at 140 digits proves `reference.exact`, and `exact` judges torch and npnorm.

The definition is written below for single numbers, as the papers and torch's documentation state it: which numbers
share a mean is said by a key, not by reshaping, and a gradient is the difference quotient of the definition. It shares
no formula, and no array, with anything that it proves.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

import npnorm
from reference.cases.case import Case, make
from reference.cases.scope import Scope
from reference.cases.strategies import cases
from reference.dtypes import roundoff
from reference.kinds import KINDS
from reference.truth import arithmetic as wide_arithmetic
from reference.truth import exact, torch_layers
from reference.truth.compare import compare

DIGITS = 140  # an x of 1e60 and the step beside it take 82 of them
STEP = mpf(10) ** -22  # of the difference quotients; at a mean of 1e6 deviations 40 digits of a derivative are right


# --- the definition ---------------------------------------------------------------------------------------------------


def sharing_key(case: Case, index: tuple[int, ...]) -> tuple[int, ...]:
    """The same for all entries of x that share a mean and a variance, and for no other entry."""
    match case.kind.name:
        case "GroupNorm":
            return (index[0], index[1] // (case.options["num_channels"] // case.options["num_groups"]))
        case "InstanceNorm":
            return index[:2]
        case "BatchNorm":
            return index[1:2]
    return index[: len(index) - len(case.parameter_shape)]  # LayerNorm and RMSNorm: one mean a row


def parameter_key(case: Case, index: tuple[int, ...]) -> tuple[int, ...]:
    """Which gamma and beta belong to an entry of x."""
    if case.kind.name in ("LayerNorm", "RMSNorm"):
        return index[len(index) - len(case.parameter_shape) :]
    return index[1:2]


def numbers(array: np.ndarray) -> dict[tuple[int, ...], mpf]:
    """An array's entries by index, each in full."""
    return {index: mpf(float(array[index])) for index in np.ndindex(array.shape)}


def eps_of(case: Case) -> mpf:
    eps = case.options.get("eps", None if case.kind.name == "RMSNorm" else 1e-5)
    return mpf(2) ** {"float64": -52, "float32": -23}[case.dtype] if eps is None else mpf(eps)


def spread(keys: Iterable, most: int | None) -> list:
    """At most `most` of the keys, the first, the last and some between."""
    keys = list(keys)
    if most is None or len(keys) <= most:
        return keys
    return [keys[round(i * (len(keys) - 1) / (most - 1))] for i in range(most)]


class Definition:
    """All calls of one case, entry by entry."""

    def __init__(self, case: Case) -> None:
        self.case = case
        ones = dict.fromkeys(np.ndindex(case.parameter_shape), mpf(1))
        zeros = dict.fromkeys(np.ndindex(case.parameter_shape), mpf(0))
        gamma, beta = case.parameters()
        self.gamma = ones if gamma is None else numbers(gamma)
        self.beta = zeros if beta is None else numbers(beta)
        tracks = case.kind.name == "BatchNorm" and case.options.get("track_running_stats", True)
        self.running = {key: (mpf(0), mpf(1)) for key in np.ndindex(case.parameter_shape)} if tracks else None
        for call in range(case.calls):
            x, dy = case.arrays(call)
            self.given_statistics = None
            if self.running is not None and not case.training_in(call):
                self.given_statistics = dict(self.running)
            elif self.running is not None:
                self.follow(numbers(x), sum(case.training_in(earlier) for earlier in range(call)))
        self.x, self.dy = numbers(x), numbers(dy)

    def statistics(self, x: dict) -> dict:
        """The mean and the biased variance of each key, or those that are given."""
        if self.given_statistics is not None:
            return self.given_statistics
        found = {}
        for key, values in self.shared(x).items():
            mean = mpf(0) if self.case.kind.name == "RMSNorm" else sum(values) / len(values)
            found[key] = (mean, sum((value - mean) ** 2 for value in values) / len(values))
        return found

    def shared(self, x: dict) -> dict:
        groups: dict = {}
        for index, value in x.items():
            groups.setdefault(sharing_key(self.case, index), []).append(value)
        return groups

    def follow(self, x: dict, call: int) -> None:
        momentum = self.case.options.get("momentum", 0.1)
        fraction = mpf(1) / (call + 1) if momentum is None else mpf(momentum)
        for key, values in self.shared(x).items():
            mean = sum(values) / len(values)
            unbiased = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
            old_mean, old_var = self.running[key]
            self.running[key] = (
                (1 - fraction) * old_mean + fraction * mean,
                (1 - fraction) * old_var + fraction * unbiased,
            )

    def y(self, x: dict, gamma: dict, beta: dict, only: Iterable | None = None) -> dict:
        """y = gamma * (x - mean) / sqrt(var + eps) + beta, of all entries of x or only of some."""
        case, eps = self.case, eps_of(self.case)
        statistics = {key: (mean, mp.sqrt(var + eps)) for key, (mean, var) in self.statistics(x).items()}
        result = {}
        for index in x if only is None else only:
            mean, deviation = statistics[sharing_key(case, index)]
            key = parameter_key(case, index)
            result[index] = gamma[key] * (x[index] - mean) / deviation + beta[key]
        return result

    def derivatives(self, which: str, most: int | None) -> dict:
        """The derivative of sum(dy * y) by entries of x, gamma or beta (at most so many), as a central difference."""
        inputs = {"x": self.x, "gamma": self.gamma, "beta": self.beta}
        key_of = sharing_key if which == "x" else parameter_key
        found = {}
        for index in spread(inputs[which], most):
            value = inputs[which][index]
            own = key_of(self.case, index) if which == "x" else index
            concerned = {i: v for i, v in self.x.items() if key_of(self.case, i) == own}
            step = STEP * (self.deviation(index) if which == "x" else 1)
            ends = []
            for end in (value + step, value - step):
                if which == "x":
                    y = self.y({**concerned, index: end}, self.gamma, self.beta)
                else:  # the statistics are those of all of x
                    moved = {**inputs, which: {**inputs[which], index: end}}
                    y = self.y(self.x, moved["gamma"], moved["beta"], only=concerned)
                ends.append(sum(self.dy[i] * value for i, value in y.items()))
            found[index] = (ends[0] - ends[1]) / (2 * step)
        return found

    def deviation(self, index: tuple[int, ...]) -> mpf:
        """sqrt(var + eps) at an entry of x: the length by which y changes."""
        return mp.sqrt(self.statistics(self.x)[sharing_key(self.case, index)][1] + eps_of(self.case))

    def quantities(self, most: int | None = None) -> dict[str, dict]:
        """Every quantity that the layer has, of the gradients at most so many entries."""
        case = self.case
        found = {"y": self.y(self.x, self.gamma, self.beta), "dx": self.derivatives("x", most)}
        if case.has_gamma:
            found["dgamma"] = self.derivatives("gamma", most)
        if case.has_beta:
            found["dbeta"] = self.derivatives("beta", most)
        if self.running is not None:
            found["running_mean"] = {key: mean for key, (mean, _) in self.running.items()}
            found["running_var"] = {key: var for key, (_, var) in self.running.items()}
        return found


# --- the definition proves exact --------------------------------------------------------------------------------------

SLOTS = {  # every layer, its options, and what makes its numbers hard
    "GroupNorm 2D, two groups": make("GroupNorm", (2, 4), groups=2),
    "GroupNorm 4D, two groups": make("GroupNorm", (2, 4, 2, 1), groups=2, eps=0.3),
    "GroupNorm 5D, one group": make("GroupNorm", (1, 2, 1, 2, 3), affine=False),
    "GroupNorm 3D, C groups": make("GroupNorm", (2, 3, 4), groups=3, data="shifted"),
    "LayerNorm, last axis": make("LayerNorm", (3, 4)),
    "LayerNorm, two axes of three": make("LayerNorm", (2, 2, 3), axes=2, bias=False),
    "LayerNorm, all four axes": make("LayerNorm", (2, 1, 3, 2), axes=4, eps=1e-8),
    "RMSNorm, last axis, eps of the dtype": make("RMSNorm", (3, 4)),
    "RMSNorm, last axis, eps of float32": make("RMSNorm", (3, 4), dtype="float32"),
    "RMSNorm, small data, eps of float32": make("RMSNorm", (3, 4), dtype="float32", data="tiny"),
    "RMSNorm, three axes of four": make("RMSNorm", (2, 2, 1, 3), axes=3, eps=1e-3),
    "InstanceNorm 3D": make("InstanceNorm", (2, 2, 3)),
    "InstanceNorm 4D with gamma": make("InstanceNorm", (2, 2, 3, 2), affine=True),
    "BatchNorm 2D": make("BatchNorm", (4, 2)),
    "BatchNorm 4D": make("BatchNorm", (2, 2, 3, 2), momentum=0.4),
    "BatchNorm, third call, other sizes before": make("BatchNorm", (3, 2), calls=3, resize=True),
    "BatchNorm, third call, cumulative average": make("BatchNorm", (3, 2), calls=3, resize=True, momentum=None),
    "BatchNorm eval at once": make("BatchNorm", (3, 2), training=False),
    "BatchNorm eval at once, large data": make("BatchNorm", (3, 2), training=False, data="large"),
    "BatchNorm eval, one sample": make("BatchNorm", (1, 3), training=False, calls=2, resize=True),
    "BatchNorm eval after training": make("BatchNorm", (3, 2, 2), training=False, calls=3),
    "BatchNorm eval without running statistics": make(
        "BatchNorm", (3, 2), training=False, calls=2, track_running_stats=False
    ),
}
HARD = {
    f"{like}, {data}, {dtype}": make(like, (3, 2, 4), axes=2, data=data, dtype=dtype, eps=1e-5)
    for like in KINDS
    for data in ("offset 1e6", "constant", "small", "tiny", "large")
    for dtype in ("float64", "float32")
}


@pytest.fixture(params=["longdouble", "mpmath"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """`exact` in its fast arithmetic, and in the one that it falls back to; the name of it."""
    if request.param == "longdouble" and not wide_arithmetic.LONGDOUBLE_IS_WIDE:
        pytest.skip("longdouble is no wider than float64 here")
    monkeypatch.setattr(wide_arithmetic, "WIDE", np.dtype(np.longdouble if request.param == "longdouble" else object))
    return str(request.param)


def prove(case: Case, arithmetic: str, most: int | None = None) -> None:
    """Every quantity of `exact` is within 16 roundoffs of the arithmetic that it claims, and no quantity is amiss."""
    got = exact.truth(case)
    with mp.workdps(DIGITS):
        unit = mpf(float(np.finfo(np.longdouble).eps)) / 2 if arithmetic == "longdouble" else mpf(2) ** -113
        expected = Definition(case).quantities(most)
        assert got.exact.keys() == expected.keys()
        for quantity, entries in expected.items():
            array, scale = got.exact[quantity], got.scale[quantity]
            shape = case.shape if quantity in ("y", "dx") else case.parameter_shape
            assert array.shape == scale.shape == shape
            for index, value in entries.items():
                error, allowed = abs(as_mpf(array[index]) - value), 16 * unit * as_mpf(scale[index])
                assert error <= allowed, f"{quantity}{index} of {case}, {arithmetic}: off by {error}, may {allowed}"


def as_mpf(value: Any) -> mpf:
    """A number of either arithmetic in full: a longdouble is the sum of at most three doubles."""
    if isinstance(value, mpf):
        return value
    total = mpf(0)
    for _ in range(3):
        part = np.float64(value)
        total += mpf(float(part))
        value = value - np.longdouble(part)
    return total


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in {**SLOTS, **HARD}.items()])
def test_the_definition_proves_exact(case: Case, arithmetic: str) -> None:
    prove(case, arithmetic)


@pytest.mark.parametrize("like", KINDS)
def test_the_definition_proves_exact_on_long_sums(like: str, arithmetic: str) -> None:
    """Of hundreds of numbers far from zero, whose rounding errors agree in sign where they are added one by one."""
    for seed in range(4):
        prove(make(like, (3, 4, 5, 5), axes=4, data="offset 1e2", eps=1e-5, seed=seed), arithmetic, most=2)


@pytest.mark.parametrize("like", KINDS)
@settings(max_examples=settings.default.max_examples // 10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_definition_proves_exact_on_random_cases(like: str, arithmetic: str, data: st.DataObject) -> None:
    prove(data.draw(cases(Scope.full(KINDS[like]))), arithmetic, most=4)


def test_the_proof_sees_a_wrong_last_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 roundoffs of the wide arithmetic too much in y, and the proof fails by name."""
    case, unit = (
        make("LayerNorm", (2, 3)),
        np.finfo(wide_arithmetic.WIDE if wide_arithmetic.LONGDOUBLE_IS_WIDE else float).eps / 2,
    )
    right = exact.truth(case)
    wrong = right._replace(exact={**right.exact, "y": right.exact["y"] + 64 * unit * right.scale["y"]})
    monkeypatch.setattr(exact, "truth", lambda case: wrong)
    with pytest.raises(AssertionError, match=r"y\(0, 0\) of LayerNorm.*longdouble: off by"):
        prove(case, "longdouble")


@pytest.mark.parametrize("like", KINDS)
def test_the_complex_step_agrees_with_the_backward_steps(like: str, arithmetic: str) -> None:
    """`derivative` differentiates the forward steps alone: of unchanged ones it finds what the proof above found."""
    affine = {"affine": True} if like == "InstanceNorm" else {}
    case = make(like, (2, 4, 2), groups=2, axes=2, data="shifted", **affine)
    found, proved, unit = exact.derivative(case), exact.truth(case), roundoff("float64") / 2**10
    assert found.keys() == proved.exact.keys() & {"dx", "dgamma", "dbeta"}
    for name, value in found.items():
        error = np.abs((value.reshape(proved.exact[name].shape) - proved.exact[name]).astype(float))
        assert (error <= 16 * unit * proved.scale[name].astype(float)).all(), name


def test_the_complex_step_sees_a_change_of_the_forward_and_none_of_the_backward() -> None:
    """With y doubled dx is doubled; with only the backward's d doubled the derivative of the forward is what it was."""
    case, twice = make("GroupNorm", (2, 4), groups=2), (lambda found, value: 2 * value,)
    right = exact.derivative(case)["dx"].astype(float)
    assert exact.derivative(case, {"y": twice})["dx"].astype(float) == pytest.approx(2 * right, rel=1e-15)
    assert exact.derivative(case, {"d": twice})["dx"].astype(float) == pytest.approx(right, rel=1e-15)
    assert exact.truth(case, {"d": twice}).exact["dx"].astype(float) == pytest.approx(2 * right, rel=1e-12)


# --- the scale and the conditioning, entry by entry -------------------------------------------------------------------


@pytest.mark.parametrize("like", KINDS)
@pytest.mark.parametrize("data", ["shifted", "small", "offset 1e4"])
def test_the_scale_is_the_sum_of_the_magnitudes_of_the_terms(like: str, data: str) -> None:
    case = make(like, (3, 4, 2), groups=2, axes=2, data=data)
    got, definition = exact.truth(case), Definition(case)
    inputs = (definition.x, definition.dy, definition.gamma, definition.beta)
    x, dy, gamma, beta = ({index: float(value) for index, value in entries.items()} for entries in inputs)
    statistics = {key: (float(mean), float(var)) for key, (mean, var) in definition.statistics(definition.x).items()}
    eps = float(eps_of(case))
    size, d, rstd = {}, {}, {}
    for i in x:
        mean, var = statistics[sharing_key(case, i)]
        rstd[i] = (var + eps) ** -0.5
        size[i] = max(abs(x[i] - mean) * rstd[i], 1)  # no less than one unit of xhat
        d[i] = abs(gamma[parameter_key(case, i)] * dy[i])

    def average(values: dict, index: tuple[int, ...]) -> float:
        return float(np.mean([values[i] for i in x if sharing_key(case, i) == sharing_key(case, index)]))

    dsize = {i: d[i] * size[i] for i in x}
    for i in x:
        key = parameter_key(case, i)
        own = [j for j in x if parameter_key(case, j) == key]
        expected = {
            "y": abs(gamma[key]) * size[i] + abs(beta[key]),
            "dx": rstd[i] * (d[i] + average(d, i) + size[i] * average(dsize, i)),
        }
        for name, value in expected.items():
            assert float(got.scale[name][i]) == pytest.approx(value, rel=1e-9), (name, i)
        if case.has_gamma:
            assert float(got.scale["dgamma"][key]) == pytest.approx(sum(abs(dy[j]) * size[j] for j in own), rel=1e-9)
        if case.has_beta:
            assert float(got.scale["dbeta"][key]) == pytest.approx(sum(abs(dy[j]) for j in own), rel=1e-12)
    worst = max(abs(mean) * (var + eps) ** -0.5 for mean, var in statistics.values())
    assert got.conditioning == pytest.approx(1 + worst, rel=1e-9)


@pytest.mark.parametrize(
    ("dtype", "data", "least", "most"),
    [
        ("float16", "offset 1e2", 50, 200),  # computed in float32, which sees the variance well
        ("float32", "offset 1e4", 5e3, 2e4),
        ("float32", "offset 1e6", 1e8, 1e9),  # 64 roundoffs of the mean are 4 deviations: |mean| / sqrt(eps)
        ("float64", "offset 1e6", 5e5, 2e6),
    ],
)
def test_where_the_mean_drowns_the_variance_eps_alone_conditions(
    dtype: str, data: str, least: float, most: float
) -> None:
    truth = exact.truth(make("LayerNorm", (3, 50), dtype=dtype, data=data, eps=1e-5))
    assert least < truth.conditioning < most


# --- exact judges torch and npnorm ------------------------------------------------------------------------------------


def outcome(layer: Any, case: Case) -> dict[str, np.ndarray]:
    """What a layer gives in the last call of a case, by quantity."""
    layer.gamma, layer.beta = case.parameters()
    for call in range(case.calls):
        x, dy = case.arrays(call)
        layer.training = case.training_in(call)
        y = layer.forward(x)
        found = {"y": y.copy()}
        victim = {"x": x, "y": y}.get(case.overwrite)
        if victim is not None and victim.flags.writeable:
            victim[...] = 7
        found["dx"] = layer.backward(dy)
    for name in ("dgamma", "dbeta", "running_mean", "running_var"):
        if getattr(layer, name, None) is not None:
            found[name] = getattr(layer, name)
    return found


def judge(layer: Any, case: Case, tolerances: dict[str, float]) -> None:
    """Every quantity is there and within its tolerance of `exact`; dtypes are those of the contract."""
    truth = exact.truth(case)
    found = outcome(layer, case)
    assert found.keys() == truth.exact.keys()
    for name, value in found.items():
        if name in ("y", "dx", "dgamma", "dbeta"):
            assert value.dtype == case.dtype, f"{name} of {case}"
        verdict = compare(name, value, truth.exact[name], truth.scale[name], case.dtype, tolerances[name])
        assert verdict.passed, f"{verdict} in {case}"


def judge_torch(case: Case) -> None:
    """torch subtracts a rounded mean: what it loses grows with the conditioning, and in dx with its square."""
    allowed = 64 * exact.truth(case).conditioning
    tolerances = dict.fromkeys(exact.QUANTITIES, allowed) | {"dx": allowed**2 / 64}
    if case.data == "constant":  # what torch finds for the variance is the square of what its mean is off by
        tolerances["running_var"] = allowed**2
    judge(torch_layers.LAYERS[case.kind.name](**case.options), case, tolerances)


@pytest.mark.parametrize("like", KINDS)
@given(data=st.data())
def test_exact_judges_torch(like: str, data: st.DataObject) -> None:
    judge_torch(data.draw(cases(Scope.full(KINDS[like]))))


def test_a_variance_below_the_roundoff_of_the_mean_is_lost_to_torch_and_no_mistake() -> None:
    """Of two neighbours among the floats the mean is rounded to one: any variance from zero up may come of it."""
    judge_torch(make("LayerNorm", (3, 2), dtype="float32", data="offset 1e6", eps=1e-8, seed=24))


@pytest.mark.parametrize("like", KINDS)
@given(data=st.data())
def test_exact_judges_npnorm(like: str, data: st.DataObject) -> None:
    """16 roundoffs, whatever the conditioning."""
    case = data.draw(cases(Scope.full(KINDS[like])))
    judge(getattr(npnorm, like)(**case.options), case, dict.fromkeys(exact.QUANTITIES, 16))


TABLE = [
    pytest.param(like, shape, id=f"{like}-{len(shape)}D")
    for like in KINDS
    for shape in ((3, 8), (3, 8, 5), (3, 8, 5, 4), (2, 8, 3, 2, 4))
    if not (like == "InstanceNorm" and len(shape) == 2)
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("quantity", exact.QUANTITIES)
@pytest.mark.parametrize(("like", "shape"), TABLE)
def test_npnorm_is_right(like: str, shape: tuple[int, ...], quantity: str, dtype: str) -> None:
    """The table layer x rank x quantity x dtype, at a mean of 1e4 deviations too, and at variances near eps."""
    affine = {"affine": True} if like == "InstanceNorm" else {}
    for data in ("unit", "offset 1e4", "small"):
        case = make(like, shape, groups=4, axes=len(shape) - 1, dtype=dtype, data=data, calls=2, **affine)
        truth = exact.truth(case)
        found = outcome(getattr(npnorm, like)(**case.options), case)
        assert (quantity in found) == (quantity in truth.exact)
        if quantity in found:
            verdict = compare(quantity, found[quantity], truth.exact[quantity], truth.scale[quantity], dtype, 16)
            assert verdict.passed, f"{verdict} in {case}"
