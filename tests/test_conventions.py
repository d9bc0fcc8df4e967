"""The conventions, each accepted alone, two and two, and all together: by layers that follow just those.

That they are named where they are not accepted is test_diagnosis's, by strangers' layers.
"""

from functools import partial
from itertools import combinations

import numpy as np
import pytest

from reference import check
from reference.cases.case import make
from reference.diagnosis.faults import FAULTS
from reference.truth.convention import Convention
from tests.planted import BY_FAULT

BATCH_NORM = (
    "running-var-biased",
    "momentum-inverted",
    "running-statistics-replaced-by-first-batch",
    "running-statistics-start-at-zero",
    "running-statistics-bias-corrected",
    "eps-outside-sqrt",
    "eps-argument-ignored",
    "gamma-plus-one",
)
RMS_NORM = ("eps-outside-sqrt", "eps-argument-ignored", "eps-default-for-none", "gamma-plus-one")
STARTS = ("eps-default", "momentum-default", "parameters-start-elsewhere")  # seen in the signature and the fresh layer

# Each of two ways to begin; and whose averages start at zero is what is corrected.
EXCLUDE = {
    frozenset({"running-statistics-replaced-by-first-batch", "running-statistics-bias-corrected"}),
    frozenset({"running-statistics-start-at-zero", "running-statistics-bias-corrected"}),
    # the first batch in full leaves nothing of what was there before, but for eval before any batch
    frozenset({"running-statistics-replaced-by-first-batch", "running-statistics-start-at-zero"}),
    frozenset({"eps-argument-ignored", "eps-default-for-none"}),
}


class _Norm:
    """Right but for the conventions in `follows`."""

    follows: frozenset[str] = frozenset()

    def deviation(self, var):
        eps = 2e-5 if "eps-argument-ignored" in self.follows else self.eps
        return np.sqrt(var) + eps if "eps-outside-sqrt" in self.follows else np.sqrt(var + eps)

    def weight(self):
        if self.gamma is None:
            return 1.0
        return self.gamma.astype(self.xhat.dtype) + ("gamma-plus-one" in self.follows)

    def projected(self, d, axis):
        """The projection term, of the deviation's own derivative: its eps may stand outside of the root."""
        inner = np.sqrt(self.var) if "eps-outside-sqrt" in self.follows else self.std
        return self.xhat * ((d * self.xhat).mean(axis, keepdims=True) / inner)


class _BatchNorm(_Norm):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.eps, self.momentum, self.training, self.batches = eps, momentum, True, 0
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        self.tracks, self.size = track_running_stats, num_features
        if self.tracks:
            ones = 0.0 if {FROM_ZERO, CORRECTED} & self.follows else 1.0
            self.running_mean, self.running_var = np.zeros(num_features), np.full(num_features, ones)

    def rate(self):
        if self.momentum is None:
            return 1 / self.batches
        fraction = 1 - self.momentum if "momentum-inverted" in self.follows else self.momentum
        return 1.0 if FIRST_WHOLE in self.follows and self.batches == 1 else fraction

    def learned(self):
        if self.momentum is None or CORRECTED not in self.follows:
            return np.ones(())
        fraction = 1 - self.momentum if "momentum-inverted" in self.follows else self.momentum
        return np.asarray(1 - (1 - fraction) ** self.batches)

    @np.errstate(all="ignore")
    def forward(self, x):
        self.fixed = self.tracks and not self.training
        if self.fixed:
            mean, var = (np.asarray(a / self.learned(), x.dtype) for a in (self.running_mean, self.running_var))
        else:
            mean, var, n = x.mean(0), ((x - x.mean(0)) ** 2).mean(0), len(x)
            if self.tracks:
                self.batches += 1
                stored = var if "running-var-biased" in self.follows else var * n / max(n - 1, 1)
                r = self.rate()
                self.running_mean = ((1 - r) * self.running_mean + r * mean).astype(x.dtype)
                self.running_var = ((1 - r) * self.running_var + r * stored).astype(x.dtype)
        self.centred, self.var, self.std = x - mean, var, self.deviation(var)
        self.xhat = self.centred / self.std
        return self.xhat * self.weight() + (0 if self.beta is None else self.beta.astype(x.dtype))

    @np.errstate(all="ignore")
    def backward(self, dy):
        if self.gamma is not None:
            self.dgamma, self.dbeta = (dy * self.xhat).sum(0), dy.sum(0)
        d = dy * self.weight()
        if self.fixed:
            return d / self.std
        return (d - d.mean(0)) / self.std - self.projected(d, 0)


class _RMSNorm(_Norm):
    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.asked = eps
        self.gamma = np.ones(normalized_shape) if elementwise_affine else None

    def forward(self, x):
        default = 1e-6 if "eps-default-for-none" in self.follows else np.finfo(x.dtype).eps
        self.eps = float(default) if self.asked is None else self.asked
        self.centred, self.var = x.copy(), (x * x).mean(-1, keepdims=True)
        self.std = self.deviation(self.var)
        self.xhat = self.centred / self.std
        return self.xhat * self.weight()

    def backward(self, dy):
        if self.gamma is not None:
            self.dgamma = (dy * self.xhat).sum(tuple(range(dy.ndim - 1)))
        d = dy * self.weight()
        return d / self.std - self.projected(d, -1)


FROM_ZERO, CORRECTED = "running-statistics-start-at-zero", "running-statistics-bias-corrected"
FIRST_WHOLE = "running-statistics-replaced-by-first-batch"
KINDS = {"BatchNorm": (_BatchNorm, BATCH_NORM), "RMSNorm": (_RMSNorm, RMS_NORM)}


def _following(like, ids):
    base, _ = KINDS[like]
    return type(like, (base,), {"follows": frozenset(ids)})


quick = partial(check, examples=5, minimize=False, ndims=[2])

ALONE = [pytest.param(like, id, id=f"{like}-{id}") for like, (_, ids) in KINDS.items() for id in ids]
PAIRS = [
    pytest.param(like, pair, id=f"{like}-{'-and-'.join(pair)}")
    for like, (_, ids) in KINDS.items()
    for pair in combinations(ids, 2)
    if frozenset(pair) not in EXCLUDE
]


def test_every_convention_is_here():
    conventions = {fault.id for fault in FAULTS.values() if fault.kind == "convention"}
    assert conventions == {*BATCH_NORM, *RMS_NORM, *STARTS, "rounded-in-between"}  # the last in `test_sixteen_bits`


@pytest.mark.parametrize("like", KINDS)
def test_layer_that_follows_none_is_right(like):
    assert quick(_following(like, ())).passed


@pytest.mark.parametrize(("like", "id"), ALONE)
def test_convention_is_named_and_can_be_accepted(like, id):
    layer = _following(like, [id])
    strict, report = quick(layer), quick(layer, accept=[id])
    assert [(fault.id, fault.kind) for fault in strict.faults] == [(id, "convention")]
    assert report.passed, report
    assert report.quantities.keys() == strict.quantities.keys()


@pytest.mark.parametrize(("like", "pair"), PAIRS)
def test_two_conventions_can_be_accepted_in_either_order(like, pair):
    layer = _following(like, pair)
    for accept in (pair, pair[::-1]):
        report = quick(layer, accept=accept)
        assert report.passed, report


@pytest.mark.parametrize("like", KINDS)
def test_all_conventions_that_go_together_can_be_accepted(like):
    _, ids = KINDS[like]
    together = [id for id in ids if not any(id in pair and pair & set(ids[: ids.index(id)]) for pair in EXCLUDE)]
    assert len(together) > 2
    assert quick(_following(like, together), accept=together).passed


@pytest.mark.parametrize(
    ("row", "id"), [pytest.param(row, id, id=f"{id}-{row.name}") for id in STARTS for row in BY_FAULT[id]]
)
def test_where_a_layer_starts_is_a_convention_that_can_be_accepted(row, id):
    strict, report = quick(row.layer, row.kind), quick(row.layer, row.kind, accept=[id])
    assert [(fault.id, fault.kind, fault.quantities) for fault in strict.faults] == [(id, "convention", ())]
    assert all(figures.passed for figures in strict.quantities.values())
    assert report.passed, report


def test_default_that_follows_from_another_convention_is_not_told_beside_it():
    (row,) = (row for row in BY_FAULT["momentum-inverted"] if row.name == "BatchNormKeptFraction")
    assert [fault.id for fault in quick(row.layer, row.kind).faults] == ["momentum-inverted"]
    assert quick(row.layer, row.kind, accept=["momentum-inverted"]).passed


IN_ITS_OWN_WAY = BY_FAULT[CORRECTED]


@pytest.mark.parametrize("row", IN_ITS_OWN_WAY, ids=lambda row: row.layer.__name__)
def test_bias_correction_can_be_accepted_whichever_way_it_is_done(row):
    """In use or in store; and before the first batch, where there is nothing to correct, layers differ in what they do."""
    report = quick(row.layer, row.kind, accept=[CORRECTED])
    assert report.passed, report


def test_there_are_several_ways_to_correct_a_bias():
    assert len(IN_ITS_OWN_WAY) == 3


def test_what_was_computed_without_torch_is_not_kept_for_those_who_ask_for_it(monkeypatch):
    convention, case = Convention(), make("RMSNorm", (3, 5), seed=77)
    monkeypatch.setattr(Convention, "beside_torch", False)
    assert convention.expected(case).torch_errors == {}
    monkeypatch.setattr(Convention, "beside_torch", True)
    assert convention.expected(case).torch_errors.keys() == {"y", "dx", "dgamma"}
