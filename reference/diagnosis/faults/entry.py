"""What an entry of the dictionary is, and the few words in which changes to the formula are written.

A change to the formula is a mapping from the name of a step (see `reference.truth.exact`) to a function of the pass so
far and of the step's value. Knows no entry, and neither runs the formula nor looks at a layer.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reference.cases.case import Case
from reference.diagnosis.faults.formulas import of_kind
from reference.kinds import KINDS, Kind
from reference.truth.exact import QUANTITIES, STEPS, Change, Pass

Variant = Mapping[str, Change]

# The layers that an entry may apply to, by what they have in common.
ALL = tuple(KINDS)
CENTRED = tuple(name for name, kind in KINDS.items() if kind.centred)
ROWS = tuple(name for name, kind in KINDS.items() if kind.normalizes_features)
GROUP = ("GroupNorm",)
BATCH = ("BatchNorm",)
RMS = ("RMSNorm",)

CLASSES = ("mistake", "convention", "hazard")
# Trials that differ in one aspect from others, by what they tell.
EXPERIMENTS = (
    "eval mode",
    "memory layout",
    "precision",
    "large mean",
    "another layer alive",
    "half precision",
    "rounding",
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One known mistake.

    Attributes:
        id: its name. kind: "mistake"; "convention" where the layer is consistent in itself but not as torch is;
            "hazard" where it is right in ordinary use.
        summary: what is wrong, in a sentence. fix: how to fix it, in one.
        wrong, right: the two formulas, side by side, of the general layer: with a mean and a beta.
        formulas: the two for those kinds, by their names, where dropping what a kind has not does not make them.
        quantities: what it spoils first; consequences are found by the formula.
        layers: the layers it applies to.
        variants: the ways to make it, each a change to the formula. None where it is no change of numbers, and is
            recognised by what a layer does (writing into its input, returning float64...) in `reference.diagnosis`.
        forward: whether it changes the forward steps; a backward may then follow the change, or be its true
            derivative, or be the right one.
        stateful: whether it needs an earlier call to show; the formula is then run over all calls of a case.
        cached: whether it works on an earlier call's arrays, so that anything may come out, an exception too, where
            there was no earlier call or one of another size.
        told_by: the experiment that tells it where no formula does, one of `EXPERIMENTS`; "" where a formula does, or
            where the layer was seen to do it.
        absent: whether what it spoils may be None rather than a wrong number.
        writes: whether the layer writes into the caller's arrays, so that it raises where they are read-only.
        covers: the ids of what is then seen too, and is not told beside it.
        constant: a step that is a constant of the layer's own, to be seen in its numbers; the variants are made from it.
        where: in which cases the layer uses that constant; in all by default.
        ways: of a convention, how many of its variants, the first ones, are consistent in themselves and may be accepted.
        seen_in: where the same mistake was met in the world.

    Raises:
        ValueError: it names a step, a layer, a quantity or a class that there is not.
    """

    id: str
    kind: str = "mistake"
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
    told_by: str = ""
    absent: bool = False
    writes: bool = False
    covers: tuple[str, ...] = ()
    constant: str = ""
    where: Callable[[Case], bool] | None = None
    ways: int = 1
    seen_in: str = ""
    formulas: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._refuse_unknown("class", (self.kind,), CLASSES)
        self._refuse_unknown("layer", self.layers, KINDS)
        self._refuse_unknown("layer", self.formulas, self.layers)
        self._refuse_unknown("quantity", self.quantities, QUANTITIES)
        # A change to a step that is never computed would change nothing, and the entry would never be found.
        self._refuse_unknown("step", (step for variant in self.variants for step in variant), STEPS)
        self._refuse_unknown("step", (self.constant,) if self.constant else (), STEPS)

    def wrong_for(self, kind: Kind) -> str:
        """What the layer does, as a formula of its kind."""
        return self.formulas[kind.name][0] if kind.name in self.formulas else self._of_kind(self.wrong, kind)

    def right_for(self, kind: Kind) -> str:
        """What it should do, as a formula of its kind."""
        return self.formulas[kind.name][1] if kind.name in self.formulas else self._of_kind(self.right, kind)

    def fix_for(self, kind: Kind) -> str:
        """How to fix it in a layer of that kind."""
        return self._of_kind(self.fix, kind)

    def _of_kind(self, text: str, kind: Kind) -> str:
        # an entry for such kinds alone is about what they have not, and says so: a mean that is subtracted all the same
        return of_kind(text, kind) if any(KINDS[name].centred for name in self.layers) else text

    def _refuse_unknown(self, what: str, names: Iterable[str], known: Iterable[str]) -> None:
        known = tuple(known)
        for name in names:
            if name not in known:
                raise ValueError(f"{self.id}: Expected a {what} of {', '.join(known)} but got {name!r}")


@dataclass(frozen=True)
class Constant:
    """A change that puts a constant of the layer's own in the step's place, in the cases of `where`."""

    value: float
    where: Callable[[Case], bool] | None = None

    def __call__(self, p: Pass, own: Any) -> Any:
        return self.value if self.where is None or self.where(p.case) else own


def instead(value: Callable[[Pass], Any]) -> Change:
    """A change that puts something else in the step's place: value(pass)."""
    return lambda p, _: value(p)


def times(factor: Callable[[Pass], Any]) -> Change:
    """A change that multiplies the step's value by factor(pass)."""
    return lambda p, value: value * factor(p)
