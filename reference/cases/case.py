"""What a layer is tried on: one frozen `Case`, and the arrays it stands for.

A case holds all it takes to do a trial again, and makes its arrays only on demand, so that it prints in one line,
compares, hashes, and shrinks fast. This module knows layouts and recipes of data; it must not know how a layer is
computed, run or judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from math import prod
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.dtypes import computing_dtype, dtype_named, roundoff
from reference.kinds import GROUP, Kind, kind_named

Array = NDArray[Any]

ANOTHER = "another alive"
DATA = ("unit", "shifted", "integers", "small", "constant", "tiny", "large", "offset 1e2", "offset 1e4", "offset 1e6")
PLAIN_DATA = ("unit", "shifted", "integers")  # which 16 bits hold, and their results
LAYOUTS = ("C", "read-only", "F", "strided", "flipped", "transposed", "sliced")
CONTIGUOUS = ("C", "read-only", "sliced")  # of them: the numbers lie one after the other, in the order of the indices
AFFINE_VALUES = ("random", "uniform", "unit", "some zero")

# Magnitudes whose squares, cubes and inverse cubes a dtype still holds: a layer may form any of them.
LARGE = {"float64": 1e60, "float32": 1e6, "float16": 8.0, "bfloat16": 1e6}
TINY = {"float64": 1e-20, "float32": 1e-10, "float16": 2.0**-8, "bfloat16": 1e-10}
EQUAL = 128  # equal numbers whose mean may be off by half as many roundoffs, where their sum is rounded each time
OFFSETS = {"offset 1e2": 1e2, "offset 1e4": 1e4, "offset 1e6": 1e6}


class Arrays(NamedTuple):
    """The arrays of one call."""

    x: Array
    dy: Array


@dataclass(frozen=True)
class Case:
    """One trial of a layer.

    Attributes:
        kind: of the layer.
        shape: of x in the call that is judged, the last.
        config: the torch-named options, as sorted pairs; `options` is the same as a dict.
        dtype: of x, dy, gamma and beta.
        data: the recipe of x, one of `DATA`, or "nan" (one entry is not a number), "hundreds", "ten-thousandths" or
            "balanced": whole numbers, and the same with the other sign, whose sums and sums of squares have no rounding.
        seed: of all random numbers.
        layout, dy_layout: how x and dy lie in memory, of `LAYOUTS`.
        affine_values: the recipe of gamma and beta, of `AFFINE_VALUES`. "unit" (1 and 0) hides mistakes, and is here to
            tell which ones it hides.
        training: the mode of the last call; the calls before it are in training mode. Only a kind that tracks cares.
        calls: how many forward and backward passes one object makes; those before the last have other data.
        resize: whether every second call before the last has another batch size.
        history: how the calls are made: "" in full, "forward only" without the backward of those before the last, "refilled"
            with one and the same array for every x, "eval between" with every second one in eval mode, "another alive" with
            another layer of the class at work between forward and backward.
        overwrite: what the caller changes in place between forward and backward: "x", "y" or nothing.
        dy_data: "unit", "large" for an upstream gradient of a thousand, "positive", whose sums grow and grow, "centred",
            whose sums do not, or "ones", which hides mistakes, and is here to tell which ones it hides.
    """

    kind: Kind
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
    dy_data: str = "unit"

    # What follows from the fields is asked for many times a trial: each case keeps it, beside its fields.

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return Case, _fields_of(self)  # without what is kept beside them: a hash is a process's own

    @cached_property
    def _hash(self) -> int:
        return hash(_fields_of(self))

    @cached_property
    def options(self) -> dict[str, Any]:
        """`config` as a dict, which is not to be written to."""
        return dict(self.config)

    @cached_property
    def fits_in_16_bits(self) -> bool:
        """Whether float16 holds its numbers and those of a right layer, with digits to tell by."""
        return self.data in PLAIN_DATA and self.dy_data != "large" and self.eps >= 1e-5

    @cached_property
    def eps(self) -> float:
        """The number that is added to the variance."""
        eps = self.options.get("eps", self.kind.optional["eps"])
        if eps is None:  # torch: the machine epsilon of the dtype that RMSNorm computes in
            eps = 2 * roundoff(computing_dtype(self.dtype))
        return float(eps)

    @cached_property
    def parameter_shape(self) -> tuple[int, ...]:
        return self.kind.parameter_shape(self.shape, self.options)

    @cached_property
    def has_gamma(self) -> bool:
        keyword = self.kind.affine_keyword
        return bool(self.options.get(keyword, self.kind.optional[keyword]))

    @cached_property
    def has_beta(self) -> bool:
        return self.has_gamma and self.kind.has_beta and bool(self.options.get("bias", True))

    @cached_property
    def tracks(self) -> bool:
        """Whether the layer has running statistics."""
        return self.kind.tracks and bool(self.options.get("track_running_stats", True))

    @property
    def contiguous(self) -> bool:
        """Whether x and dy both are, so that a layer may read them in the order of memory."""
        return self.layout in CONTIGUOUS and self.dy_layout in CONTIGUOUS

    @cached_property
    def sharing(self) -> int:
        """How many numbers share a mean."""
        return self.kind.sharing(self.shape, self.options)

    def training_in(self, call: int) -> bool:
        """The mode of one of the calls."""
        before = self.calls - 1 - call
        return self.training if before == 0 else self.history != "eval between" or before % 2 == 0

    def shape_of(self, call: int) -> tuple[int, ...]:
        """The shape of x in one of the calls: every second one before the last has a longer first axis."""
        longer = (self.calls - 1 - call) % 2 if self.resize and self.history != "refilled" else 0
        # where the first axis is a normalized one the layer takes no other size of it
        if len(self.parameter_shape) < len(self.shape):
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
                # GroupNorm's channels have one value here, whatever their group
                sizes, roles = self.kind.axes(shape, self.options)
                own = tuple(1 if r in (*self.kind.statistics, GROUP) else s for s, r in zip(sizes, roles, strict=True))
                value = rng.standard_normal(own) + 1
                if not self.kind.centred or self.sharing > EQUAL:
                    # equal numbers, added one by one, are all rounded the same way; these have too few digits for that
                    digits, exponent = np.frexp(value)
                    value = np.ldexp(np.round(16 * digits) / 16, exponent)
                return np.broadcast_to(value, sizes).reshape(shape)
            case "tiny":
                return TINY[self.dtype] * unit
            case "large":
                return LARGE[self.dtype] * unit
            case "hundreds":  # whose squares float16 does not hold
                return 300 * unit
            case "ten-thousandths":  # whose squares float16 does not tell from 0
                return 1e-4 * unit
            case "balanced":
                half = rng.integers(-3, 4, (*shape[:-1], shape[-1] // 2)).astype(np.float64)
                return np.concatenate([half, np.zeros((*shape[:-1], shape[-1] % 2)), -half], axis=-1)
            case "nan":
                unit.flat[unit.size // 2] = np.nan
                return unit
        return unit + OFFSETS[self.data]

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.config)
        words = [f"{self.kind.name}({options})", f"x {self.shape} {self.dtype}", f"{self.data} data"]
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
        if self.history and (self.calls > 1 or self.history == ANOTHER):
            words.append(self.history)
        if self.dy_data != "unit":
            words.append(f"{self.dy_data} dy")
        if self.overwrite:
            words.append(f"{self.overwrite} overwritten before backward")
        return ", ".join([*words, f"seed {self.seed}"])


_fields_of: Any = attrgetter(*(field.name for field in fields(Case)))


def make(like: str | Kind, shape: Sequence[int], *, groups: int = 1, axes: int = 1, **rest: Any) -> Case:
    """A case in few words: `groups` for GroupNorm, `axes` normalized ones for LayerNorm and RMSNorm.

    Words of `rest` that are the layer's options go to `config`, the others are fields of `Case`.
    """
    kind = like if isinstance(like, Kind) else kind_named(like)
    options = kind.options_for(shape, groups=groups, axes=axes)
    options |= {name: rest.pop(name) for name in tuple(rest) if name in kind.keywords}
    return Case(kind, tuple(shape), tuple(sorted(options.items())), **rest)


def with_options(case: Case, **options: Any) -> Case:
    """`case` with some of its layer's options changed."""
    return replace(case, config=tuple(sorted((case.options | options).items())))


def with_gamma(case: Case, gamma: bool) -> Case:
    """`case` of a layer with a gamma, or without."""
    return case if case.has_gamma == gamma else with_options(case, **{case.kind.affine_keyword: gamma})


# Subject, torch and formula ask for the same numbers one after the other, and the next subject for those of its probes:
# they are kept, of the few large cases only the last.
SMALL = 4_000  # numbers of x


def _numbers(case: Case, call: int) -> tuple[Array, Array]:
    """x and dy of one call, in no particular layout; not to be written to."""
    return (_numbers_of_many if prod(case.shape) <= SMALL else _numbers_of_few)(case, call)


def _draw_numbers(case: Case, call: int) -> tuple[Array, Array]:
    rng = np.random.default_rng((case.seed, call))
    shape = case.shape_of(call)
    dtype = dtype_named(case.dtype)
    x = case._x(rng, shape).astype(dtype)
    # A mean that is not zero, so that the gradient's mean term counts; never constant, which would hide it all.
    dy = rng.standard_normal(shape) + (0.3 if case.dy_data != "centred" else 0.0)
    if case.dy_data in ("large", "positive"):
        dy = 1e3 * dy if case.dy_data == "large" else np.abs(dy)
    if case.dy_data == "ones":
        dy = np.ones(shape)
    return x, dy.astype(dtype)


def _parameters(case: Case) -> tuple[Array, Array]:
    """gamma and beta; not to be written to."""
    return (_parameters_of_many if prod(case.shape) <= SMALL else _parameters_of_few)(case)


def _draw_parameters(case: Case) -> tuple[Array, Array]:
    rng = np.random.default_rng((case.seed, 1 << 20))
    shape = case.parameter_shape
    gamma, beta = rng.uniform(0.4, 2.5, shape) * rng.choice((-1.0, 1.0), shape), rng.standard_normal(shape) + 0.5
    if case.affine_values == "unit":
        gamma, beta = np.ones(shape), np.zeros(shape)
    elif case.affine_values == "uniform":
        gamma, beta = np.full(shape, 1.7), np.full(shape, -0.6)
    elif case.affine_values == "some zero":
        gamma.flat[0] = 0.0
    dtype = dtype_named(case.dtype)
    return gamma.astype(dtype), beta.astype(dtype)


_numbers_of_many, _numbers_of_few = lru_cache(maxsize=1024)(_draw_numbers), lru_cache(maxsize=8)(_draw_numbers)
_parameters_of_many, _parameters_of_few = (
    lru_cache(maxsize=1024)(_draw_parameters),
    lru_cache(maxsize=8)(_draw_parameters),
)


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
