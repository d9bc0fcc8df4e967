"""The text of a report: its parts in their order, and one small one in full, with figures that no machine changes."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

import npnorm
from reference import check
from reference.cases.case import make
from reference.diagnosis.named import NamedFault
from reference.reporting.headline import verdict_line
from reference.reporting.json_report import as_json, write_json
from reference.reporting.report import Report
from reference.reporting.result import Counterexample, Entry, Figures
from reference.reporting.text import WIDTH, as_text
from reference.truth.compare import Comparison

CASE = make("LayerNorm", (2, 3), seed=5)

HALVED = NamedFault(
    id="dx-halved",
    kind="mistake",
    quantities=("dx",),
    summary="dx is half of what it should be.",
    fix="Do not divide by 2.",
    evidence="reproduces all 12 probes, to 1.5 u",
    wrong="dx = rstd * (d - mean(d)) / 2",
    right="dx = rstd * (d - mean(d))",
)
BIASED = replace(HALVED, id="var-biased", kind="convention", quantities=("running_var",), wrong="", right="")
UNKNOWN = NamedFault(
    "unknown", "mistake", ("dx",), "No known mistake gives these numbers: dx wrong.", "", "wrong in 3 of 9 probes"
)

WRONG = Report(
    subject="MyLayerNorm",
    like="LayerNorm",
    passed=False,
    cases=120,
    seed=0,
    not_covered={"float16": "it gives no float16 for float16"},
    quantities={
        "y": Figures(passed=True, worst_error=2.5, tolerance=64.0, torch_error=3.25, cases=120, failed=0),
        "dx": Figures(passed=False, worst_error=4.5e15, tolerance=72.0, torch_error=2.0, cases=120, failed=90),
        "dgamma": Figures(
            passed=False,
            worst_error=float("inf"),
            tolerance=72.0,
            torch_error=None,
            cases=110,
            failed=1,
            largest_error=float("inf"),
            largest_torch_error=2.5,
        ),
    },
    faults=[HALVED],
    backward_is_derivative_of_forward=False,
    counterexample=Counterexample(
        case=CASE,
        comparisons=(Comparison("dx", 4.5e15, 72.0, (0, 1), 0.5, 1.0),),
        problems=("y: x was changed by forward",),
        entries=(Entry("dx", (0, 1), 0.5, 1.0, 4.5e15), Entry("dx", (1, 2), -0.125, -0.25, 1.25e15)),
        script="import numpy as np\n\nassert np.pi > 4, 'dx'",
    ),
    notes=("torch is off by 9 u",),
)
RIGHT = replace(
    WRONG, passed=True, faults=[], counterexample=None, notes=(), not_covered={}, backward_is_derivative_of_forward=True
)

SNAPSHOT = """\
MyLayerNorm as LayerNorm: 120 cases
quantity  verdict  worst error  tolerance  torch's      cases
y         ok             2.5 u       64 u   3.25 u        120
dx        WRONG      4.5e+15 u       72 u      2 u  90 of 120
dgamma    WRONG              -       72 u        -   1 of 110

cause: dx-halved (dx)
  dx is half of what it should be.
    here:   dx = rstd * (d - mean(d)) / 2
    right:  dx = rstd * (d - mean(d))
  evidence: reproduces all 12 probes, to 1.5 u
  fix: Do not divide by 2.

its backward is not the derivative of its own forward

smallest failing case
  LayerNorm(normalized_shape=3), x (2, 3) float64, unit data, seed 5
  y: x was changed by forward
  quantity  index      got  should be       error
  dx        (0, 1)     0.5          1   4.5e+15 u
  dx        (1, 2)  -0.125      -0.25  1.25e+15 u

not covered: float16 (it gives no float16 for float16)
note: torch is off by 9 u

more: report.counterexample.script, a program that shows it; report.text(verbose=True), everything

FAIL  dx-halved (dx, dgamma wrong)"""

VERBOSE = """\
smallest failing case
  LayerNorm(normalized_shape=3), x (2, 3) float64, unit data, seed 5
  dx: got 0.5, expected 1.0 at index (0, 1): error 4.5e+15 u, tolerance 72 u
  y: x was changed by forward
  quantity  index      got  should be       error
  dx        (0, 1)     0.5          1   4.5e+15 u
  dx        (1, 2)  -0.125      -0.25  1.25e+15 u

not covered: float16 (it gives no float16 for float16)
note: torch is off by 9 u

to see it with numpy and torch alone
import numpy as np

assert np.pi > 4, 'dx'

FAIL  dx-halved (dx, dgamma wrong)"""


def test_whole_report_of_a_wrong_layer():
    assert str(WRONG) == SNAPSHOT


def test_verbose_report_leaves_nothing_out():
    text = WRONG.text(verbose=True)
    start = "smallest failing case"
    assert text == SNAPSHOT[: SNAPSHOT.index(start)] + VERBOSE


def test_whole_report_of_a_right_layer():
    assert str(replace(RIGHT, quantities={"y": WRONG.quantities["y"]})) == (
        "MyLayerNorm as LayerNorm: 120 cases\n"
        "quantity  verdict  worst error  tolerance  torch's  cases\n"
        "y         ok             2.5 u       64 u   3.25 u    120\n"
        "PASS  all agrees with torch.nn, within rounding"
    )


# --- one thing at a time ----------------------------------------------------------------------------------------------


def test_name_is_not_said_twice():
    assert str(replace(RIGHT, subject="LayerNorm")).startswith("LayerNorm: 120 cases\n")


def test_pass_with_something_not_covered_says_so():
    text = str(replace(RIGHT, not_covered=WRONG.not_covered))
    assert text.endswith(
        "not covered: float16 (it gives no float16 for float16)\n\n"
        "PASS  all of what could be tried agrees with torch.nn, within rounding"
    )


def test_convention_is_said_apart_from_a_mistake():
    alone = str(replace(WRONG, faults=[BIASED]))
    assert "FAIL  differs from torch by convention: var-biased (dx, dgamma wrong)" in alone
    assert "\nconvention: var-biased (running_var)\n" in alone
    assert "cause:" not in alone
    both = str(replace(WRONG, faults=[HALVED, BIASED]))
    assert "FAIL  dx-halved and var-biased (dx, dgamma wrong)" in both
    assert re.search(r"\ncause: dx-halved \(dx\)\n.*\nconvention: var-biased \(running_var\)\n", both, flags=re.S)


def test_verdict_in_one_line():
    assert verdict_line(WRONG) == "MyLayerNorm dx: dx-halved"
    assert verdict_line(WRONG, 24) == "MyLayerNorm dx: dx-halved, line 24"
    both = replace(WRONG, faults=[HALVED, replace(HALVED, id="dx-other"), BIASED])
    assert verdict_line(both) == "MyLayerNorm dx: dx-halved and dx-other; running_var: var-biased (convention)"
    assert verdict_line(both, faults=[BIASED]) == "MyLayerNorm running_var: var-biased (convention)"
    assert (
        verdict_line(replace(WRONG, faults=[replace(BIASED, quantities=())])) == "MyLayerNorm: var-biased (convention)"
    )
    assert verdict_line(RIGHT) == "MyLayerNorm: all agrees with torch.nn, within rounding"


def test_unknown_is_said_as_such():
    text = str(replace(WRONG, faults=[UNKNOWN]))
    assert "FAIL  unknown (dx, dgamma wrong)" in text
    assert (
        "\ncause: unknown (dx)\n  No known mistake gives these numbers: dx wrong.\n  evidence: wrong in 3 of 9 probes\n"
        in text
    )
    assert "fix:" not in text
    assert "here:" not in text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (True, "its backward is the derivative of its own forward: the forward is not this normalization"),
        (False, "its backward is not the derivative of its own forward"),
        (None, ""),
    ],
)
def test_which_half_is_wrong(answer, words):
    quantities = WRONG.quantities | {"y": replace(WRONG.quantities["dx"])}
    text = str(replace(WRONG, quantities=quantities, backward_is_derivative_of_forward=answer))
    assert (words in text) if words else ("its backward" not in text)


def test_the_forward_is_not_called_wrong_where_y_is_right():
    assert "its backward" not in str(replace(WRONG, backward_is_derivative_of_forward=True))


def test_alternatives_are_of_one_cause():
    text = str(replace(WRONG, faults=[replace(HALVED, alternatives=("dx-b", "dx-c with dx-d"))]))
    assert "FAIL  dx-halved (" in text
    assert "\n  or: dx-b, or dx-c with dx-d, which would give the same numbers\n  evidence:" in text


def test_accepted_conventions_are_said():
    assert "\naccepted: momentum-inverted, running-var-biased\n" in str(
        replace(WRONG, accepted=("momentum-inverted", "running-var-biased"))
    )
    assert "accepted" not in str(WRONG)


def test_markup_of_a_stranger_is_text():
    """Names and messages come from outside; nothing in them is taken for a colour."""
    example = replace(WRONG.counterexample, problems=("y: raised ValueError: [bold]x[/oops] [red]",))
    text = str(replace(WRONG, subject="[blue]Norm[/blue]", counterexample=example))
    assert text.startswith("[blue]Norm[/blue] as LayerNorm")
    assert "y: raised ValueError: [bold]x[/oops] [red]" in text


def test_script_is_never_wrapped():
    line = "x = [" + ", ".join(map(str, range(100))) + "]"
    text = as_text(replace(WRONG, counterexample=replace(WRONG.counterexample, script=line)), 50, verbose=True)
    assert f"\n{line}\n" in text


@pytest.mark.parametrize("width", [48, 60, 71, 72, 100])
def test_fits_the_width(width):
    text = as_text(WRONG, width)
    assert max(map(len, text.splitlines())) <= width
    assert ("torch's  " in text) == (width >= 72)
    assert "\x1b" not in text
    assert not re.search(r" $", text, flags=re.M)


# --- from a check -----------------------------------------------------------------------------------------------------

PARTS = (
    r"^MyLayerNorm as LayerNorm: \d+ cases$",
    r"^quantity  verdict  worst error +tolerance +torch's +cases$",
    r"^dgamma +WRONG .* \d+ of \d+$",
    r"^cause: dgamma-uses-x \(dgamma\)$",
    r"^  dgamma is made with x where it should be xhat\.$",
    r"^    here:   dgamma = sum\(dy \* x\)$",
    r"^    right:  dgamma = sum\(dy \* xhat\) over all axes but gamma's$",
    r"^  evidence: reproduces all \d+ probes, to \S+ u$",
    r"^  fix: Multiply dy by the normalized input\.$",
    r"^its backward is not the derivative of its own forward$",
    r"^smallest failing case$",
    r"^  LayerNorm\(.*normalized_shape=\d+\), x \(.*\) float64, .* data, seed \d+$",
    r"^  quantity  index +got +should be +error$",
    r"^  dgamma    \(\d+,\) ",
    r"^more: ",
    r"^FAIL  dgamma-uses-x \(dgamma wrong\)\Z",
)


class MyLayerNorm(npnorm.LayerNorm):
    def forward(self, x):
        self.x = x.copy()
        return super().forward(x)

    def backward(self, dy):
        dx = super().backward(dy)
        if self.dgamma is not None:
            leading = tuple(range(dy.ndim - self.gamma.ndim))
            self.dgamma = (dy.astype(float) * self.x).sum(leading).astype(self.gamma.dtype)
        return dx


def test_parts_come_in_their_order():
    report = check(MyLayerNorm, examples=20)
    text, place = str(report), 0
    for part in PARTS:
        found = re.compile(part, flags=re.M).search(text, place)
        assert found, f"no {part} after {text[:place].splitlines()[-1:]} in\n{text}"
        place = found.end()
    entries = [entry.error for entry in report.counterexample.entries]
    assert entries == sorted(entries, reverse=True)


def test_unknown_mistake_has_quantities_conditions_and_coefficients():
    class OddLayerNorm(npnorm.LayerNorm):
        """The projection term of dx is taken 1.25 times, where x is 4D."""

        def forward(self, x):
            y = super().forward(x)
            axes = tuple(range(x.ndim - len(self.parameter_shape), x.ndim))
            centred = x - x.mean(axes, keepdims=True)
            self.rstd = 1 / np.sqrt((centred**2).mean(axes, keepdims=True) + self.eps)
            self.xhat, self.axes = centred * self.rstd, axes
            return y

        def backward(self, dy):
            dx = super().backward(dy)
            if dy.ndim != 4:
                return dx
            d = dy if self.gamma is None else self.gamma * dy
            extra = self.rstd * self.xhat * (d * self.xhat).mean(self.axes, keepdims=True) / 4
            return (dx - extra).astype(dx.dtype)

    report = check(OddLayerNorm, examples=0)
    (fault,) = report.faults
    assert (fault.id, fault.quantities) == ("unknown", ("dx",))
    assert re.match(r"wrong in \d+ of \d+ probes; only in 4D", fault.evidence)
    terms = re.search(
        r"each 1 when right: d (\S+), mean term (\S+), projection term (\S+) \(unexplained 0.0%\)", fault.evidence
    )
    assert [float(term) for term in terms.groups()] == pytest.approx([1, 1, 1.25], abs=1e-3)
    words = " ".join(str(report).split())
    assert "cause: unknown (dx) No known mistake gives these numbers: dx wrong. evidence: wrong in" in words
    assert "mean term 1, projection term 1.25" in words


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_of_a_report():
    content = as_json([WRONG, RIGHT], 7, {"numpy": "2.0", "torch": "2.5"})
    assert list(content) == ["schema", "numpy", "torch", "seed", "subjects", "refused"]
    wrong, right = json.loads(json.dumps(content, allow_nan=False))["subjects"]
    assert wrong["quantities"]["dx"] == {
        "passed": False, "worst_error": 4.5e15, "tolerance": 72.0, "torch_error": 2.0, "cases": 120, "failed": 90,
        "largest_error": 0.0, "largest_torch_error": 0.0,
    }  # fmt: skip
    dgamma = wrong["quantities"]["dgamma"]
    assert (dgamma["worst_error"], dgamma["torch_error"]) == (sys.float_info.max, None)
    assert wrong["faults"] == [
        {
            "id": "dx-halved", "class": "mistake", "quantities": ["dx"], "summary": HALVED.summary, "fix": HALVED.fix,
            "evidence": HALVED.evidence, "alternatives": [],
        }
    ]  # fmt: skip
    example = wrong["counterexample"]
    assert (example["case"], example["shape"], example["config"]) == (str(CASE), [2, 3], {"normalized_shape": 3})
    assert example["messages"] == [str(WRONG.counterexample.comparisons[0]), "y: x was changed by forward"]
    assert example["script"] == WRONG.counterexample.script
    assert right["counterexample"] is None
    assert wrong["notes"] == ["torch is off by 9 u"]


def test_no_number_is_no_json_and_leaves_the_older_file(tmp_path):
    (tmp_path / "out.json").write_text("older")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "out.json", {"worst_error": float("nan")})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


def test_text_is_of_the_width_that_it_says():
    assert WIDTH == 100
    long = replace(WRONG, faults=[replace(HALVED, summary="word " * 60)])
    assert 90 < max(map(len, str(long).splitlines())) <= WIDTH
