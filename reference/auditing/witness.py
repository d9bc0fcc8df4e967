"""What a user's tests do with a layer: the cases that they try it on, as far as these can be seen.

A class with a witness gives what it gave; beside each pass a case is written down that says the same in our words, so that the
restrictions of `blindness` can be held against what the tests really do. Runs in the processes of the tests, as a mistake of
`planting` does.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reference.auditing.planting import Address, Passes, Planted
from reference.cases.case import Array, Case
from reference.kinds import Kind

FIELDS = ("shape", "config", "dtype", "data", "layout", "affine_values", "training", "calls", "dy_data")
SMALL = 0.01  # a variance near which eps counts
CENTRED = 0.3  # deviations that the mean of data is at most from 0 that has none


class Witness(Planted):
    """A class whose passes are written down.

    Args:
        record: the file to add to, a line a case.
    """

    def __init__(self, owner: type, address: Address, record: str, note: Callable[[], None]) -> None:
        super().__init__(owner, address, {}, note)
        self._record, self._written = record, set[str]()

    def _after_forward(
        self, layer: Any, passes: Passes, x: Array, state: dict[str, Array], returned: Any, given: Mapping[str, Any]
    ) -> Any:
        contiguous = x.flags.c_contiguous
        x = np.moveaxis(x, -1, 1) if self.address.channels_last else x
        passes.calls += 1
        case = self._case(layer, passes, x, given)
        gamma, beta = self._parameters(layer, case)
        plain = (gamma is None or bool(np.all(gamma == 1))) and (beta is None or not np.any(beta))
        passes.case = replace(
            case,
            data=_data(x),
            layout="C" if contiguous else "transposed",
            affine_values="unit" if plain else "random",
            dy_data="ones",
            calls=passes.calls,
        )
        self._write(passes.case)
        return returned

    def _after_backward(
        self, layer: Any, passes: Passes, dy: Array, state: Any, returned: Any, given: Mapping[str, Any]
    ) -> Any:
        if passes.case is not None:
            constant = dy.size == 0 or bool(np.all(dy == dy.flat[0]))
            layout = passes.case.layout if dy.flags.c_contiguous else "transposed"
            self._write(replace(passes.case, dy_data="ones" if constant else "unit", layout=layout))
        return returned

    def _write(self, case: Case) -> None:
        line = json.dumps({field: getattr(case, field) for field in FIELDS}, default=float)
        if line not in self._written:
            self._written.add(line)
            with open(self._record, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def _data(x: Array) -> str:
    values = np.asarray(x, np.float64)
    mean, deviation = float(values.mean()), float(values.std())
    if deviation**2 < SMALL:
        return "small"
    return "unit" if abs(mean) <= CENTRED * deviation else "shifted"


def seen(record: Path, kind: Kind) -> list[Case]:
    """The cases that were written down; those alone that can be read."""
    found = []
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines() if record.exists() else ():
        try:
            said = json.loads(line)
            config = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in said.pop("config"))
            found.append(Case(kind, tuple(said.pop("shape")), config, **said))
        except (ValueError, TypeError, KeyError):
            continue
    return found
