"""How fast a verdict is: `reference.check` beside `torch.autograd.gradcheck`, and the diagnosis of a wrong layer.

    pytest tests/benchmarks/test_check_speed.py

gradcheck is what a user would take instead: it differences one case of one layer and says yes or no. "one case" is that
case alone, run, compared with the exact values and with torch. All in one process, one thread.
"""

from statistics import median
from time import perf_counter
from typing import Any

import pytest
import torch

import npnorm
from reference import check
from reference.cases.case import Case, make
from reference.kinds import KINDS
from reference.subjects.subject import Subject
from reference.truth.convention import Convention
from reference.truth.verdict import judge
from tests.planted.wrong.layer_norm.closures import ROWS

TITLE = "one thread: the time of a verdict"
CASE = make("GroupNorm", (3, 6, 4, 5), groups=2, seed=4)


def seconds(run: Any, rounds: int) -> float:
    """The median time of a call."""
    times = []
    for _ in range(rounds):
        begin = perf_counter()
        run()
        times.append(perf_counter() - begin)
    return median(times)


def judge_once(case: Case) -> None:
    """A case with nothing remembered of it."""
    assert not judge(Subject(npnorm.GroupNorm, KINDS["GroupNorm"], "GroupNorm"), case, Convention()).failed


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
def test_gradcheck(report: Any, fast: bool) -> None:
    module = torch.nn.GroupNorm(2, 6).double()
    x = torch.tensor(CASE.arrays().x, requires_grad=True)
    inputs = (x, module.weight, module.bias)

    def run() -> None:
        def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.group_norm(x, 2, weight, bias)

        assert torch.autograd.gradcheck(forward, inputs, fast_mode=fast)

    report(TITLE, f"{'gradcheck, ' + ('fast' if fast else 'slow'):32} {seconds(run, 5) * 1e3:10.2f} ms")


def test_one_case(report: Any) -> None:
    report(TITLE, f"{'one case':32} {seconds(lambda: judge_once(CASE), 50) * 1e3:10.2f} ms")


def test_whole_check(report: Any) -> None:
    reports = []
    time = seconds(lambda: reports.append(check(npnorm.GroupNorm, examples=1000)), 3)
    cases = reports[-1].cases
    report(TITLE, f"{f'check, {cases} cases':32} {time * 1e3:10.2f} ms, {cases / time:.0f} cases a second")


def test_wrong_layer(report: Any) -> None:
    row = next(row for row in ROWS if row.expected)
    time = seconds(lambda: check(row.layer, row.kind, minimize=False), 3)
    report(TITLE, f"{'a wrong LayerNorm, named':32} {time * 1e3:10.2f} ms")
