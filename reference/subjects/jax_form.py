"""JAX functions and modules as layer classes: NumPy in, NumPy out, gradients by `jax.vjp`.

Speaks to JAX, so that the verdict knows nothing of tracing, of its memory or of its widths. x and the parameters are
copied into JAX's memory, and 64 bits are switched on for the time of a call alone, so that the caller's own JAX stays as
it is. A program that is compiled anew for each shape takes 0.2 s to compile, and nothing to run: one compiled function an
option set is kept for all layers of a factory, and y and the gradients come from the same one.

How each sort of module is built and called is in `jax_modules`. Knows JAX and names; must not know what is right.
"""

import inspect
from collections.abc import Callable, Mapping
from time import process_time
from typing import Any

import numpy as np

from reference.cases.case import Array
from reference.kinds import Kind, kind_in, kind_said
from reference.subjects.functions import arguments_of
from reference.subjects.jax_modules import FIRST, LAST, SPREAD, Apply, Model, Values, library_of, module_model

_TRIED = ((2, 6, 5, 7), (2, 6, 5))  # x as it is tried to find out where the channels are: no two sizes are the same
_STATE = {"running_mean": np.zeros, "running_var": np.ones}


def from_jax(
    f: Any, like: str | None = None, device: str = "cpu", *, channels_last: bool | None = None, **fixed: Any
) -> Any:
    """A JAX function or class of modules as a layer class, for `check` and the others.

    Args:
        f: a function (x, gamma, beta, **config) -> y, plain, jitted or with a gradient of its own (`jax.custom_vjp`), that
            takes of gamma, beta and torch's options those that it names, under other names too (scale, epsilon). One for
            BatchNorm may take running_mean, running_var and `training`, and returns (y, running_mean, running_var). Or a
            class of modules of flax.linen, flax.nnx or equinox; the last are called with one sample, as theirs are.
        like: which layer it is; by default what the name of f says.
        device: "cpu", the one that there is so far.
        channels_last: whether it has the channels in the last axis; by default that is found out by trying, Flax's modules
            first with the channels last, all else first with the channels first.
        fixed: further arguments of f, or of the module's constructor.

    Raises:
        ValueError: there is no such kind of layer, or another device. TypeError: f asks for something that nothing stands
            for, or is a module and no class of them.
    """
    if device != "cpu":
        raise ValueError(f"Expected device to be 'cpu' for a layer of JAX but got {device!r}")
    if not isinstance(f, type) and library_of(type(f)):
        raise TypeError(f"Expected a class of modules or a function but got a module, a {type(f).__name__}")
    name = getattr(f, "__name__", "") or type(f).__name__
    kind = kind_said("the function or module", name, like)
    model: Model = module_model(f, kind, fixed) if isinstance(f, type) else _Function(f, kind, fixed)
    orders = model.orders if channels_last is None else (LAST,) if channels_last else (FIRST, SPREAD)
    programs = _Programs(model, kind, (FIRST,) if kind.normalizes_features else orders)

    class JaxLayer(_Layer):
        compiling = 0.0  # seconds so far

        def __init__(self, **config: Any) -> None:
            super().__init__(programs, config)

    programs.on_compiled = lambda seconds: setattr(JaxLayer, "compiling", JaxLayer.compiling + seconds)
    # where its own name does not tell what it is like, `like` is the better name
    JaxLayer.__name__ = JaxLayer.__qualname__ = name if kind_in(name) is kind else kind.name
    JaxLayer.like = kind.name  # type: ignore[attr-defined]
    JaxLayer.adapts = f  # type: ignore[attr-defined]
    JaxLayer.compiles = True  # type: ignore[attr-defined]
    JaxLayer.size_untold = model.size_untold  # type: ignore[attr-defined]
    one_axis = kind.normalizes_features and not model.several_axes
    JaxLayer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                word,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=int if one_axis and word in kind.required else inspect.Parameter.empty,
            )
            for word in kind.keywords
            if word in kind.required or word in model.keywords
        ]
    )
    return JaxLayer


class _Function:
    """A function as a model: its arguments are told by their names."""

    orders: tuple[str, ...] = (FIRST, LAST, SPREAD)

    def __init__(self, f: Callable[..., Any], kind: Kind, fixed: Mapping[str, Any]) -> None:
        self.f, self.kind, self.fixed = f, kind, fixed
        self.names = arguments_of(f, kind, fixed)
        flags = {kind.affine_keyword} if self.names.gamma_optional else set()
        self.keywords = frozenset(word for word in kind.keywords if word in self.names) | flags
        self.several_axes, self.size_untold = True, "normalized_shape" not in self.names

    @property
    def has_modes(self) -> bool:
        return bool({"training", "evaluation", "mode"} & set(self.names.named.values()))

    def roles(self, config: Mapping[str, Any], x: Any) -> frozenset[str]:
        return frozenset(role for role in ("gamma", "beta", *_STATE) if role in self.names)

    def applied(self, config: Mapping[str, Any], training: bool) -> Apply:
        def apply(x: Any, values: Values) -> tuple[Any, Values]:
            mode = "train" if training else self.names.eval_word
            known = {**config, **values, "training": training, "evaluation": not training, "mode": mode}
            given = {theirs: known[role] for theirs, role in self.names.named.items() if role in known} | {**self.fixed}
            ordered = [p.name for p in inspect.signature(self.f).parameters.values() if p.kind is p.POSITIONAL_ONLY]
            returned = self.f(x, *(given.pop(name) for name in ordered[1:] if name in given), **given)
            if not isinstance(returned, (tuple, list)):
                return returned, {}
            y, *rest = returned
            while len(rest) == 1 and isinstance(rest[0], (tuple, list)):
                rest = list(rest[0])
            return y, dict(zip(_STATE, rest, strict=False)) if self.kind.tracks else {}

        return apply


class _Programs:
    """The compiled programs of one factory, kept for all of its layers."""

    def __init__(self, model: Model, kind: Kind, orders: tuple[str, ...]) -> None:
        self.model, self.kind, self._orders = model, kind, orders
        self._kept: dict[Any, Callable[..., Any]] = {}
        self._compiled: set[Any] = set()
        self._derived: dict[Any, bool] = {}
        self.on_compiled: Callable[[float], None] = lambda seconds: None
        self._traced = True  # until it turns out that it cannot be: then each of its steps is run by itself

    def roles(self, config: Mapping[str, Any]) -> frozenset[str]:
        """Of what it has values: gamma, beta, running statistics."""
        import jax

        options = dict(config)
        shape = options.get("normalized_shape")
        inner = shape if isinstance(shape, tuple) else (shape,)
        features = options.get("num_channels", options.get("num_features"))
        begun = process_time()
        sizes = (2, *inner) if features is None else (2, 5, 7, features) if self.order == LAST else (2, features, 5, 7)
        with jax.enable_x64(True):
            found = self.model.roles(options, jax.ShapeDtypeStruct(sizes, np.dtype(np.float32)))
        self.on_compiled(process_time() - begun)
        return found

    @property
    def order(self) -> str:
        """Where it has the channels: the first way in which x can be given to it."""
        for shape in _TRIED if len(self._orders) > 1 else ():
            for order in self._orders:
                if self._takes(shape, order):
                    self._orders = (order,)
                    return order
        return self._orders[0]

    def _takes(self, shape: tuple[int, ...], order: str) -> bool:
        import jax

        config = {**self.kind.optional, **self.kind.options_for(shape, groups=2), self.kind.affine_keyword: True}
        config = {word: value for word, value in config.items() if word in (*self.kind.required, *self.model.keywords)}
        one = jax.ShapeDtypeStruct((shape[1],), np.dtype(np.float32))
        x = jax.ShapeDtypeStruct(shape, np.dtype(np.float32))
        values = dict.fromkeys(("gamma", "beta", *_STATE), one)
        try:
            run = _ordered(self.model.applied(config, True), order)
            y, _ = jax.eval_shape(run, x, values)
        except Exception:  # whatever it raises: it does not take such an x
            return False
        return getattr(y, "shape", None) == shape

    def derived(self, config: Mapping[str, Any], training: bool, x: Array, values: Values) -> bool:
        """Whether no part of the forward brings a gradient of its own; the same for all x of a rank."""
        import jax

        key = (*sorted(config), training, x.ndim)
        if key not in self._derived:
            try:
                with jax.enable_x64(True):
                    program = jax.make_jaxpr(_ordered(self.model.applied(config, training), self.order))(x, values)
                self._derived[key] = "custom_vjp" not in str(program)
            except Exception:  # it cannot be traced, and is run step by step
                self._derived[key] = False
        return self._derived[key]

    def run(self, config: Mapping[str, Any], training: bool, *inputs: Any) -> tuple[Any, Any, Any]:
        """y, the new running statistics, and the gradients of x and of the parameters.

        Args:
            inputs: x, the parameters by role, the running statistics by role, dy; the gradients are None without a dy.
        """
        import jax

        key = (tuple(sorted(config.items())), training)
        leaves, tree = jax.tree_util.tree_flatten(inputs)
        signature = (key, tree, *((leaf.shape, leaf.dtype) for leaf in leaves))
        begun = process_time()
        try:
            return self._run(key, inputs)
        finally:
            if signature not in self._compiled:
                self._compiled.add(signature)
                self.on_compiled(process_time() - begun)

    def _run(self, key: Any, inputs: Any) -> tuple[Any, Any, Any]:
        import jax

        config, training = key
        with jax.enable_x64(True):
            if key not in self._kept:
                self._kept[key] = _outputs(_ordered(self.model.applied(dict(config), training), self.order))
            program = self._kept[key]
            if self._traced:
                try:
                    program = jax.jit(program) if not hasattr(program, "lower") else program
                    self._kept[key] = program
                    return _in_numpy(program(*inputs))
                except _untraceable():
                    self._traced = False
            inputs = jax.tree_util.tree_map(jax.numpy.asarray, inputs)
            return _in_numpy(getattr(program, "__wrapped__", program)(*inputs))


def _untraceable() -> tuple[type[Exception], ...]:
    """What a program raises that asks for numbers while it is traced."""
    import jax

    errors = jax.errors
    return errors.ConcretizationTypeError, errors.TracerArrayConversionError, errors.TracerIntegerConversionError


def _ordered(apply: Apply, order: str) -> Apply:
    """The same for an x with the channels in its second axis."""

    def run(x: Any, values: Values) -> tuple[Any, Values]:
        import jax.numpy as jnp

        if order == SPREAD:
            lying = (1, -1, *[1] * (x.ndim - 2))
            values = {r: v if v is None or r in _STATE else jnp.reshape(v, lying) for r, v in values.items()}
        if order != LAST:
            return apply(x, values)
        y, state = apply(jnp.moveaxis(x, 1, -1), values)
        return jnp.moveaxis(y, -1, 1), state

    return run


def _outputs(run: Apply) -> Callable[..., Any]:
    def outputs(x: Any, parameters: Values, state: Values, dy: Any) -> tuple[Any, Any, Any]:
        import jax

        if dy is None:
            y, new = run(x, {**parameters, **state})
            return y, new, None
        y, pull, new = jax.vjp(lambda x, own: run(x, {**own, **state}), x, parameters, has_aux=True)
        return y, new, pull(dy.astype(y.dtype)) if y.shape == dy.shape else None

    return outputs


def _in_numpy(outputs: Any) -> tuple[Any, Any, Any]:
    """Arrays that are the caller's, who may write into them."""
    import jax

    y, state, gradients = jax.tree_util.tree_map(np.array, outputs)
    return y, state, gradients


class _Layer:
    """One layer, in the protocol of NumPy layers."""

    def __init__(self, programs: _Programs, config: dict[str, Any]) -> None:
        kind, roles = programs.kind, programs.roles(config)
        self._programs, self._config = programs, config
        features: Any = next(config[word] for word in reversed(kind.required))
        affine = config.get(kind.affine_keyword, True)
        has_beta = affine and "beta" in roles and config.get("bias", True)
        self.gamma: Array | None = np.ones(features) if affine and "gamma" in roles else None
        self.beta: Array | None = np.zeros(features) if has_beta else None
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None
        for role in roles & set(_STATE) if kind.tracks else ():
            setattr(self, role, _STATE[role](features))
        if kind.tracks and programs.model.has_modes:
            self.training = True

    def forward(self, x: Array) -> Array:
        training = getattr(self, "training", True)
        wide = np.promote_types(x.dtype, np.float32)  # what running statistics are kept in
        state = {role: np.array(getattr(self, role), wide) for role in _STATE if hasattr(self, role)}
        own = {"gamma": self.gamma, "beta": self.beta}
        self._given = (np.array(x), {role: value for role, value in own.items() if value is not None}, state)
        self._mode = training
        try:
            y, new, _ = self._programs.run(self._config, training, *self._given, np.zeros(x.shape, x.dtype))
        except Exception:  # a gradient of its own that raises is backward's to tell
            y, new, _ = self._programs.run(self._config, training, *self._given, None)
        for role, value in new.items() if training else ():
            setattr(self, role, value)
        return np.asarray(y)

    @property
    def derived(self) -> bool:
        """Whether its gradients are JAX's own, of a forward without a `custom_vjp`."""
        x, parameters, state = self._given
        return self._programs.derived(self._config, self._mode, x, {**parameters, **state})

    def backward(self, dy: Array) -> Array:
        _, _, gradients = self._programs.run(self._config, self._mode, *self._given, np.array(dy))
        if gradients is None:
            raise ValueError("y has another shape than x: there is no gradient for such a dy")
        dx, own = gradients
        self.dgamma, self.dbeta = own.get("gamma"), own.get("beta")
        return np.asarray(dx)
