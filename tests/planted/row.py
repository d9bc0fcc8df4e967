"""One row of the corpus of planted layers: a layer, and what a verdict on it must say.

Knows nothing of `reference` or `npnorm`: the corpus judges the judge, so it shares no code with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Planted:
    """A layer as a stranger would write it, with the truth about it.

    `faults` are the ids a diagnosis must name: all of them, nothing else. It is empty where the layer is right
    (then `quantities` is empty too) and where its mistake is one that no dictionary holds.
    """

    layer: Callable[..., Any]
    like: str
    faults: frozenset[str]
    quantities: frozenset[str]
    note: str
