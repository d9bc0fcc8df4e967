"""The budget of float16 and bfloat16 admits what computes in float32 and rounds once, and nothing else.

What must be rejected: every mistake of the dictionary, made exactly and rounded once, so that only the mistake is there; and
a right layer that computes one of its steps in 16 bits.
"""

from functools import cache

import numpy as np
import pytest

import npnorm
from reference import check
from reference.cases.case import Case, make
from reference.cases.probes import designed_for
from reference.cases.scope import Scope
from reference.diagnosis.faults import FAULTS, Fault
from reference.dtypes import NARROW, carried, dtype_named, roundoff
from reference.kinds import KINDS
from reference.subjects.observation import Observation
from reference.truth import exact
from reference.truth.convention import Convention
from reference.truth.tolerance import SPARE, scale_of
from reference.truth.verdict import held_against

SMALL = 700  # numbers in all calls of a case
TORCHLESS = Convention()
TORCHLESS.beside_torch = False  # type: ignore[misc]


@cache
def cases_of(like: str, dtype: str) -> list[Case]:
    """The small designed cases of a layer that takes nothing but this dtype."""
    kind = KINDS[like]
    scope = Scope(kind, kind.ranks, (dtype,), keywords=frozenset(kind.keywords))
    return [case for case in designed_for(scope) if np.prod(case.shape) * case.calls <= SMALL and not case.overwrite]


def rounded(value: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return carried(value.astype(np.float64).astype(dtype_named(dtype)))


# --- what is admitted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("like", KINDS)
def test_one_rounding_of_the_exact_values_is_admitted(like: str, dtype: str) -> None:
    """Of all but the running statistics' consequences, which bear the roundings of the state as well."""
    for case in cases_of(like, dtype):
        expected = TORCHLESS.expected(case)
        once = {name: rounded(value, dtype) for name, value in expected.truth.exact.items()}
        assert not held_against(TORCHLESS, expected, case, Observation(outcome=once)).wrong, case


@pytest.mark.parametrize("like", KINDS)
def test_npnorm_rounds_once(like: str) -> None:
    report = check(getattr(npnorm, like), dtypes=NARROW, examples=60, minimize=False)
    assert report.passed, report
    assert report.quantities["y"].largest_error <= 1 + SPARE


def test_the_scale_is_what_is_rounded_and_what_float32_loses() -> None:
    case = make("LayerNorm", (3, 4), dtype="bfloat16")
    exact_value, terms = np.array([2.0, 0.0]), np.array([5.0, 3.0])
    found = scale_of("dx", case, exact_value, terms, conditioning=2.0)
    wider = 64 * 2.0**2 * roundoff("float32") / roundoff("bfloat16")
    assert found == pytest.approx([2 + 5 * wider, 3 * wider])


def test_an_updated_state_bears_one_rounding_an_update() -> None:
    trained = make("BatchNorm", (4, 3), dtype="float16", calls=3, training=False)
    first = make("BatchNorm", (4, 3), dtype="float16")
    one, terms = np.zeros(3), np.ones(3)
    assert scale_of("y", trained, one, terms, 1.0) - scale_of("y", first, one, terms, 1.0) == pytest.approx(2 * terms)


# --- what is rejected -------------------------------------------------------------------------------------------------

VARIANTS = [
    pytest.param(like, fault, number, id=f"{like}-{fault.id}-{number}")
    for like in KINDS
    for fault in FAULTS.values()
    if like in fault.layers
    for number, variant in enumerate(fault.variants)
    if KINDS[like].has_beta or variant.keys() != {"dbeta"}  # which would change nothing
]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(("like", "fault", "number"), VARIANTS)
def test_every_mistake_of_the_dictionary_is_rejected(like: str, fault: Fault, number: int, dtype: str) -> None:
    changes = {step: (change,) for step, change in fault.variants[number].items()}
    for case in cases_of(like, dtype):
        expected = TORCHLESS.expected(case)
        try:
            changed = exact.truth(case, changes).exact
        except ValueError:  # it gives no numbers of any shape, which no dtype hides
            return
        once = {name: rounded(value, dtype) for name, value in changed.items()}
        if held_against(TORCHLESS, expected, case, Observation(outcome=once)).wrong:
            return
    pytest.fail("no designed case of this dtype shows it")


class StepwiseNorm:
    """Right: every step in float32, the results in the dtype of x. `narrow` names the steps that are rounded to it."""

    narrow = ""
    centred = True

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True):
        self.axes = tuple(range(-np.size(normalized_shape), 0))
        self.eps = eps
        self.gamma = np.ones(normalized_shape) if elementwise_affine else None
        self.beta = np.zeros(normalized_shape) if elementwise_affine and self.centred else None

    def step(self, name, value):
        return value.astype(self.dtype).astype(np.float32) if name == self.narrow else value.astype(np.float32)

    def added(self, name, terms):
        """A sum over the rows; one that is narrow is rounded after every eighth of them."""
        terms = terms.reshape(-1, *self.shape)
        if name != self.narrow:
            return terms.sum(0)
        total = np.zeros(self.shape, np.float32)
        for some in np.split(terms, range(8, len(terms), 8)):
            total = self.step(name, total + some.sum(0))
        return total

    def forward(self, x):
        self.dtype, step = x.dtype, self.step
        wide = x.astype(np.float32)
        self.shape = wide.shape[-len(self.axes) :]
        mean = wide.mean(self.axes, keepdims=True) if self.centred else 0.0
        self.centre = wide - mean
        var = step("squares", self.centre**2).mean(self.axes, keepdims=True)
        var = step("eps", step("eps", var) + self.eps)
        self.rstd = step("rstd", 1 / np.sqrt(var))
        self.xhat = step("xhat", self.centre * self.rstd)
        y = self.xhat if self.gamma is None else self.xhat * self.gamma.astype(np.float32)
        return (y if self.beta is None else y + self.beta.astype(np.float32)).astype(x.dtype)

    def backward(self, dy):
        step, d = self.step, dy.astype(np.float32)
        if self.gamma is not None:
            self.dgamma = self.added("dgamma", d * step("saved xhat", self.xhat)).astype(dy.dtype)
            if self.beta is not None:
                self.dbeta = self.added("dbeta", d).astype(dy.dtype)
            d = step("d", d * self.gamma.astype(np.float32))
        xhat, rstd = step("saved xhat", self.xhat), step("saved rstd", self.rstd)
        inner = d - step("projection", xhat * (d * xhat).mean(self.axes, keepdims=True))
        if self.centred:
            inner = inner - step("mean term", d.mean(self.axes, keepdims=True))
        return (rstd * inner).astype(dy.dtype)


class StepwiseRMSNorm(StepwiseNorm):
    centred = False


STEPS = ("squares", "eps", "rstd", "xhat", "saved xhat", "saved rstd", "d", "projection", "dgamma")


def test_the_stepwise_layers_are_right():
    for layer, like in ((StepwiseNorm, "LayerNorm"), (StepwiseRMSNorm, "RMSNorm")):
        report = check(layer, like, dtypes=NARROW, examples=60, minimize=False)
        assert report.passed, report


@pytest.mark.parametrize(
    ("layer", "like", "narrow"),
    [
        *(
            pytest.param(StepwiseNorm, "LayerNorm", step, id=f"LayerNorm-{step}")
            for step in (*STEPS, "dbeta", "mean term")
        ),
        *(pytest.param(StepwiseRMSNorm, "RMSNorm", step, id=f"RMSNorm-{step}") for step in STEPS),
    ],
)
def test_a_step_in_16_bits_is_rejected_and_told_from_float32(layer, like, narrow):
    made = type(layer.__name__, (layer,), {"narrow": narrow})
    report = check(made, like, dtypes=["float32", *NARROW], ndims=[2], examples=0, minimize=False)
    assert {part.dtype for part in report.parts if part.failed} == {*NARROW}, report
    wanted = {"computed-in-16-bits"} if narrow == "dbeta" else {"rounded-in-between", "computed-in-16-bits"}
    assert {fault.id for fault in report.faults} <= wanted, report


class AddsUpNarrow(StepwiseNorm):
    def added(self, name, terms):
        return terms.astype(self.dtype).sum(tuple(range(terms.ndim - len(self.shape))))


def test_who_adds_up_as_badly_as_torch_is_not_torch():
    """torch's LayerNorm on the CPU adds up beta's gradient in float16 as NumPy does: to the bit, and that excuses nobody."""
    report = check(AddsUpNarrow, "LayerNorm", dtypes=["float32", "float16"], ndims=[2], examples=0, minimize=False)
    assert not report.quantities["dbeta"].passed, report
    assert "computed-in-16-bits" in [fault.id for fault in report.faults], report


def test_roundings_in_between_may_be_accepted():
    made = type("StepwiseNorm", (StepwiseNorm,), {"narrow": "xhat"})
    report = check(made, "LayerNorm", dtypes=NARROW, examples=20, minimize=False, accept=["rounded-in-between"])
    assert report.passed, report
    made = type("StepwiseNorm", (StepwiseNorm,), {"narrow": "dbeta"})
    assert not check(made, "LayerNorm", dtypes=NARROW, examples=0, accept=["rounded-in-between"], minimize=False).passed
