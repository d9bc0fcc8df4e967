"""One row of the corpus of planted layers: a layer, and what a verdict on it must say.

Knows nothing of `reference` or `npnorm`: the corpus judges the judge, so it shares no code with it. `right`, `wrong` and
`unknown` make a row from words apart by spaces. Their first argument is the layer's kind, so that a file of one kind
binds it once: `planted = partial(wrong, "GroupNorm", style="loops: ")`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

UNKNOWN = frozenset({"unknown"})


@dataclass(frozen=True)
class Planted:
    """A layer as a stranger would write it, with the truth about it.

    Attributes:
        layer: what is checked: a class, or a function that makes layers.
        kind: the layer that it is meant to be, "GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm" or "InstanceNorm".
        expected: the ids that the diagnosis must give, all of them and nothing else: of the dictionary of mistakes, or
            "unknown" alone where it does not hold the mistake. Empty where the layer is right.
        quantities: all that may be found wrong, as "y" or "running_var". Empty where the layer is right.
        note: how it is written, what is wrong, and when that shows.
        raises: its forward or backward raises in some case, and what comes after that is missing there: further
            quantities are found wrong.
        channels_last: it takes and gives (N, ..., C).
    """

    layer: Callable[..., Any]
    kind: str
    expected: frozenset[str]
    quantities: frozenset[str]
    note: str = ""
    raises: bool = False
    channels_last: bool = False

    @property
    def name(self) -> str:
        """The layer's, which no other row of its kind has."""
        return self.layer.__name__


def right(kind: str, layer: Callable[..., Any], note: str, *, channels_last: bool = False) -> Planted:
    """A row of a layer that is right."""
    return Planted(layer, kind, frozenset(), frozenset(), note, channels_last=channels_last)


def wrong(
    kind: str,
    layer: Callable[..., Any],
    expected: str,
    quantities: str,
    note: str,
    *,
    style: str = "",
    raises: bool = False,
) -> Planted:
    """A row of a layer whose mistakes have names; its note is what all rows of a style begin with, and its own."""
    return Planted(layer, kind, frozenset(expected.split()), frozenset(quantities.split()), style + note, raises)


def unknown(kind: str, layer: Callable[..., Any], quantities: str, note: str) -> Planted:
    """A row of a layer whose mistake no dictionary holds."""
    return Planted(layer, kind, UNKNOWN, frozenset(quantities.split()), note)
