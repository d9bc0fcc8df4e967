"""What an entry of the dictionary is, and the few words in which changes to the formula are written.

A change to the formula is a mapping from the name of a step (see `reference.exact`) to a function of the pass so far
and of the step's value. Knows no entry, and neither runs the formula nor looks at a layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Variant = Mapping[str, Callable[[Any, Any], Any]]

ALL = ("GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm")
CENTRED = ("GroupNorm", "LayerNorm", "BatchNorm", "InstanceNorm")
GROUP = ("GroupNorm",)
BATCH = ("BatchNorm",)
ROWS = ("LayerNorm", "RMSNorm")

# Trials that differ in one aspect from others, by what they tell.
EXPERIMENTS = ("eval mode", "x overwritten", "memory layout", "precision")


@dataclass(frozen=True)
class Fault:
    """One known mistake.

    Attributes:
        id: its name. kind: "mistake", or "convention" where the layer is consistent in itself but not as torch is.
        summary: what is wrong, in a sentence. fix: how to fix it, in one.
        wrong, right: the two formulas, side by side.
        quantities: what it spoils first; consequences are found by the formula.
        layers: the layers it applies to.
        variants: the ways to make it, each a change to the formula. None where it is no change of numbers, and is
            recognised by what a layer does (writing into its input, returning float64...) or by an experiment.
        forward: whether it changes the forward steps; a backward may then follow the change, or be its true
            derivative, or be the right one.
        stateful: whether it needs an earlier call to show; the formula is then run over all calls of a case.
        cached: whether it works on an earlier call's arrays, so that anything may come out, an exception too, where
            there was no earlier call or one of another size.
        constant: a step that is a constant of the layer's own, to be seen in its numbers; the variants are made from it.
        told_by: the experiment that tells it where no formula does, one of `EXPERIMENTS`; "" where a formula does, or
            where the layer was seen to do it.
        writes: whether the layer writes where the caller's numbers lie, so that trials in which it could not, or in
            which the caller wrote there himself, say nothing more.
        covers: the ids of what is then seen too, and is not told beside it.
        absent: whether what it spoils may be None rather than a wrong number.
        seen_in: where the same mistake was met in the world.
    """

    id: str
    kind: str
    summary: str
    fix: str
    wrong: str
    right: str
    quantities: tuple[str, ...]
    layers: tuple[str, ...] = ALL
    variants: tuple[Variant, ...] = ()
    forward: bool = False
    stateful: bool = False
    cached: bool = False
    constant: str = ""
    told_by: str = ""
    writes: bool = False
    covers: tuple[str, ...] = ()
    absent: bool = False
    seen_in: str = ""


@dataclass(frozen=True)
class Constant:
    """A change that puts a constant of the layer's own in the step's place."""

    value: float

    def __call__(self, p: Any, own: Any) -> Any:
        return self.value


def instead(value: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """A change that puts something else in the step's place: value(pass)."""
    return lambda p, _: value(p)


def times(factor: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """A change that multiplies the step's value by factor(pass)."""
    return lambda p, value: value * factor(p)
