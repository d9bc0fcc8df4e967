"""Hazards: what is right in ordinary use and wrong or costly where a caller does something unusual. They pass, and are listed.

What a layer must never do is test_guard's.
"""

import numpy as np
import pytest

import npnorm
from reference import checks
from reference.diagnosis.observed import hazards_of
from tests.odd import in_backward, in_forward, verdict

HAZARDS = {  # the layer, the hazard, the quantity, what is said
    "y is wider": (
        in_forward(lambda x, y: (y.astype(np.float64),)),
        "dtype-promoted",
        "y",
        "y has dtype float64 for an x of float32",
    ),
    "dx is wider": (
        in_backward(lambda layer, dy, dx: (dx.astype(np.float64),)),
        "dtype-promoted",
        "dx",
        "dx has dtype float64 for an x of float32",
    ),
}


def test_random_trials_with_a_known_hazard_are_not_kept(monkeypatch):
    """Each holds arrays: of a hundred thousand the memory would not."""
    kept = []
    monkeypatch.setattr(checks, "hazards_of", lambda trials: [kept.append(len(trials)), *hazards_of(trials)][1:])
    layer, *_ = HAZARDS["y is wider"]
    assert verdict(layer).hazards == verdict(layer, examples=60).hazards != []
    assert kept[0] == kept[1] > 0


@pytest.mark.parametrize(("layer", "id", "quantity", "words"), HAZARDS.values(), ids=HAZARDS)
def test_hazard_is_listed_and_fails_only_a_strict_check(layer, id, quantity, words):
    report = verdict(layer)
    assert report.passed
    assert report.faults == []
    assert [(hazard.id, hazard.kind, hazard.quantities) for hazard in report.hazards] == [(id, "hazard", (quantity,))]
    assert words in report.hazards[0].evidence
    assert f"hazard: {id} ({quantity}): {report.hazards[0].summary}" in " ".join(str(report).split())
    strict = verdict(layer, strict=True)
    assert not strict.passed
    assert strict.faults == report.hazards


def test_dx_in_dys_memory_is_a_hazard_beside_the_mistake():
    """Alone it cannot be: a right dx has other numbers than dy."""
    report = verdict(in_backward(lambda layer, dy, dx: (dy,)))
    assert [fault.id for fault in report.faults] == ["dx-is-dy"]
    (hazard,) = report.hazards
    assert (hazard.id, hazard.kind, hazard.quantities) == ("dx-aliases-dy", "hazard", ("dx",))
    assert "dx shares its memory with dy" in hazard.evidence


@pytest.mark.parametrize(
    ("kept", "id"),
    [
        (lambda x, y: x, "input-not-saved"),
        (lambda x, y: x.copy(), None),
        (lambda x, y: y, "output-not-saved"),
    ],
    ids=["x", "a copy of x", "y"],
)
def test_what_the_caller_may_change_is_a_hazard(kept, id):
    """A backward that reads x or y again is right as long as nobody writes to it; the figures are those of such cases."""

    class RereadingLayerNorm(npnorm.LayerNorm):
        def forward(self, x):
            y = super().forward(x)
            self.kept = kept(x, y)
            self.factor = np.ravel(self.kept)[:1].copy()
            return y

        def backward(self, dy):
            dx = super().backward(dy)
            return dx if np.array_equal(np.ravel(self.kept)[:1], self.factor, equal_nan=True) else 2 * dx

    report = verdict(RereadingLayerNorm)
    assert report.passed, report
    assert [(hazard.id, hazard.quantities) for hazard in report.hazards] == ([(id, ("dx",))] if id else [])
    assert report.counterexample is None
    assert verdict(RereadingLayerNorm, strict=True).passed is (id is None)


def test_layer_that_is_never_the_same_is_no_hazard():
    """What overwriting x seems to change is another draw: its y differs too."""
    rng = np.random.default_rng(0)

    class NoisyLayerNorm(npnorm.LayerNorm):
        def forward(self, x):
            self.noise = rng.uniform(1, 2)
            return super().forward(x) * x.dtype.type(self.noise)

        def backward(self, dy):
            return super().backward(dy) * dy.dtype.type(self.noise)

    report = verdict(NoisyLayerNorm)
    assert not report.passed
    assert report.hazards == []
