"""One look is enough: each kind of report, at each width, is short, ends with its verdict, and breaks no line of its own."""

import re
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len

import npnorm
from reference import check
from reference.reporting.text import FOLDED, MOST_LINES, as_text
from tests.test_report import BIASED, CASE, HALVED, RIGHT, UNKNOWN, WRONG

LONG = "what cannot be said in a few words, and so is said in many, of which none may be lost " * 4
HAZARDS = [
    replace(HALVED, id=f"hazard-{number}", kind="hazard", summary="It is right in ordinary use.", fix="Copy x.")
    for number in range(5)
]
SIX = dict.fromkeys(("y", "dx", "dgamma", "dbeta", "running_mean", "running_var"), WRONG.quantities["dx"])
MANY = [replace(HALVED, id=f"dx-mistake-{number}", summary=LONG, fix=LONG, evidence=LONG) for number in range(9)]
MUCH = replace(
    WRONG,
    subject="a_long_name_of_a_layer_" * 20,
    quantities=SIX,
    faults=MANY,
    hazards=HAZARDS,
    not_covered={f"option_{number}": LONG for number in range(12)},
    read_as=tuple(f"a_name_of_theirs_{number} = eps" for number in range(12)),
    notes=(LONG,) * 9,
    accepted=tuple(f"convention-{number}" for number in range(30)),
    counterexample=replace(
        WRONG.counterexample,
        problems=(LONG,) * 9,
        entries=WRONG.counterexample.entries * 3,
        script="x = 1\n" * 300,
    ),
)
REPORTS = {  # and how the last line begins
    "PASS": (RIGHT, "PASS  all agrees"),
    "named": (WRONG, "FAIL  dx-halved (dx, dgamma wrong)"),
    "unknown": (replace(WRONG, faults=[UNKNOWN]), "FAIL  unknown (dx, dgamma wrong)"),
    "convention": (replace(WRONG, faults=[BIASED]), "FAIL  differs from torch by convention: var-biased"),
    "hazard": (replace(RIGHT, hazards=HAZARDS[:1]), "PASS  all agrees"),
    "strict": (replace(RIGHT, passed=False, hazards=HAZARDS, faults=HAZARDS), "FAIL  hazard-0 and hazard-1"),
    "refused in part": (replace(RIGHT, not_covered={"3D": LONG, "float16": "no"}), "PASS  all of what could be tried"),
    "incomplete": (replace(RIGHT, incomplete="12 of 200 random cases in 60 s"), "PASS  all agrees"),
    "incomplete, strict": (replace(RIGHT, passed=False, incomplete="12 of 200"), "FAIL  not everything was tried: 12"),
    "much": (MUCH, "FAIL  dx-mistake-0 and dx-mistake-1"),
    "much, right": (replace(MUCH, passed=True, faults=[], counterexample=None), "PASS  all of what could"),
}


@pytest.mark.parametrize("width", [48, 60, 80, 100, 120])
@pytest.mark.parametrize(("report", "last"), REPORTS.values(), ids=REPORTS)
def test_report_is_seen_in_one_look(report, last, width):
    lines = as_text(report, width).splitlines()
    assert len(lines) <= MOST_LINES == 40
    assert max(map(cell_len, lines)) <= width
    verdicts = [number for number, line in enumerate(lines) if re.match("(PASS|FAIL)  ", line)]
    assert len(verdicts) == 1, "and it is the last thing"
    assert (
        " ".join(line.strip() for line in lines[verdicts[0] :]).replace("  ", " ").startswith(last.replace("  ", " "))
    )
    assert "" not in lines[verdicts[0] :]
    assert "…" not in "\n".join(lines), "no stream need take it"


@pytest.mark.parametrize(("report", "last"), REPORTS.values(), ids=REPORTS)
def test_verbose_leaves_nothing_out(report, last):
    words = " ".join(as_text(report, 100, verbose=True).split())
    shown = [report.subject[:190], *report.notes, *report.read_as, *report.accepted]
    shown += [fault.evidence for fault in report.faults] + [hazard.summary for hazard in report.hazards]
    shown += [f"not covered: {what} ({why[:50]}" for what, why in report.not_covered.items()]
    if report.counterexample:
        shown += [str(CASE), *report.counterexample.problems, *report.counterexample.script.splitlines()]
    solid = words.replace(" ", "")
    assert [text for text in shown if "".join(text.split()) not in solid] == []
    assert "more" not in words.replace(LONG, "")


def test_what_is_left_out_is_counted_and_where_it_is_is_said():
    left_out = {f"option_{number}": "no" for number in range(FOLDED + 2)}
    text = as_text(replace(RIGHT, not_covered=left_out))
    assert "not covered: option_2 (no)\nnot covered: 2 more: option_3, option_4\n" in text
    assert "\nmore: report.text(verbose=True), everything\n" in text
    assert "more" not in as_text(replace(RIGHT, not_covered=dict(list(left_out.items())[: FOLDED + 1])))


def test_most_telling_parts_stay_whole_where_there_is_no_room():
    lines = as_text(MUCH, 100)
    assert "\ncause: dx-mistake-1 (dx): what cannot be said" in lines, "in a line each"
    assert re.search(r"\nand 4 more causes: dx-mistake-5, ", lines)
    assert lines.count("smallest failing case") == 1
    assert "quantity      verdict" in lines
    assert "running_var   WRONG" in lines
    some = replace(MUCH, faults=[HALVED, *MANY[:2]], counterexample=WRONG.counterexample, subject="It")
    assert "  fix: Do not divide by 2.\n" in as_text(some)
    assert "dx        (0, 1)" in as_text(some)


class ManyBatchNorm(npnorm.BatchNorm):
    """Four mistakes at once, and defaults of its own."""

    def __init__(self, num_features, eps=1e-3, momentum=0.1):
        super().__init__(num_features, eps, momentum)

    def forward(self, x):
        y = super().forward(x)
        if self.training:
            self.running_var *= 1.5
        return y

    def backward(self, dy):
        dx = super().backward(dy)
        self.dgamma, self.dbeta = self.dgamma / len(dy) if len(dy) else self.dgamma, -self.dbeta
        return dx / 2


def test_real_report_of_many_mistakes():
    report = check(ManyBatchNorm, examples=0, ndims=[2, 4])
    for width in (60, 80, 120):
        lines = as_text(report, width).splitlines()
        assert len(lines) <= MOST_LINES
        assert max(map(len, lines)) <= width
        assert lines[1].split() == [
            "quantity",
            "verdict",
            "worst",
            "error",
            "tolerance",
            *["torch's", "cases"] * (width > 72),
        ]


# --- the smallest case ------------------------------------------------------------------------------------------------


def half_dx(base):
    def backward(self, dy):
        return base.backward(self, dy) / 2

    return type(base.__name__, (base,), {"backward": backward})


@pytest.mark.parametrize("like", ["GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm"])
def test_smallest_case_shows_the_failure_to_the_eye(like):
    """Of two values that are normalized nothing is left for dx to be; such a case is smaller, and says nothing."""
    report = check(half_dx(getattr(npnorm, like)), examples=60)
    example = report.counterexample
    assert [comparison.quantity for comparison in example.comparisons] == ["dx"]
    assert max(abs(entry.expected) for entry in example.entries) > 0.05
    for entry in example.entries:
        assert entry.got == pytest.approx(entry.expected / 2)
    assert np.prod(example.case.shape) <= 8
    assert (example.case.dtype, example.case.options.get("eps")) == ("float64", 1e-5), "nothing unusual"


def test_smallest_case_is_the_same_each_time():
    first, second = (check(half_dx(npnorm.LayerNorm), examples=60, ndims=[2]) for _ in range(2))
    assert first.counterexample == second.counterexample


# --- the order of the tests -------------------------------------------------------------------------------------------


def test_what_says_why_comes_first(request):
    """In every worker; it is `conftest.py` that puts it there."""
    from tests import test_testing

    assert "first" in {mark.name for mark in test_testing.test_npnorm.pytestmark}
    first = [item.get_closest_marker("first") is not None for item in request.session.items]
    assert first == sorted(first, reverse=True)


def test_all_checks_of_a_layer_go_to_one_worker(pytestconfig):
    from xdist.scheduler import LoadScopeScheduling

    from tests import conftest

    scheduler = conftest.ByLayer.__new__(conftest.ByLayer)
    scheduler._others = {}
    assert isinstance(scheduler, LoadScopeScheduling)
    ids = ["GroupNorm-dx-float64-2D", "GroupNorm-random", "LayerNorm-y-float32-2D"]
    scopes = [scheduler._split_scope(f"tests/test_testing.py::test_npnorm[{id}]") for id in ids]
    assert scopes == ["tests/test_testing.py::test_npnorm[GroupNorm"] * 2 + [
        "tests/test_testing.py::test_npnorm[LayerNorm"
    ]
    others = [f"tests/test_a.py::test_b[{number}]" for number in range(20)]
    scopes = [scheduler._split_scope(nodeid) for nodeid in others]
    assert [scopes.count(scope) for scope in dict.fromkeys(scopes)] == [8, 8, 4]
    assert [scheduler._split_scope(nodeid) for nodeid in reversed(others)] == scopes[::-1], "whenever it is asked"
