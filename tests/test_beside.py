"""What torch gives beside a layer: its own numbers, measured once, and the same from memory in a later run."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import npnorm
from reference import check
from reference.cases.case import make
from reference.cases.random_cases import Chosen, random_case
from reference.cases.scope import Scope
from reference.kinds import KINDS, kind_named
from reference.subjects.subject import Subject
from reference.truth import beside, exact, remembered, torch_layers
from reference.truth.beside import outcome_of_torch, torch_errors
from reference.truth.convention import TORCH
from reference.truth.remembered import Memory, kept_in, usual_folder

CASE = make("LayerNorm", (3, 5), dtype="float32", data="offset 1e4")
TRUTH = exact.truth(CASE)


@pytest.mark.parametrize("like", KINDS)
def test_what_is_left_out_makes_no_difference(like: str) -> None:
    """Of the calls before the last those that leave nothing behind: all of them, as any layer runs them, give the same."""
    kind, choose = kind_named(like), Chosen(random.Random(4))
    whole = Subject(torch_layers.LAYERS[like], kind, like)
    for case in (random_case(Scope.full(kind), choose) for _ in range(60)):
        asked, expected = outcome_of_torch(case), whole.run(case).outcome
        assert asked.keys() == expected.keys(), case
        for name, array in expected.items():
            np.testing.assert_array_equal(asked[name], array, str(case))


def test_torchs_sums_in_float16_are_told() -> None:
    """Its LayerNorm on the CPU adds up beta's gradient in float16: of 8192 positive numbers hundreds of roundoffs are lost.

    The error is measured here against a sum without rounding; a torch that fixes it passes, and so does this test.
    """
    case = make("LayerNorm", (8192, 4), dtype="float16", dy_data="positive", seed=11)
    (x, dy), layer = case.arrays(), torch.nn.LayerNorm(4, dtype=torch.float16)
    layer(torch.tensor(x)).backward(torch.tensor(dy))
    sums = np.array([math.fsum(column) for column in dy.T.astype(np.float64)])
    assert layer.bias.grad is not None
    error = np.max(np.abs(layer.bias.grad.double().numpy() - sums) / sums) / 2**-11

    found = TORCH.expected(case).torch_errors["dbeta"]
    assert found == pytest.approx(error, rel=0.1)
    passes = check(torch_layers.LAYERS["LayerNorm"], examples=0, dtypes=["float16"], ndims=[2]).passed
    assert passes, "it is torch itself"
    mine = check(npnorm.LayerNorm, examples=0, dtypes=["float16"])
    assert mine.quantities["dbeta"].worst_error < 1


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The cases in which torch runs."""
    seen: list[object] = []
    whole = beside.outcome_of_torch
    monkeypatch.setattr(beside, "outcome_of_torch", lambda case: [seen.append(case), whole(case)][1])
    return seen


def errors_in(folder: Path | None) -> dict[str, float]:
    with kept_in(folder):
        return torch_errors(CASE, TRUTH)


def test_what_was_measured_is_not_measured_again(tmp_path: Path, measured: list[object]) -> None:
    first = errors_in(tmp_path / "some" / "where")
    assert first.keys() == {"y", "dx", "dgamma", "dbeta"}
    assert first["y"] > 100, "torch loses digits at a mean of 10,000"
    assert errors_in(tmp_path / "some" / "where") == first
    assert measured == [CASE]
    with kept_in(tmp_path / "some" / "where"):
        torch_errors(make("LayerNorm", (3, 5), dtype="float32", data="offset 1e4", seed=1), TRUTH)
    assert len(measured) == 2, "another case"
    assert errors_in(tmp_path / "elsewhere") == errors_in(None) == first
    assert len(measured) == 4


SPOILT: dict[str, Callable[[str], str]] = {
    "half of it": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "of another torch or machine": lambda text: text.replace(remembered._stamp(), "0" * 64),
    "no object": lambda text: "[1, 2]",
    "no cases": lambda text: json.dumps({"of": remembered._stamp(), "errors": 3}),
    "no figures": lambda text: json.dumps(
        {"of": remembered._stamp(), "errors": {remembered._key(CASE): {"y": "much"}}}
    ),
    "negative figures": lambda text: json.dumps(
        {"of": remembered._stamp(), "errors": {remembered._key(CASE): {"y": -1.0}}}
    ),
    "nested without end": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_file_of_no_use_is_made_anew(tmp_path: Path, measured: list[object], spoil: Callable[[str], str]) -> None:
    right = errors_in(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(spoil(path.read_text()))
    assert errors_in(tmp_path) == right
    assert len(measured) == 2
    assert errors_in(tmp_path) == right
    assert len(measured) == 2, "and is of use again"
    assert list(tmp_path.iterdir()) == [path], "nothing else is left there"


def test_a_folder_that_cannot_be_made_is_as_good_as_none(tmp_path: Path, measured: list[object]) -> None:
    (tmp_path / "file").touch()
    assert errors_in(tmp_path / "file") == errors_in(tmp_path / "file" / "folder")
    assert len(measured) == 2


def test_what_is_kept_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "NEW", 3)
    monkeypatch.setattr(remembered, "MOST", 5)

    def run(seeds: range) -> list[bool]:
        with kept_in(tmp_path) as memory:
            assert isinstance(memory, Memory)
            cases = [make("RMSNorm", (2, 3), seed=seed) for seed in seeds]
            known = [memory.recalled(case) is not None for case in cases]
            for case, is_known in zip(cases, known, strict=True):
                if not is_known:
                    memory.keep(case, {"y": 1.0})
        return known

    assert run(range(9)) == [False] * 9
    assert run(range(2, 9)) == [True] + [False] * 6, "three of a run"
    assert run(range(7)) == [False, True, True, True, True, True, False], "five in all, the oldest not among them"


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NORMCHECK_CACHE", str(tmp_path))
    assert usual_folder() == tmp_path
    monkeypatch.setenv("NORMCHECK_CACHE", "")
    assert usual_folder() is None
    monkeypatch.delenv("NORMCHECK_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert usual_folder() == tmp_path / "normcheck"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert usual_folder() == Path("/home/somebody/.cache/normcheck")


def test_second_run_says_the_same_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a report depends on whether torch was there."""
    monkeypatch.setenv("NORMCHECK_CACHE", str(tmp_path / "kept"))
    program = (
        "import sys\nfrom reference.command.main import main\n"
        "code = main(['npnorm:RMSNorm', '--ndims', '2', '--verbose'])\n"
        "print(code, 'torch' in sys.modules)"
    )

    def run() -> tuple[list[str], str]:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )  # fmt: skip
        *report, last = done.stdout.splitlines()
        return report, last

    first, told = run()
    assert told == "0 True"
    assert run() == (first, "0 False")
