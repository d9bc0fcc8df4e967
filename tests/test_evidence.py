"""The subsets of the evidence, and the data that the diagnosis is told by: each means what its name says."""

import numpy as np
import pytest

import npnorm
from reference import check
from reference.cases.case import ANOTHER, CONTIGUOUS, LAYOUTS, make
from reference.diagnosis.evidence import Evidence
from reference.diagnosis.faults import FAULTS
from reference.diagnosis.faults.entry import EXPERIMENTS
from reference.diagnosis.named import told_by
from reference.kinds import KINDS
from reference.probing import probe
from reference.subjects.in_process import InProcess


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contiguous_is_what_numpy_calls_contiguous(layout):
    case = make("LayerNorm", (3, 4, 5), layout=layout)
    assert (layout in CONTIGUOUS) == case.arrays().x.flags.c_contiguous == case.contiguous


def test_x_and_dy_must_both_be_contiguous():
    assert not make("LayerNorm", (3, 4), dy_layout="F").contiguous


class SlicedLayerNorm(npnorm.LayerNorm):
    """Wrong where x is a part of a longer array, though that is contiguous, and right for every order in memory."""

    def forward(self, x):
        self.part = x.base is not None and x.flags.c_contiguous
        return super().forward(x)

    def backward(self, dy):
        return super().backward(dy) * (1 - self.part)


def test_a_contiguous_layout_is_never_held_against_the_contiguous_ones():
    report = check(SlicedLayerNorm, examples=0, minimize=False, ndims=[3])
    assert not report.passed
    assert "layout-dependent" not in [fault.id for fault in report.faults]
    assert not any("contiguous" in fault.evidence for fault in report.faults), report


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_tells_one_entry(experiment):
    assert told_by(experiment).told_by == experiment


def test_what_is_seen_beside_another_is_in_the_dictionary():
    for fault in FAULTS.values():
        assert set(fault.covers) <= FAULTS.keys() - {fault.id}


class TripledBatchNorm(npnorm.BatchNorm):
    def backward(self, dy):
        return 3 * super().backward(dy)


def test_every_probe_is_in_one_subset_or_cannot_be_held_against_formulas():
    kind = KINDS["BatchNorm"]
    trials = probe(InProcess(TripledBatchNorm, kind, "it"), (2, 4)).trials
    evidence = Evidence(kind, trials, [t for t in trials if t.failed])
    assert evidence.numbers == evidence.trials
    core, special, large = ({t.case for t in part} for part in (evidence.core, evidence.special, evidence.large))
    assert core
    assert special
    assert large
    assert not core & special
    assert not core & large
    assert not special & large
    tiny = {case for case in core if case.data == "tiny"}
    assert {t.case for t in evidence.regular} == (core - tiny) | special | large
    assert all(case.contiguous and case.history != ANOTHER for case in core | large)
    left_out = {t.case for t in trials} - core - special - large
    assert all(
        case.dtype != "float64"
        or case.data in ("constant", "tiny", "nan")
        or "offset" in case.data
        or case.sharing == 1
        for case in left_out
    )
    assert np.isfinite([t.comparisons["dx"].error for t in evidence.large]).all()
