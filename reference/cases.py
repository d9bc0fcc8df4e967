"""What a layer is tried on: one frozen `Case`, the arrays it stands for, and the Hypothesis strategies that draw cases.

A case holds all it takes to do a trial again, and makes its arrays only on demand, so that it prints in one line,
compares, hashes, and shrinks fast. This module knows the layers' options and shapes as torch names them; it must not
know how a layer is computed, run or judged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[Any]

LIKES = ("GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm")
DTYPES = ("float64", "float32", "float16")

KEYWORDS = {  # torch's names; the first ones are required
    "GroupNorm": ("num_groups", "num_channels", "eps", "affine"),
    "LayerNorm": ("normalized_shape", "eps", "elementwise_affine", "bias"),
    "RMSNorm": ("normalized_shape", "eps", "elementwise_affine"),
    "BatchNorm": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "InstanceNorm": ("num_features", "eps", "affine"),
}
REQUIRED = {
    "GroupNorm": ("num_groups", "num_channels"),
    "LayerNorm": ("normalized_shape",),
    "RMSNorm": ("normalized_shape",),
    "BatchNorm": ("num_features",),
    "InstanceNorm": ("num_features",),
}
RANKS = {
    "GroupNorm": (2, 3, 4, 5),
    "LayerNorm": (2, 3, 4, 5),
    "RMSNorm": (2, 3, 4, 5),
    "BatchNorm": (2, 3, 4, 5),
    "InstanceNorm": (3, 4, 5),
}
DEFAULT_EPS = {"GroupNorm": 1e-5, "LayerNorm": 1e-5, "RMSNorm": None, "BatchNorm": 1e-5, "InstanceNorm": 1e-5}

DATA = ("unit", "shifted", "integers", "small", "constant", "tiny", "large", "offset 1e2", "offset 1e4", "offset 1e6")
LAYOUTS = ("C", "read-only", "F", "strided", "flipped", "transposed", "sliced")
AFFINE_VALUES = ("random", "uniform", "unit", "some zero")

# Magnitudes whose squares, cubes and inverse cubes a dtype still holds: a layer may form any of them.
LARGE = {"float64": 1e60, "float32": 1e6, "float16": 8.0}
TINY = {"float64": 1e-20, "float32": 1e-10, "float16": 2.0**-8}
OFFSETS = {"offset 1e2": 1e2, "offset 1e4": 1e4, "offset 1e6": 1e6}


class Arrays(NamedTuple):
    """The arrays of one call."""

    x: Array
    dy: Array


@dataclass(frozen=True)
class Case:
    """One trial of a layer.

    Attributes:
        like: the layer, one of `LIKES`.
        shape: of x in the call that is judged, the last.
        config: the torch-named options, as sorted pairs; `options` is the same as a dict.
        dtype: of x, dy, gamma and beta.
        data: the recipe of x, one of `DATA` (or "nan": one entry is not a number).
        seed: of all random numbers.
        layout, dy_layout: how x and dy lie in memory, of `LAYOUTS`.
        affine_values: the recipe of gamma and beta, of `AFFINE_VALUES`. "unit" (1 and 0) hides mistakes, and is here to
            tell which ones it hides.
        training: the mode of the last call; the calls before it are in training mode. Only BatchNorm cares.
        calls: how many forward and backward passes one object makes; those before the last have other data.
        resize: whether every second call before the last has another batch size.
        history: how the calls before the last are made: "" in full, "forward only" without their backward, "refilled" with
            one and the same array for every x, "eval between" with every second one in eval mode.
        overwrite: what the caller changes in place between forward and backward: "x", "y" or nothing.
    """

    like: str
    shape: tuple[int, ...]
    config: tuple[tuple[str, Any], ...]
    dtype: str = "float64"
    data: str = "unit"
    seed: int = 0
    layout: str = "C"
    dy_layout: str = "C"
    affine_values: str = "random"
    training: bool = True
    calls: int = 1
    resize: bool = False
    history: str = ""
    overwrite: str = ""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.config)

    @property
    def computing_dtype(self) -> np.dtype:
        """What torch and npnorm compute in: float32 for float16."""
        return np.result_type(self.dtype, np.float32)

    @property
    def eps(self) -> float:
        """The number that is added to the variance."""
        eps = self.options.get("eps", DEFAULT_EPS[self.like])
        if eps is None:  # torch: the machine epsilon of the dtype that RMSNorm computes in
            eps = np.finfo(self.computing_dtype).eps
        return float(eps)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        if self.like in ("LayerNorm", "RMSNorm"):
            normalized = self.options["normalized_shape"]
            return (normalized,) if isinstance(normalized, int) else tuple(normalized)
        return (self.shape[1],)

    @property
    def has_gamma(self) -> bool:
        default = self.like != "InstanceNorm"
        return bool(self.options.get("affine", self.options.get("elementwise_affine", default)))

    @property
    def has_beta(self) -> bool:
        return self.has_gamma and self.like != "RMSNorm" and bool(self.options.get("bias", True))

    @property
    def normalized_axes(self) -> tuple[int, ...]:
        """The axes of x that share a mean and a variance (for GroupNorm, with the channels of one group)."""
        rank = len(self.shape)
        if self.like in ("LayerNorm", "RMSNorm"):
            return tuple(range(rank - len(self.parameter_shape), rank))
        spatial = tuple(range(2, rank))
        return {"GroupNorm": (1, *spatial), "BatchNorm": (0, *spatial), "InstanceNorm": spatial}[self.like]

    def training_in(self, call: int) -> bool:
        """The mode of one of the calls."""
        before = self.calls - 1 - call
        return self.training if before == 0 else self.history != "eval between" or before % 2 == 0

    def shape_of(self, call: int) -> tuple[int, ...]:
        """The shape of x in one of the calls: every second one before the last has a longer first axis."""
        longer = (self.calls - 1 - call) % 2 if self.resize and self.history != "refilled" else 0
        if (longer and 0 not in self.normalized_axes) or self.like == "BatchNorm":
            return (self.shape[0] + longer, *self.shape[1:])
        return self.shape

    @np.errstate(all="ignore")  # a layer may have set "raise", and float16 underflows
    def arrays(self, call: int = -1, channels_last: bool = False) -> Arrays:
        """x and dy of one call, new ones each time, in their layouts; with the channels moved last if so asked."""
        x, dy = _numbers(self, call % self.calls)
        if channels_last:
            x, dy = np.moveaxis(x, 1, -1), np.moveaxis(dy, 1, -1)
        return Arrays(_laid_out(x, self.layout), _laid_out(dy, self.dy_layout))

    def parameters(self) -> tuple[Array | None, Array | None]:
        """gamma and beta, new ones each time, each None where the layer has none."""
        gamma, beta = _parameters(self)
        return gamma.copy() if self.has_gamma else None, beta.copy() if self.has_beta else None

    def _x(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        unit = rng.standard_normal(shape)
        match self.data:
            case "unit":
                return unit
            case "shifted":
                return 2 * unit + 3
            case "integers":
                return rng.integers(-3, 4, shape).astype(np.float64)
            case "small":
                return 3e-3 * unit
            case "constant":
                own = tuple(1 if axis in self.normalized_axes else size for axis, size in enumerate(shape))
                return np.broadcast_to(rng.standard_normal(own) + 1, shape)
            case "tiny":
                return TINY[self.dtype] * unit
            case "large":
                return LARGE[self.dtype] * unit
            case "nan":
                unit.flat[unit.size // 2] = np.nan
                return unit
        return unit + OFFSETS[self.data]

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.config)
        words = [f"{self.like}({options})", f"x {self.shape} {self.dtype}", f"{self.data} data"]
        if self.layout != "C":
            words.append(f"x {self.layout}")
        if self.dy_layout != "C":
            words.append(f"dy {self.dy_layout}")
        if self.affine_values != "random" and self.has_gamma:
            words.append(f"gamma {self.affine_values}")
        if not self.training:
            words.append("eval")
        if self.calls > 1:
            words.append(f"call {self.calls}" + (", the one before of another size" if self.resize else ""))
        if self.history and self.calls > 1:
            words.append(self.history)
        if self.overwrite:
            words.append(f"{self.overwrite} overwritten before backward")
        return ", ".join([*words, f"seed {self.seed}"])


def make(like: str, shape: Sequence[int], *, groups: int = 1, axes: int = 1, **rest: Any) -> Case:
    """A case in few words: `groups` for GroupNorm, `axes` normalized ones for LayerNorm and RMSNorm.

    Words of `rest` that are the layer's options go to `config`, the others are fields of `Case`.
    """
    shape = tuple(shape)
    options: dict[str, Any]
    if like == "GroupNorm":
        options = {"num_groups": groups, "num_channels": shape[1]}
    elif like in ("LayerNorm", "RMSNorm"):
        options = {"normalized_shape": shape[-1] if axes == 1 else shape[len(shape) - axes :]}
    else:
        options = {"num_features": shape[1]}
    options |= {name: rest.pop(name) for name in tuple(rest) if name in KEYWORDS[like]}
    return Case(like, shape, tuple(sorted(options.items())), **rest)


# Subject, torch and formula ask for the same numbers one after the other: the last few are kept.
@lru_cache(maxsize=16)
def _numbers(case: Case, call: int) -> tuple[Array, Array]:
    """x and dy of one call, in no particular layout; not to be written to."""
    rng = np.random.default_rng((case.seed, call))
    shape = case.shape_of(call)
    x = case._x(rng, shape).astype(case.dtype)
    # A mean that is not zero, so that the gradient's mean term counts; never constant, which would hide it all.
    return x, (rng.standard_normal(shape) + 0.3).astype(case.dtype)


@lru_cache(maxsize=16)
def _parameters(case: Case) -> tuple[Array, Array]:
    rng = np.random.default_rng((case.seed, 1 << 20))
    shape = case.parameter_shape
    gamma, beta = rng.uniform(0.4, 2.5, shape) * rng.choice((-1.0, 1.0), shape), rng.standard_normal(shape) + 0.5
    if case.affine_values == "unit":
        gamma, beta = np.ones(shape), np.zeros(shape)
    elif case.affine_values == "uniform":
        gamma, beta = np.full(shape, 1.7), np.full(shape, -0.6)
    elif case.affine_values == "some zero":
        gamma.flat[0] = 0.0
    return gamma.astype(case.dtype), beta.astype(case.dtype)


def _laid_out(array: Array, layout: str) -> Array:
    """A copy of `array` with the same shape and values in another place of memory."""
    match layout:
        case "C":
            return array.copy(order="C")
        case "read-only":
            array = array.copy(order="C")
            array.flags.writeable = False
            return array
        case "F":
            return array.copy(order="F")
        case "transposed":  # the last two axes change places in memory
            return array.swapaxes(-1, -2).copy(order="C").swapaxes(-1, -2) if array.ndim > 1 else array.copy()
        case "flipped":  # negative strides
            return array[..., ::-1].copy(order="C")[..., ::-1]
        case "strided":  # every second number of a longer array; those between are far off
            wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), 1e3, array.dtype)
            wide[..., ::2] = array
            return wide[..., ::2]
        case "sliced":  # rows of a longer array, from its second on
            longer = np.full((array.shape[0] + 2, *array.shape[1:]), -1e3, array.dtype)
            longer[1:-1] = array
            return longer[1:-1]
    raise ValueError(f"Expected layout to be one of {LAYOUTS} but got {layout!r}")


@dataclass(frozen=True)
class Scope:
    """What can be tried on one subject.

    Attributes:
        like: the layer.
        ndims, dtypes: the ranks and dtypes it takes.
        gammas: whether it can be had with a gamma, without, or both; `betas` likewise (given a gamma).
        keywords: the optional ones of torch's that it takes; the values of the others stay at torch's defaults.
        several_axes: whether `normalized_shape` may have more than one entry.
        no_eps: whether RMSNorm takes eps=None.
        modes: whether it can be in training mode, in eval mode, or both.
        averages: whether BatchNorm takes momentum=None.
    """

    like: str
    ndims: tuple[int, ...]
    dtypes: tuple[str, ...] = ("float64", "float32")
    gammas: tuple[bool, ...] = (True, False)
    betas: tuple[bool, ...] = (True, False)
    keywords: frozenset[str] = frozenset()
    several_axes: bool = True
    no_eps: bool = True
    modes: tuple[bool, ...] = (True, False)
    averages: bool = True

    @classmethod
    def full(cls, like: str) -> "Scope":
        """Everything that torch's layer takes, in float64 and float32."""
        return cls(like, RANKS[like], keywords=frozenset(KEYWORDS[like]))

    def lacks(self, case: Case) -> str:
        """What of `case` is outside the scope, in a few words; "" if nothing is."""
        options = case.options
        reasons = (
            (len(case.shape) not in self.ndims, f"x of rank {len(case.shape)}"),
            (case.dtype not in self.dtypes, case.dtype),
            (case.has_gamma not in self.gammas, "with gamma" if case.has_gamma else "without gamma"),
            (
                case.has_gamma and case.like != "RMSNorm" and case.has_beta not in self.betas,
                "with beta" if case.has_beta else "without beta",
            ),
            (case.training not in self.modes, "training mode" if case.training else "eval mode"),
            (not self.several_axes and len(case.parameter_shape) > 1, "several normalized axes"),
            ("eps" in options and "eps" not in self.keywords, "the keyword eps"),
            (case.like == "RMSNorm" and options.get("eps", 0.0) is None and not self.no_eps, "eps=None"),
            ("momentum" in options and "momentum" not in self.keywords, "the keyword momentum"),
            ("momentum" in options and options["momentum"] is None and not self.averages, "momentum=None"),
            (
                not options.get("track_running_stats", True) and "track_running_stats" not in self.keywords,
                "track_running_stats=False",
            ),
        )
        return next((reason for lacking, reason in reasons if lacking), "")


def cases(scope: Scope) -> st.SearchStrategy[Case]:
    """Whole random cases within `scope`; they shrink to few numbers, float64, unit data, one call."""
    return _draw_case(scope)


@st.composite
def _draw_case(draw: st.DrawFn, scope: Scope) -> Case:
    like, keywords, pick = scope.like, scope.keywords, _picker(draw)
    # 2D and 4D are half of the cases each way; the simplest rank comes first.
    ndim = pick([n for n in (2, 4, 3, 5, 4, 2) if n in scope.ndims] or scope.ndims)
    sizes = draw(_SIZES[ndim])
    space = prod(sizes[2:])
    options: dict[str, Any] = {}
    if like == "GroupNorm":
        groups = draw(st.integers(1, 4))
        if sizes[0] * sizes[1] * space == 1:  # torch refuses a single value
            sizes = (2, *sizes[1:])
        sizes = (sizes[0], groups * sizes[1], *sizes[2:])
        options = {"num_groups": groups, "num_channels": sizes[1]}
    elif like in ("LayerNorm", "RMSNorm"):
        axes = draw(st.integers(1, ndim)) if scope.several_axes else 1
        options = {"normalized_shape": sizes[-1] if axes == 1 else sizes[ndim - axes :]}
    else:
        if space == 1 and like == "InstanceNorm":
            sizes = (*sizes[:-1], 2)
        elif sizes[0] * space == 1:
            sizes = (2, *sizes[1:])
        options = {"num_features": sizes[1]}
    if "eps" in keywords:
        options["eps"] = pick([1e-5, 1e-3, 1e-8, 0.3, *([None] if like == "RMSNorm" and scope.no_eps else [])])
    gamma = pick([value for value in (True, True, True, False) if value in scope.gammas])
    if gamma != (like != "InstanceNorm"):
        options["elementwise_affine" if like in ("LayerNorm", "RMSNorm") else "affine"] = gamma
    if like == "LayerNorm" and not pick([value for value in (True, True, False) if value in scope.betas]) and gamma:
        options["bias"] = False
    training = True
    if like == "BatchNorm":
        training = pick(scope.modes)
        if "momentum" in keywords:
            options["momentum"] = pick([0.1, 0.4, 1.0, 0.0, *([None] if scope.averages else [])])
        if "track_running_stats" in keywords and pick([False, False, False, True]):
            options["track_running_stats"] = False
    dtype, data = pick(scope.dtypes), pick(DATA)
    if dtype == "float16":  # whose range the other recipes, and a small eps, would leave
        data = data if data in ("shifted", "integers") else "unit"
        options |= {"eps": 0.3} if "eps" in keywords else {}
    return Case(
        like=like,
        shape=sizes,
        config=tuple(sorted(options.items())),
        dtype=dtype,
        data=data,
        seed=draw(_SEED),
        layout=pick(LAYOUTS),
        dy_layout=pick(LAYOUTS),
        affine_values=pick(AFFINE_VALUES),
        training=training,
        calls=pick([1, 2, 3]),
        resize=pick([False, True]),
        history=pick(["", "", "forward only", "refilled", *(["eval between"] if False in scope.modes else [])]),
        overwrite=pick(["", "", "x", "y"]),
    )


def _picker(draw: st.DrawFn) -> Any:
    """A draw of one of few values, the simplest first; half the price of `sampled_from`'s own bookkeeping."""

    def pick(values: Iterable[Any]) -> Any:
        values = tuple(values)
        return values[draw(_INDEX[len(values)])] if len(values) > 1 else values[0]

    return pick


_SEED = st.integers(0, 2**16)
_SIZES = {ndim: st.tuples(*[st.integers(1, most)] * ndim) for ndim, most in ((1, 9), (2, 9), (3, 6), (4, 5), (5, 4))}
_INDEX = {n: st.integers(0, n - 1) for n in range(2, 16)}
