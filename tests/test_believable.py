"""A report that contradicts itself is found out. That none of a planted layer does is asked in test_diagnosis, of each."""

from dataclasses import replace

import pytest

import npnorm
from reference import check
from reference.reporting.report import Report
from tests.believable import contradictions


class HalfDxLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        return super().backward(dy) / 2


@pytest.fixture(scope="module")
def believed() -> Report:
    report = check(HalfDxLayerNorm, examples=0, minimize=False, ndims=[2])
    assert contradictions(report) == []
    return report


def _with_cause(report: Report, **changes) -> Report:
    return replace(report, faults=[replace(report.faults[0], **changes)])


BROKEN = {
    "a quantity that no cause speaks of": (lambda r: _with_cause(r, quantities=("y",)), "no cause speaks of it"),
    "a quantity that is right": (lambda r: _with_cause(r, quantities=("dx", "y")), "the table calls right"),
    "no cause": (lambda r: replace(r, faults=[]), "passed is False with 0 causes"),
    "nothing wrong": (lambda r: _with_cause(r, evidence="wrong in 0 of 3 probes"), "speaks of nothing wrong"),
    "coefficients that do not fit": (
        lambda r: _with_cause(r, evidence="coefficients of dx's terms, each 1 when right: d 2 (unexplained 12.0%)"),
        "12.0 % unexplained",
    ),
    "a NaN of the NaN probe": (
        lambda r: _with_cause(r, evidence="got nan, expected 1 in x (2, 3) float64, nan data"), "special probe",
    ),
    "a wrong forward that is right": (lambda r: replace(r, backward_is_derivative_of_forward=True), "y is right"),
    "a diagnosis that failed": (
        lambda r: _with_cause(r, evidence="the diagnosis itself failed with KeyError: 3"), "itself failed",
    ),
    "an alternative to itself": (lambda r: _with_cause(r, alternatives=("unknown",)), "alternative to itself"),
}  # fmt: skip


@pytest.mark.parametrize(("broken", "words"), BROKEN.values(), ids=BROKEN)
def test_contradiction_is_seen(broken, words, believed):
    assert any(words in text for text in contradictions(broken(believed))), contradictions(broken(believed))
