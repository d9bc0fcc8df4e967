"""Modules of flax.linen, flax.nnx and equinox as pure functions of x, gamma, beta and the running statistics.

Each is built inside the function that JAX traces, and its parameters, found by their names, take the values that are
given. Knows how the three libraries build and call a module; must not know what is right.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from reference.kinds import Kind
from reference.subjects.constructor import constructor_of
from reference.subjects.names import MODES, flat, role_of

FIRST, LAST, SPREAD = "channels first", "channels last", "gamma with an axis of 1 for each of x's"
Values = Mapping[str, Any]  # by role: "gamma", "beta", "running_mean", "running_var"
Apply = Callable[[Any, Values], tuple[Any, Values]]  # x and values -> y and the new running statistics

_SCALE_FLAGS, _BIAS_FLAGS = ("use_scale", "use_weight"), ("use_bias",)
_MEANS, _VARS = ("mean", "mu"), ("var", "variance")


class Model(Protocol):
    """A function or class of modules, as the layers that are made of it need it.

    Attributes:
        keywords: those of torch's that it takes.
        orders: where it may have the channels, the most likely first.
        several_axes: whether it may normalize several axes where it is asked to.
        size_untold: whether nothing but gamma tells it how many.
    """

    keywords: frozenset[str]
    orders: tuple[str, ...]
    several_axes: bool
    size_untold: bool

    @property
    def has_modes(self) -> bool:
        """Whether it can be told its mode."""

    def applied(self, config: Mapping[str, Any], training: bool) -> Apply:
        """The pure function for one set of torch's options, in one mode."""

    def roles(self, config: Mapping[str, Any], x: Any) -> frozenset[str]:
        """Of which of `Values` it has one, for an x of this shape and dtype."""


def library_of(layer: Any) -> str:
    """Which of the three a class of modules is of: "linen", "nnx" or "equinox"; "" if of none."""
    for base in getattr(layer, "__mro__", ()):
        for start, name in (("flax.linen.", "linen"), ("flax.nnx.", "nnx"), ("equinox.", "equinox")):
            if base.__module__.startswith(start):
                return name
    return ""


def module_model(cls: type, kind: Kind, fixed: Mapping[str, Any]) -> Model:
    """The model of a class of modules.

    Raises:
        TypeError: it is of no library that is known, or asks for something that nothing stands for.
    """
    models: dict[str, type[_Modules]] = {"linen": _Linen, "nnx": _Nnx, "equinox": _Equinox}
    library = library_of(cls)
    if not library:
        raise TypeError(f"Expected a class of modules of flax.linen, flax.nnx or equinox but got {cls.__name__}")
    return models[library](cls, kind, fixed)


@dataclass
class _Modules:
    """What the three have in common: the constructor, read as any other, and flags for gamma and beta."""

    cls: Any
    kind: Kind
    fixed: Mapping[str, Any]
    keywords: frozenset[str] = field(init=False)
    orders: tuple[str, ...] = field(init=False)
    several_axes: bool = field(init=False)
    size_untold = False
    _found: dict[tuple[Any, ...], frozenset[str]] = field(default_factory=dict)
    GIVEN: ClassVar[frozenset[str]] = frozenset()  # what this library asks for, and is given
    ORDERS: ClassVar[tuple[str, ...]] = (LAST, FIRST)

    def __post_init__(self) -> None:
        self.parameters = {p.name: p for p in list(self._signature().parameters.values()) if p.name != "self"}
        kind, names = self.kind, self.parameters
        free = {n: p for n, p in names.items() if n not in self.fixed and n not in self.GIVEN}
        stub = _stub(free.values())
        constructor = constructor_of(stub, kind, {})
        if constructor.unknown:
            raise TypeError(
                f"Expected {self.cls.__name__} to take torch's keywords but it asks for {' and '.join(constructor.unknown)}: "
                "wrap it in a function (x, gamma, beta, eps)"
            )
        self.takes = {ours: theirs for ours, theirs in constructor.takes.items() if ours in kind.keywords}
        self.scale_flag = next((name for name in _SCALE_FLAGS if name in names), "")
        self.bias_flag = next((name for name in _BIAS_FLAGS if name in names), "")
        for flag in ("affine", "elementwise_affine", "bias"):
            if self.takes.get(flag) in (self.scale_flag, self.bias_flag) or self.scale_flag:
                self.takes.pop(flag, None)
        own = set(self.takes)
        if self.scale_flag and (self.bias_flag or not kind.has_beta):
            own.add(kind.affine_keyword)
        if self.bias_flag and "bias" in kind.optional:
            own.add("bias")
        self.keywords = frozenset(own)
        self.orders = (FIRST,) if kind.normalizes_features else self.ORDERS
        self.axes = [name for name in ("reduction_axes", "feature_axes") if name in names]
        self.several_axes = bool(self.axes) or constructor.takes_several_axes

    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.cls)

    def arguments(self, config: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
        """What the constructor is called with."""
        given = {theirs: config[ours] for ours, theirs in self.takes.items() if ours in config}
        affine = config.get(self.kind.affine_keyword, True)
        if self.scale_flag:
            given[self.scale_flag] = affine
        if self.bias_flag:
            given[self.bias_flag] = affine and config.get("bias", True) and self.kind.has_beta
        shape = config.get("normalized_shape")
        if isinstance(shape, tuple) and self.axes and "normalized_shape" not in self.takes:
            given |= dict.fromkeys(self.axes, tuple(range(-len(shape), 0)))
        for name in ("param_dtype", *(("dtype",) if "param_dtype" not in self.parameters else ())):
            if name in self.parameters:  # else the parameters, and with them the results, are of another width than x
                given.setdefault(name, dtype)
        return {**given, **self.fixed}

    def roles(self, config: Mapping[str, Any], x: Any) -> frozenset[str]:
        key = tuple(sorted(config.items()))
        if key not in self._found:
            self._found[key] = self._roles(config, x)
        return self._found[key]

    @property
    def has_modes(self) -> bool:
        return False

    def applied(self, config: Mapping[str, Any], training: bool) -> Apply:
        raise NotImplementedError

    def _roles(self, config: Mapping[str, Any], x: Any) -> frozenset[str]:
        raise NotImplementedError


def _stub(parameters: Iterable[inspect.Parameter]) -> Callable[..., Any]:
    """A function of that signature, without what a constructor's own would be asked of."""

    def build(**config: Any) -> None: ...

    ordered = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    build.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    return build


def _names(path: Iterable[Any]) -> tuple[str, ...]:
    """The way to a leaf of a tree, in words."""
    return tuple(str(getattr(step, "name", getattr(step, "key", step))) for step in path)


def _role(path: tuple[str, ...]) -> str | None:
    """What a parameter or statistic is, by the names on the way to it."""
    own = flat(path[-1])
    if own in _MEANS or own in _VARS:
        return "running_mean" if own in _MEANS else "running_var"
    return role_of(path)


def _filled(value: Any, role: str | None, values: Values, name: str) -> Any:
    """What stands in the place of a parameter: what is given for its role, in its own shape; else what is no change."""
    import jax.numpy as jnp

    if role is None:
        raise TypeError(f"it has a parameter {name} that nothing of torch's stands for")
    given = values.get(role)
    if given is None:
        return (
            jnp.zeros(value.shape, value.dtype)
            if role in ("beta", "running_mean")
            else jnp.ones(value.shape, value.dtype)
        )
    if given.size != value.size:
        raise ValueError(f"{name} has shape {value.shape}: it is not made for parameters of shape {given.shape}")
    return jnp.reshape(given, value.shape)


def _mode(parameters: Iterable[str]) -> tuple[str, bool]:
    """The argument that tells a module its mode, and what it is in training; "" if there is none."""
    for name in parameters:
        if flat(name) == "userunningaverage":
            return name, False
        if flat(name) in MODES:
            return name, MODES[flat(name)]
    return "", True


class _Linen(_Modules):
    """flax.linen: variables in collections by name, made by `init` and given to `apply`."""

    GIVEN = frozenset({"name", "parent", "use_running_average"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mode, self.in_training = _mode(inspect.signature(self.cls.__call__).parameters)
        if not self.mode:
            self.own_mode = _mode(self.parameters)
        else:
            self.own_mode = ("", True)

    @property
    def has_modes(self) -> bool:
        return bool(self.mode or self.own_mode[0])

    def _module(self, config: Mapping[str, Any], training: bool, dtype: Any) -> tuple[Any, dict[str, Any]]:
        given = self.arguments(config, dtype)
        name, in_training = self.own_mode
        if name:
            given[name] = in_training if training else not in_training
        called = {self.mode: self.in_training if training else not self.in_training} if self.mode else {}
        return self.cls(**given), called

    def _leaves(self, config: Mapping[str, Any], x: Any) -> list[tuple[tuple[str, ...], Any]]:
        """The way to each variable, the collection first, and its shape."""
        import jax

        module, called = self._module(config, True, x.dtype)
        key = jax.random.key(0)
        shapes = jax.eval_shape(lambda x: module.init(key, x, **called), jax.ShapeDtypeStruct(x.shape, x.dtype))
        leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
        return [(_names(path), leaf) for path, leaf in leaves]

    def _roles(self, config: Mapping[str, Any], x: Any) -> frozenset[str]:
        return frozenset(role for path, _ in self._leaves(config, x) if (role := _role(path)))

    def applied(self, config: Mapping[str, Any], training: bool) -> Apply:
        def apply(x: Any, values: Values) -> tuple[Any, Values]:
            module, called = self._module(config, training, x.dtype)
            variables: dict[str, Any] = {}
            places = {}
            for path, leaf in self._leaves(config, x):
                *outer, own = path
                inner = variables
                for step in outer:
                    inner = inner.setdefault(step, {})
                inner[own] = _filled(leaf, _role(path), values, "/".join(path))
                places[_role(path)] = path
            mutable = [name for name in variables if name != "params"] if training else []
            returned = module.apply(variables, x, **called, mutable=mutable)
            if not mutable:
                return returned[0] if isinstance(returned, tuple) and returned[1:] == ({},) else returned, {}
            y, changed = returned
            new: dict[str, Any] = {}
            for role in ("running_mean", "running_var"):
                value = changed
                for step in places.get(role, ()):
                    value = value[step]
                new |= {role: value} if role in places else {}
            return y, new

        return apply


class _Nnx(_Modules):
    """flax.nnx: an object whose variables are its state; it is told its mode by train() and eval()."""

    GIVEN = frozenset({"rngs"})

    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.cls.__init__)

    @property
    def has_modes(self) -> bool:
        return True

    def _module(self, config: Mapping[str, Any], dtype: Any) -> Any:
        from flax import nnx

        given = self.arguments(config, dtype)
        if "rngs" in self.parameters:
            given["rngs"] = nnx.Rngs(0)
        return self.cls(**given)

    def _roles(self, config: Mapping[str, Any], x: Any) -> frozenset[str]:
        module = self._module(config, x.dtype)
        return frozenset(role for path, _ in _live(module) if (role := _role(path)))

    def applied(self, config: Mapping[str, Any], training: bool) -> Apply:
        def apply(x: Any, values: Values) -> tuple[Any, Values]:
            module = self._module(config, x.dtype)
            module.train() if training else module.eval()
            variables = [(_role(path), path, variable) for path, variable in _live(module)]
            for role, path, variable in variables:
                variable.set_value(_filled(variable.get_value(), role, values, ".".join(path)))
            y = module(x)
            new = {r: v.get_value() for r, _, v in variables if r in ("running_mean", "running_var")}
            return y, new if training else {}

        return apply


def _live(module: Any) -> list[tuple[tuple[str, ...], Any]]:
    """The variables of an nnx module themselves, which are set in place, and the way to each."""
    from flax import nnx

    found = []
    for path, value in nnx.iter_graph(module):
        if isinstance(value, nnx.Variable) and hasattr(value.get_value(), "shape") and _role(tuple(map(str, path))):
            found.append((tuple(map(str, path)), value))
    return found


class _Equinox(_Modules):
    """equinox: a dataclass of arrays, called with one sample; so it is mapped over the axes before."""

    ORDERS = (FIRST,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind.tracks:
            raise TypeError(
                f"{self.cls.__name__} keeps its statistics in a State of equinox's, over a mapped axis of its own: "
                "wrap it in a function (x, gamma, beta, running_mean, running_var, training)"
            )

    def _arrays(self, module: Any) -> list[tuple[tuple[str, ...], Any]]:
        import jax

        leaves, _ = jax.tree_util.tree_flatten_with_path(module)
        return [(_names(path), leaf) for path, leaf in leaves if hasattr(leaf, "shape")]

    def _roles(self, config: Mapping[str, Any], x: Any) -> frozenset[str]:
        module = self.cls(**self.arguments(config, x.dtype))
        return frozenset(role for path, _ in self._arrays(module) if (role := _role(path)))

    def applied(self, config: Mapping[str, Any], training: bool) -> Apply:
        import jax

        def apply(x: Any, values: Values) -> tuple[Any, Values]:
            module = self.cls(**self.arguments(config, x.dtype))
            leaves, tree = jax.tree_util.tree_flatten_with_path(module)
            filled = []
            for path, leaf in leaves:
                names = _names(path)
                role = _role(names) if hasattr(leaf, "shape") else None
                filled.append(_filled(leaf, role, values, ".".join(names)) if role else leaf)
            module = jax.tree_util.tree_unflatten(tree, filled)
            shape = config.get("normalized_shape", ())
            own = (len(shape) if isinstance(shape, tuple) else 1) if self.kind.normalizes_features else x.ndim - 1
            call = module
            for _ in range(x.ndim - own):
                call = jax.vmap(call)
            return call(x), {}

        return apply
