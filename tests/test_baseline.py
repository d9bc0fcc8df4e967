"""`--baseline`: a layer that is within its tolerance and lost accuracy fails; the file is the same from run to run."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import npnorm
from reference import check
from reference.command.baseline import Baseline, rounded_up
from reference.command.main import main
from reference.kinds import KINDS
from reference.reporting.result import CheckResult, Figures

OURS = Path(__file__).parent / "npnorm.baseline.json"

ACCURATE = """\
import npnorm


class MyLayerNorm(npnorm.LayerNorm):
    pass
"""

# right, within every tolerance; but its mean is rounded where it is many deviations
PLAIN = """\
import numpy as np


class MyLayerNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.gamma, self.beta = np.ones(normalized_shape), np.zeros(normalized_shape)
        self.axes = tuple(range(-self.gamma.ndim, 0))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(axis=self.axes, keepdims=True)
        self.rstd = 1 / np.sqrt(x.var(axis=self.axes, keepdims=True) + self.eps)
        self.xhat = (x - mean) * self.rstd
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        others = tuple(range(dy.ndim - self.gamma.ndim))
        self.dgamma, self.dbeta = (dy * self.xhat).sum(axis=others), dy.sum(axis=others)
        d = dy * self.gamma
        projection = self.xhat * (d * self.xhat).mean(axis=self.axes, keepdims=True)
        return self.rstd * (d - d.mean(axis=self.axes, keepdims=True) - projection)
"""

SUBJECT = "my_layers.py:MyLayerNorm"
QUICK = [SUBJECT, "--ndims", "2", "--dtypes", "float64", "--examples", "0", "--baseline", "was.json"]


@pytest.fixture
def layers(tmp_path, monkeypatch):
    """The file of the layer, in the folder in which we are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "my_layers.py"
    path.write_text(ACCURATE)
    return path


def test_layer_that_loses_digits_fails_with_both_figures(layers, capsys):
    assert main([*QUICK, "--update-baseline"]) == 0
    first = Path("was.json").read_bytes()
    assert main([*QUICK, "--update-baseline"]) == 0
    assert Path("was.json").read_bytes() == first, "the same from run to run"
    assert main(QUICK) == 0
    layers.write_text(PLAIN)
    capsys.readouterr()
    assert main([*QUICK, "--json", "out.json"]) == 1
    out = capsys.readouterr().out
    lost = re.findall(r"^worse than its baseline: (\w+) is off by ([\d.e+]+) u, it was ([\d.]+) u$", out, flags=re.M)
    assert [name for name, _, _ in lost] == ["y", "dx", "dgamma", "dbeta"]
    assert all(float(now) > 1000 * float(was) for _, now, was in lost[:3])
    assert out.splitlines()[-1] == "FAIL  right, and worse than its baseline (y, dx, dgamma, dbeta)"
    (subject,) = json.loads(Path("out.json").read_text())["subjects"]
    assert not subject["passed"]
    assert (subject["faults"], len(subject["regressions"])) == ([], 4)
    assert main(QUICK[:-2]) == 0, "by its tolerance alone it is right"


def test_file_that_is_none_is_refused(layers, capsys):
    assert main(QUICK) == 2
    assert "Expected a baseline in was.json but there is none: --update-baseline writes it" in capsys.readouterr().err
    for text in ("{", "[]", '{"schema": 2, "subjects": {}}', '{"schema": 1, "subjects": {"a": {}}}',
                 '{"schema": 1, "subjects": {"a": {"examples": 1, "seed": "x", "quantities": {}}}}'):  # fmt: skip
        Path("was.json").write_text(text)
        assert main(QUICK) == 2
        assert "Expected was.json to be what --update-baseline writes but got" in capsys.readouterr().err
    assert main([SUBJECT, "--update-baseline"]) == 2
    assert "Expected --baseline FILE with --update-baseline but got none" in capsys.readouterr().err


def test_layer_without_a_record_is_not_held(layers, capsys):
    Path("was.json").write_text('{"schema": 1, "subjects": {}}')
    assert main(QUICK) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("PASS")
    assert f"{SUBJECT} has no record in was.json: --update-baseline adds it" in err


def report_of(**quantities):
    figures = {name: Figures(True, 1.0, 64.0, 1.0, cases, 0, error, 1.0) for name, (error, cases) in quantities.items()}
    return CheckResult("My", "LayerNorm", True, 100, 0, {}, figures, [], True, None)


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ((1.0, 100), (1.5, 100), ()),
        ((1.0, 100), (3.9, 100), ()),  # rounding may do that
        ((1.0, 100), (4.1, 100), ("y is off by 4.1 u, it was 1 u",)),
        ((5.0, 100), (9.9, 100), ()),  # another machine may do that
        ((5.0, 100), (10.1, 100), ("y is off by 10.1 u, it was 5 u",)),
        ((5.0, 100), (1.0, 95), ()),
        ((5.0, 100), (1.0, 80), ("y was compared in 80 cases, it was in 100",)),
    ],
)
def test_what_is_held(tmp_path, was, now, said):
    baseline = Baseline(tmp_path / "was.json", new=True)
    baseline.record(report_of(y=was), 200, 0)
    baseline.write()
    again = Baseline(tmp_path / "was.json")
    assert again.held(report_of(y=now), 200, 0) == said
    if now[1] != was[1]:
        assert again.held(report_of(y=now), 100, 0) == (), "another number of random cases is no loss"
        assert again.held(replace(report_of(y=now), incomplete="5 of 200"), 200, 0) == ()
    assert again.held(report_of(dx=now), 200, 0) == ("y is not there any more, which was compared in 100 cases",)


def test_layer_that_fails_is_not_recorded(layers, capsys):
    main([*QUICK, "--update-baseline"])
    first = Path("was.json").read_bytes()
    layers.write_text(PLAIN.replace("return self.rstd", "return 2 * self.rstd"))
    assert main([*QUICK, "--update-baseline", "--no-fix-search"]) == 1
    assert f"{SUBJECT} is not recorded: it fails" in capsys.readouterr().err
    assert Path("was.json").read_bytes() == first


@pytest.mark.parametrize(
    ("value", "up"),
    [(0.0, 0.0), (0.301, 0.31), (4.5, 4.5), (4.51, 4.6), (99.1, 100.0), (2391234.5, 2400000.0), (1.0000001, 1.1)],
)
def test_rounded_up(value, up):
    assert rounded_up(value) == up


@pytest.mark.parametrize("like", KINDS)
def test_npnorm_is_as_accurate_as_it_was(like):
    """In designed cases of one rank, which have errors about as large as any; `.ci/run` holds it in all others too."""
    report = check(getattr(npnorm, like), examples=0, ndims=[4])
    baseline = Baseline(OURS)
    assert report.passed, "of what is wrong the baseline says nothing"
    assert baseline.held(report, 0, 0) == ()
    for name, row in baseline.subjects[like]["quantities"].items():
        assert 0 < row["error"] <= 16, f"{name}: no more than any layer of ours may be off by"
