"""A second opinion on a layer: torch itself, in double precision, on shapes and numbers that no probe has.

Shares with the verdict only how a layer is spoken to. For layers that were changed to pass the verdict.
"""

from typing import Any

import numpy as np

from reference.cases.case import Case, make
from reference.checks import probe
from reference.kinds import kind_named
from reference.subjects.in_process import InProcess
from reference.truth.torch_layers import LAYERS

SHAPES = ((9, 10), (4, 15), (3, 4, 9), (6, 12, 2), (2, 6, 5, 7), (5, 4, 3, 2), (2, 8, 2, 3, 5))
ROOM = 1e-7  # relative: far from rounding, near to no mistake


def disagreements(layer: Any, like: str, name: str = "layer") -> list[str]:
    """Where a layer does not do what torch does, one line each; at most a few."""
    kind = kind_named(like)
    subject, torch = InProcess(layer, kind, name), InProcess(LAYERS[kind.name], kind, "torch")
    scope = probe(subject).discovery.scope  # without the ranks that it is not made for
    if "float64" not in scope.dtypes:
        return []
    found: list[str] = []
    tried = 0
    for shape in SHAPES:
        for seed in (77_001, 77_002):
            for training in scope.modes if kind.tracks else (True,):
                case = make(kind, shape, groups=2 if shape[1] % 2 == 0 else 1, seed=seed, data="shifted")
                case = scope.fit(_in_mode(case, training))
                if scope.lacks(case):
                    continue
                tried += 1
                found += _compared(subject.observe(case), torch.run(case), case)
    return found[:5] if tried else ["nothing could be tried"]


def _in_mode(case: Case, training: bool) -> Case:
    from dataclasses import replace

    return replace(case, training=training, calls=1 if training else 2)


def _compared(seen: Any, wanted: Any, case: Case) -> list[str]:
    found = []
    for name, expected in wanted.outcome.items():
        if name in seen.problems:
            found.append(f"{name}: {seen.problems[name]} in {case}")
        elif name in seen.outcome:
            got = seen.outcome[name]
            size = np.abs(expected).max(initial=1e-3)
            if got.shape != expected.shape or not np.abs(got - expected).max(initial=0.0) <= ROOM * size:
                found.append(f"{name} in {case}")
    return found
