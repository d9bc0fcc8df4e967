"""Forward and backward of npnorm's layers against torch eager: time of both, their ratio, and the memory of a step.

    pytest tests/benchmarks/test_layers_speed.py

float32, one thread on either side, and the processor time of that thread, which on a quiet machine is the time on the
clock. A round is a few steps of torch and then as many of npnorm, so that what else the machine does falls on both; the
figures are medians over the rounds, and the ratio is of the medians.

Memory is the peak of a layer's first step above what was there before, y still held in backward, in arrays of the size
of x: for npnorm by tracemalloc, for torch by summing the allocations and releases that its profiler reports ("-" where
that version does not report them one by one). For large arrays 3.0 is y, dx and what backward needs; for small ones it
is Python objects.

Why a large row may stay above 1. torch remembers x itself; npnorm must remember a copy, because the caller of a NumPy
layer may change x in place. Counted in arrays that move between the core and main memory, where a store reads the
line it writes to first (write = 2):

                     forward                      backward                        sum
    torch            x 1, y 2                     dy 1, x 1, dx 2                   7
    npnorm           x 1, copy 2, y 2             dy 1, copy 1, dx 2                9

and NumPy does one operation at a time, so that a tile is swept from the cache once an operation, while torch's loops do
their arithmetic as the numbers arrive: LayerNorm sweeps it 7 times forward and 8 times backward, GroupNorm of images 5
and 5, BatchNorm of images 5 and 6. A sweep takes 0.05 (a sum) to 0.14 ns a number where the tile is in a cache, and 0.1
(read) to 0.25 (written) more where the array comes from memory: for LayerNorm on (8, 512, 768) that is 1.3 for the
sweeps, 0.9 for memory and 0.2 for the calls, a few hundred, where torch takes 1.2 for all.

Why a small row may stay above 1. The arithmetic is nothing there, the calls are all: LayerNorm on (4, 8) takes about 20
NumPy operations forward and 16 backward, of 0.3 to 0.7 us each on a quiet machine, and half as much again in views,
checks and copies of parameters.
"""

import tracemalloc
from collections.abc import Callable
from math import prod
from statistics import geometric_mean, median
from time import thread_time
from typing import Any

import numpy as np
import pytest
import torch

import npnorm

TITLE = "float32, forward + backward, one thread: npnorm / torch"
SECONDS = 1.0  # to spend on a row, on both sides together

GRID: list[tuple[str, tuple[int, ...], int]] = [  # layer, shape of x, groups where it has groups
    *[
        (layer, shape, 0)
        for layer in ("LayerNorm", "RMSNorm")
        for shape in ((4, 8), (64, 256), (4096, 1024), (8, 512, 768))
    ],
    *[("BatchNorm", shape, 0) for shape in ((64, 256), (4096, 1024), (8, 16, 7, 7), (32, 64, 56, 56))],
    ("GroupNorm", (64, 256), 8),
    ("GroupNorm", (8, 16, 7, 7), 4),
    ("GroupNorm", (32, 64, 56, 56), 8),
    ("GroupNorm", (2, 512, 28, 28), 32),
]

Arrays = tuple[np.ndarray, np.ndarray]  # y and dx
Step = Callable[[], Arrays]
ratios: list[float] = []


def layers(name: str, shape: tuple[int, ...], groups: int) -> tuple[Any, torch.nn.Module]:
    """The layer of npnorm and that of torch.nn, with the same random parameters."""
    match name:
        case "GroupNorm":
            ours, theirs = npnorm.GroupNorm(groups, shape[1]), torch.nn.GroupNorm(groups, shape[1])
        case "BatchNorm":
            module = {2: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
            ours, theirs = npnorm.BatchNorm(shape[1]), module(shape[1])
        case _:
            ours, theirs = getattr(npnorm, name)(shape[-1]), getattr(torch.nn, name)(shape[-1])
    for ours_name, theirs_name in (("gamma", "weight"), ("beta", "bias")):
        parameter = getattr(theirs, theirs_name, None)
        if parameter is not None:
            value = np.random.default_rng(1).normal(size=tuple(parameter.shape)).astype(np.float32)
            setattr(ours, ours_name, value)
            parameter.data = torch.tensor(value)
    return ours, theirs


def steps(name: str, shape: tuple[int, ...], groups: int) -> tuple[Step, Step]:
    """A step of npnorm and a step of torch, on the same numbers."""
    ours, theirs = layers(name, shape, groups)
    x, dy = (np.random.default_rng(seed).normal(size=shape).astype(np.float32) for seed in (2, 3))
    their_x, their_dy = torch.tensor(x, requires_grad=True), torch.tensor(dy)
    wanted = [their_x, *theirs.parameters()]

    def our_step() -> Arrays:
        y = ours.forward(x)
        return y, ours.backward(dy)

    def their_step() -> Arrays:
        y = theirs(their_x)
        return y.detach().numpy(), torch.autograd.grad(y, wanted, their_dy)[0].numpy()

    return our_step, their_step


def peak_of_numpy(step: Step) -> int:
    """Bytes that a step had at its most, above those before it."""
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def peak_of_torch(step: Step) -> int | None:
    """The same by torch's profiler, None where it does not report its allocations one by one."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    results = getattr(profile.profiler, "kineto_results", None)
    changes = [event for event in results.events() if event.name() == "[memory]"] if results else []
    if not changes:
        return None
    now = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("name", "shape", "groups"), GRID, ids=lambda value: str(value).replace(" ", "") if value else "-"
)
@pytest.mark.benchmark(timer=thread_time)
@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_speed(benchmark: Any, report: Any, name: str, shape: tuple[int, ...], groups: int) -> None:
    our_step, their_step = steps(name, shape, groups)
    size = 4 * prod(shape)
    ours_peak, theirs_peak = peak_of_numpy(our_step), peak_of_torch(their_step)

    for ours, theirs in zip(our_step(), their_step(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    begin = thread_time()
    our_step()
    their_step()
    once = thread_time() - begin
    repeats = max(1, int(2e-3 / once))
    their_times = []

    def our_turn() -> None:
        for _ in range(repeats):
            our_step()

    def their_turn() -> None:
        begin = thread_time()
        for _ in range(repeats):
            their_step()
        their_times.append((thread_time() - begin) / repeats)

    rounds = min(400, max(15, int(SECONDS / (once * repeats))))
    benchmark.pedantic(our_turn, setup=their_turn, rounds=rounds)
    our_time, their_time = median(benchmark.stats.stats.data) / repeats, median(their_times)
    ratio = our_time / their_time
    ratios.append(ratio)
    benchmark.extra_info.update(npnorm_s=our_time, torch_s=their_time, ratio=ratio)

    if len(ratios) == 1:
        report(TITLE, f"{'':32} {'npnorm':>10} {'torch':>10} {'ratio':>6}   peak memory, in arrays of x's size")
    label = f"{name} {shape}" + (f", {groups} groups" if groups else "")
    times = f"{our_time * 1e6:8.0f}us {their_time * 1e6:8.0f}us {ratio:6.2f}"
    theirs_memory = "    -" if theirs_peak is None else f"{theirs_peak / size:5.2f}"
    report(TITLE, f"{label:32} {times}   npnorm {ours_peak / size:5.2f}   torch {theirs_memory}")


def test_geometric_mean(report: Any) -> None:
    if len(ratios) < len(GRID):
        pytest.skip("the geometric mean is of the whole table")
    report(TITLE, f"{'geometric mean':32} {'':21} {geometric_mean(ratios):6.2f}")
