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
        expected: the ids that the diagnosis must give, all of them and nothing else: of mistakes and conventions of the
            dictionary, or "unknown" alone where it does not hold the mistake. Empty where the layer is right.
        quantities: all that may be found wrong, as "y" or "running_var". Empty where the layer is right, and where only
            what it starts from is another than in torch.
        note: how it is written, what is wrong, and when that shows.
        raises: its forward or backward raises in some case, and what comes after that is missing there: further
            quantities are found wrong.
        channels_last: it takes and gives (N, ..., C).
        hazards: the ids of what is right in ordinary use alone: listed beside the verdict, which passes all the same
            where nothing else is wrong. Of a right layer all of them, of a wrong one at least these.
    """

    layer: Callable[..., Any]
    kind: str
    expected: frozenset[str]
    quantities: frozenset[str]
    note: str = ""
    raises: bool = False
    channels_last: bool = False
    hazards: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The layer's, which no other row of its kind has."""
        return self.layer.__name__


def right(
    kind: str, layer: Callable[..., Any], note: str, *, channels_last: bool = False, hazards: str = ""
) -> Planted:
    """A row of a layer that is right, in ordinary use at least."""
    none: frozenset[str] = frozenset()
    return Planted(layer, kind, none, none, note, channels_last=channels_last, hazards=frozenset(hazards.split()))


def wrong(
    kind: str,
    layer: Callable[..., Any],
    expected: str,
    quantities: str,
    note: str,
    *,
    style: str = "",
    raises: bool = False,
    hazards: str = "",
) -> Planted:
    """A row of a layer whose mistakes have names; its note is what all rows of a style begin with, and its own."""
    ids, spoilt = frozenset(expected.split()), frozenset(quantities.split())
    return Planted(layer, kind, ids, spoilt, style + note, raises, hazards=frozenset(hazards.split()))


def unknown(kind: str, layer: Callable[..., Any], quantities: str, note: str) -> Planted:
    """A row of a layer whose mistake no dictionary holds."""
    return Planted(layer, kind, UNKNOWN, frozenset(quantities.split()), note)
