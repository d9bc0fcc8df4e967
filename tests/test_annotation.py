"""What the lines of a layer hold, in the formula's words; nothing where nothing, or more than one thing, fits."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reference import check
from reference.cases.case import make
from reference.repair.annotation import annotated, said, vocabulary
from reference.reporting.result import Note
from reference.truth.exact import passes
from tests.test_repair import LAYER, Loader, changed, load

__all__ = ["load"]

STAGED = """\
import numpy as np


class LayerNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.gamma, self.beta = np.ones(normalized_shape), np.zeros(normalized_shape)
        self.axes, self.eps = tuple(range(-self.gamma.ndim, 0)), eps

    def forward(self, x):
        self.x = x.copy()
        self.mu = x.mean(axis=self.axes, keepdims=True)
        self.std = np.sqrt(x.var(axis=self.axes, keepdims=True) + self.eps)
        return self.gamma * (x - self.mu) / self.std + self.beta

    def backward(self, dy):
        lead = tuple(range(dy.ndim - self.gamma.ndim))
        centred, n = self.x - self.mu, self.gamma.size
        self.dbeta = dy.sum(axis=lead)
        self.dgamma = (dy * centred / self.std).sum(axis=lead)
        d = dy * self.gamma
        dvar = (d * centred).sum(axis=self.axes, keepdims=True) * -0.5 / self.std**3
        dmean = -(d / self.std).sum(axis=self.axes, keepdims=True)
        return d / self.std + dvar * 2 * centred / n + dmean
"""
QUICK = {"ndims": (2, 3), "dtypes": ("float64",), "examples": 0}


def notes(report_of: dict[int, str], text: str) -> Iterator[tuple[str, str]]:
    lines = text.splitlines()
    for line, note in sorted(report_of.items()):
        yield lines[line - 1].split(" = ")[0].strip(), note


def test_each_line_says_what_it_holds_and_the_first_that_departs(load: Loader) -> None:
    report = check(load(STAGED).LayerNorm, annotate=True, **QUICK)  # type: ignore[arg-type]
    found = dict(notes({note.line: note.text for note in report.notes_on_source}, STAGED))
    assert Path(report.annotated_file).name == "mine.py"
    assert found.pop("return self.gamma * (x - self.mu) / self.std + self.beta") == "y, right"
    assert found.pop("return d / self.std + dvar * 2 * centred / n + dmean") == "not dx: first departure is here"
    assert found == {
        "self.x": "x",
        "self.mu": "mean",
        "self.std": "std",
        "self.dbeta": "dbeta, right",
        "self.dgamma": "dgamma, right",
        "d": "dxhat, right",
        "dvar": "dvar, right",
        "dmean": "dmean, right",
    }


def test_a_factor_is_said(load: Loader) -> None:
    wrong = changed(STAGED, "        dmean = -(d", "        dmean = -2 * (d")
    report = check(load(wrong).LayerNorm, annotate=True, **QUICK)  # type: ignore[arg-type]
    assert "2 x dmean" in {note.text for note in report.notes_on_source}


def test_a_right_layer_has_no_notes(load: Loader) -> None:
    assert check(load(LAYER).LayerNorm, annotate=True, **QUICK).notes_on_source == ()  # type: ignore[arg-type]


def test_a_copy_for_the_eye_has_the_notes_behind_the_lines() -> None:
    assert annotated("a = 1\nb = 2\n", [Note(2, "std", False)]) == "a = 1\nb = 2  # std"


# --- saying what a value is -------------------------------------------------------------------------------------------

CASE = make("LayerNorm", (5, 7), seed=3)
PASS = passes(CASE)[-1]
WORDS = vocabulary(PASS, CASE)
COUNTS = {7.0: "n", 1 / 7: "1/n"}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (PASS.xhat, ("xhat", "")),
        (-PASS.xhat, ("xhat", "-")),
        (PASS.xhat.T.copy(), ("xhat", "")),
        (np.broadcast_to(PASS.var, (5, 7)), ("var", "")),
        (np.ravel(PASS.var), ("var", "")),
        (2 * PASS.var, ("var", "2 x ")),
        (7 * PASS.var, ("var", "n x ")),
        (1.1 * PASS.var, None),
        (PASS.xhat + 1e-5, None),
        (np.zeros((5, 7)), None),
        (np.ones(5), None),
        (np.array([3.0]), None),
        ("xhat", None),
        (np.full((5, 7), np.nan), None),
    ],
    ids=str,
)
def test_a_value_is_named_only_where_one_thing_fits(value: object, wanted: tuple[str, str] | None) -> None:
    held = np.asarray(value, dtype=np.float64) if isinstance(value, np.ndarray) else value
    assert said(held, WORDS, COUNTS) == wanted
