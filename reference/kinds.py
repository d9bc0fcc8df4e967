"""The five kinds of layer as data, one row each: the one place that tells them apart.

What differs from kind to kind is said here, by properties that the other modules ask for: which axes of x share a mean,
which a gamma, what the layer has, how torch calls it. Elsewhere a kind's name is shown to people, and never compared.
Knows names and shapes; must not know how a layer is computed, run or judged.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

# The roles that an axis of x can have. GroupNorm's channel axis is seen as two, the group and the channel within it.
BATCH, GROUP, CHANNEL, SPACE, ROW, FEATURE = "batch", "group", "channel", "space", "row", "feature"

Axes = tuple[tuple[int, ...], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of layer, as `torch.nn` has it.

    Attributes:
        name: torch's name, without the rank.
        required: the keywords without which it cannot be built; they follow from the shape of x.
        optional: the other keywords with torch's defaults, in torch's order.
        torch: the name of torch's module for an x of each rank that is tried.
        statistics: the roles of the axes over which a mean and a variance run.
        parameters: the roles of the axes along which gamma and beta lie.
        centred: whether the mean is subtracted.
        has_beta: whether there is a beta beside gamma.
        tracks: whether it has running statistics, and so a training and an eval mode.
        short: the word for it in a name that does not have the whole one, "bn_forward"; "" if there is none that is sure.
    """

    name: str
    required: tuple[str, ...]
    optional: Mapping[str, Any]
    torch: Mapping[int, str]
    statistics: frozenset[str]
    parameters: frozenset[str]
    centred: bool = True
    has_beta: bool = True
    tracks: bool = False
    short: str = ""

    def __repr__(self) -> str:
        return f"kind_named({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return kind_named, (self.name,)  # there is one of each in a process

    @property
    def keywords(self) -> tuple[str, ...]:
        """All of torch's keywords, the required ones first."""
        return (*self.required, *self.optional)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of x that are tried."""
        return tuple(self.torch)

    @property
    def normalizes_features(self) -> bool:
        """Whether it normalizes the last axes, as many as `normalized_shape` has, rather than channels."""
        return FEATURE in self.statistics

    @property
    def has_groups(self) -> bool:
        return GROUP in self.parameters

    @property
    def over_batch(self) -> bool:
        """Whether the samples of a batch share their statistics."""
        return BATCH in self.statistics

    @property
    def affine_keyword(self) -> str:
        """The keyword that says whether there is a gamma."""
        return "elementwise_affine" if "elementwise_affine" in self.optional else "affine"

    @property
    def quantities(self) -> tuple[str, ...]:
        """What there is to compare, in the order in which it is computed."""
        gradients = ("dx", "dgamma", "dbeta") if self.has_beta else ("dx", "dgamma")
        return ("y", *gradients, *(("running_mean", "running_var") if self.tracks else ()))

    def options_for(self, shape: Sequence[int], *, groups: int = 1, axes: int = 1) -> dict[str, Any]:
        """The required options for an x of `shape`: with so many groups, or so many normalized axes."""
        shape = tuple(shape)
        values = {
            "num_groups": groups,
            "num_channels": shape[1],
            "num_features": shape[1],
            "normalized_shape": shape[-1] if axes == 1 else shape[len(shape) - axes :],
        }
        return {keyword: values[keyword] for keyword in self.required}

    def parameter_shape(self, shape: Sequence[int], options: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape of gamma and beta, for an x of `shape`."""
        if not self.normalizes_features:
            return (shape[1],)
        normalized = options["normalized_shape"]
        return (normalized,) if isinstance(normalized, int) else tuple(normalized)

    def axes(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> Axes:
        """The shape in which the formula sees an x of `shape`, and the role of each axis of it."""
        if self.normalizes_features:
            features = len(self.parameter_shape(shape, options))
            return shape, (ROW,) * (len(shape) - features) + (FEATURE,) * features
        space = (SPACE,) * (len(shape) - 2)
        if self.has_groups:
            groups = options["num_groups"]
            return (shape[0], groups, shape[1] // groups, *shape[2:]), (BATCH, GROUP, CHANNEL, *space)
        return shape, (BATCH, CHANNEL, *space)

    def sharing(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> int:
        """How many numbers share a mean."""
        sizes, roles = self.axes(shape, options)
        return prod(size for size, role in zip(sizes, roles, strict=True) if role in self.statistics)


def _every_rank(module: str) -> dict[int, str]:
    return dict.fromkeys((2, 3, 4, 5), module)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="GroupNorm",
            required=("num_groups", "num_channels"),
            optional={"eps": 1e-5, "affine": True},
            torch=_every_rank("GroupNorm"),
            statistics=frozenset({CHANNEL, SPACE}),
            parameters=frozenset({GROUP, CHANNEL}),
            short="gn",
        ),
        Kind(
            name="LayerNorm",
            required=("normalized_shape",),
            optional={"eps": 1e-5, "elementwise_affine": True, "bias": True},
            torch=_every_rank("LayerNorm"),
            statistics=frozenset({FEATURE}),
            parameters=frozenset({FEATURE}),
            short="ln",
        ),
        Kind(
            name="RMSNorm",
            required=("normalized_shape",),
            optional={"eps": None, "elementwise_affine": True},
            torch=_every_rank("RMSNorm"),
            statistics=frozenset({FEATURE}),
            parameters=frozenset({FEATURE}),
            centred=False,
            has_beta=False,
            short="rms",
        ),
        Kind(
            name="BatchNorm",
            required=("num_features",),
            optional={"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True},
            torch={2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"},
            statistics=frozenset({BATCH, SPACE}),
            parameters=frozenset({CHANNEL}),
            tracks=True,
            short="bn",
        ),
        Kind(
            name="InstanceNorm",
            required=("num_features",),
            optional={"eps": 1e-5, "affine": False},
            torch={3: "InstanceNorm1d", 4: "InstanceNorm2d", 5: "InstanceNorm3d"},
            statistics=frozenset({SPACE}),
            parameters=frozenset({CHANNEL}),
        ),
    )
}


def kind_named(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in KINDS:
        raise ValueError(f"Expected like to be one of {tuple(KINDS)} but got {name!r}")
    return KINDS[name]


def kind_said(what: str, name: str, like: str | None) -> Kind:
    """The kind that `like` says, or else a name, which is the name of `what`.

    Raises:
        ValueError: there is no kind of that name, or the name does not tell.
    """
    kind = kind_in(name) if like is None else kind_named(like)
    if kind is None:
        raise ValueError(untold(f"the name of {what}", name))
    return kind


def untold(what: str, name: str) -> str:
    """What to say where a name does not tell the kind."""
    return f"Expected {what} to tell which layer it is but got {name!r}: say which with like (--like), one of {tuple(KINDS)}"


def kind_in(name: str) -> Kind | None:
    """The kind that a name says it is: "MyGroupNorm2d", "group_norm", "bn_forward"; None unless it is just one.

    RMSNorm is called RMSLayerNorm too, and is no LayerNorm.
    """
    flat = name.replace("_", "").lower().replace("rmslayernorm", "rmsnorm")
    words = {word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
    hits = [kind for kind in KINDS.values() if kind.name.lower() in flat or kind.short in words]
    return hits[0] if len(hits) == 1 else None
