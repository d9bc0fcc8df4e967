"""A pair of functions with a cache, forward and backward, as a layer class.

Arguments are told by their names, in the signature or in a dict of settings as `bn_param`. Knows names; runs nothing by
itself, and not what is right.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.cases.case import Array
from reference.kinds import Kind, kind_in, kind_said
from reference.subjects.names import CACHES, EVAL_WORDS, KEYWORDS, MODE_WORDS, MODES, PARAMETERS, flat, quoted_in

_SETTINGS = ("param", "params", "config", "cfg", "options", "settings", "hyper", "kwargs")  # how a dict of them may end
_AFFINE = {"affine", "elementwise_affine"}


@dataclass(frozen=True)
class Arguments:
    """What a forward function takes besides x.

    Attributes:
        named: from its argument to what that is: a keyword of torch's, "gamma", "beta", "running_mean", "running_var",
            "training" (a flag), "mode" (a word) or "settings" (a dict of all of these).
        everything: whether it takes any keyword.
        in_settings: what it asks its dict of settings for, by our name and theirs.
        eval_word: what the mode is called in eval mode, where it is a word.
        gamma_optional: whether gamma's default is None.
    """

    named: Mapping[str, str]
    everything: bool
    in_settings: Mapping[str, str]
    eval_word: str
    gamma_optional: bool

    def __contains__(self, role: str) -> bool:
        return role in self.named.values() or role in self.in_settings


def arguments_of(forward: Callable[..., Any], kind: Kind, fixed: Mapping[str, Any]) -> Arguments:
    """Read the signature of a forward function.

    Raises:
        TypeError: it asks for something that nothing stands for.
    """
    parameters = [p for p in list(inspect.signature(forward).parameters.values())[1:] if p.name not in fixed]
    everything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named: dict[str, str] = {}
    source = _source(forward)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        role = _role(parameter, kind)
        if role is None and parameter.default is parameter.empty:
            if any(flat(parameter.name).endswith(word) for word in _SETTINGS):
                role = "settings"
            else:
                raise TypeError(
                    f"Expected {getattr(forward, '__name__', 'forward')}(x, gamma, beta, ...) with torch's keywords but it "
                    f"asks for {parameter.name}"
                )
        if role is not None:
            named[parameter.name] = role
    gamma = next((p for p in parameters if named.get(p.name) == "gamma"), None)
    texts = (source, _source(inspect.getmodule(forward)))  # one that hands its mode on does not name it itself
    eval_word = next(filter(None, (quoted_in(text, EVAL_WORDS) for text in texts)), "eval")
    asked = _asked(source, kind) if "settings" in named.values() else {}
    return Arguments(named, everything, asked, eval_word, gamma is not None and gamma.default is None)


def _role(parameter: inspect.Parameter, kind: Kind) -> str | None:
    """What an argument is by its name."""
    own = flat(parameter.name)
    if kind.has_groups and parameter.name == "G":  # a capital letter is a count
        return "num_groups"
    if parameter.name == "bias" and not isinstance(parameter.default, bool):
        return "beta"
    if parameter.name in ("gamma", "beta", "running_mean", "running_var", *kind.keywords):
        return parameter.name
    if own in MODES:
        return "training" if MODES[own] else "evaluation"
    if own in MODE_WORDS:
        return "mode"
    if any(own.endswith(word) for word in _SETTINGS) and own not in ("params",):
        return "settings"
    for role, spelled in PARAMETERS.items():
        if own in spelled:
            return role
    return next((keyword for keyword in kind.keywords if own in KEYWORDS[keyword]), None)


def _named_role(name: str, kind: Kind) -> str | None:
    return _role(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD), kind)


def _source(of: Any) -> str:
    """The source of a function or module, "" if it is nowhere."""
    try:
        return inspect.getsource(of)
    except (OSError, TypeError):
        return ""


def _asked(source: str, kind: Kind) -> dict[str, str]:
    """The keys of a dict of settings that a source mentions; all of ours, if there is no source."""
    spelled = {role: KEYWORDS[role] for role in ("eps", "momentum") if role in kind.optional}
    spelled |= {role: PARAMETERS[role] for role in ("running_mean", "running_var")} if kind.tracks else {}
    # one that hands its settings on to another function names none of them: then they have our names
    mentioned = any(quoted_in(source, (role, *words)) for role, words in spelled.items())
    source = source if mentioned else ""
    found = {}
    for role, words in spelled.items():
        match = quoted_in(source, (role, *words)) or ("" if source else role)
        if match:
            found[role] = match
    return found


def from_functions(
    forward: Callable[..., Any], backward: Callable[..., Any], like: str | None = None, **fixed: Any
) -> Any:
    """A pair of functions with a cache as a layer class, for `check` and the others.

    Args:
        forward: (x, gamma, beta, **config) -> (y, cache). Of gamma, beta and torch's options it gets those that its
            signature names, under other names too (epsilon, G), or in a dict as `bn_param`. For BatchNorm it may also name
            `training` or `mode`, `running_mean` and `running_var`, two arrays that it is to update in place.
        backward: (dy, cache) -> (dx, dgamma, dbeta), or without the gradients that there are not; a dict by name is fine.
        like: which layer it is; by default what the function's name says. The class remembers it.
        fixed: further arguments of forward.

    Raises:
        ValueError: there is no such kind of layer. TypeError: forward asks for something that nothing stands for.
    """
    own_name = getattr(forward, "__name__", "")
    kind = kind_said("forward", own_name, like)
    arguments = arguments_of(forward, kind, fixed)
    keywords = [
        name
        for name in kind.keywords
        if name in kind.required
        or ((arguments.everything or name in arguments) and name not in _AFFINE)
        or (name in _AFFINE and arguments.gamma_optional)
    ]

    class FunctionLayer:
        in_channels = False  # whether gamma and beta are passed as (1, C, 1, 1); found by trying
        returns = 0  # how many values forward returned besides y

        def __init__(self, **config: Any) -> None:
            self.config = config
            features: Any = config.get("normalized_shape", config.get("num_channels", config.get("num_features")))
            has_gamma = "gamma" in arguments and config.get("affine", config.get("elementwise_affine", True))
            self.gamma: Array | None = np.ones(features) if has_gamma else None
            self.beta: Array | None = np.zeros(features) if has_gamma and "beta" in arguments else None
            self.state = {"running_mean": np.zeros(features), "running_var": np.ones(features)}
            self.settings: dict[str, Any] = {}
            if "running_mean" in arguments.in_settings:
                self.settings = {arguments.in_settings[name]: value for name, value in self.state.items()}
            if {"training", "evaluation", "mode"} & set(arguments.named.values()) or "settings" in arguments:
                self.training = True

        def _running(self, name: str) -> Array | None:
            if name in arguments.in_settings:
                return self.settings.get(arguments.in_settings[name])
            return self.state[name] if name in arguments else None

        running_mean = property(lambda self: self._running("running_mean"))
        running_var = property(lambda self: self._running("running_var"))

        def _shaped(self, given: dict[str, Any], x: Array) -> dict[str, Any]:
            """gamma and beta with axes of 1 around the channels, for functions that ask their callers for that."""
            if not FunctionLayer.in_channels or kind.normalizes_features:
                return given
            shape = (1, -1, *[1] * (x.ndim - 2))
            roles = arguments.named
            return {
                name: np.reshape(value, shape) if roles.get(name) in ("gamma", "beta") and value is not None else value
                for name, value in given.items()
            }

        def given(self) -> dict[str, Any]:
            """What forward is called with besides x."""
            training = getattr(self, "training", True)
            mode = "train" if training else arguments.eval_word
            values = self.config | self.state | {"gamma": self.gamma, "beta": self.beta}
            values |= {"training": training, "evaluation": not training, "mode": mode}
            for role, theirs in arguments.in_settings.items():
                if role in self.config:
                    self.settings[theirs] = self.config[role]
            values["settings"] = self.settings | {"mode": mode} if not kind.tracks else self.settings
            self.settings["mode"] = mode
            given = {theirs: values[role] for theirs, role in arguments.named.items() if role in values}
            if arguments.everything:
                given |= {name: value for name, value in self.config.items() if name not in arguments.named.values()}
            return given | fixed

        @property
        def findings(self) -> Any:
            """What the cache has noted, where it is an adapter's."""
            return getattr(getattr(self, "cache", None), "findings", ())

        @property
        def derived(self) -> bool:
            """Whether backward is a framework's own, as the adapter saw."""
            return getattr(getattr(self, "cache", None), "derived", False) is True

        def forward(self, x: Array) -> Any:
            self.x, given = x, self.given()
            try:
                returned = forward(x, **self._shaped(given, x))
            except ValueError as error:
                if FunctionLayer.in_channels or x.ndim == 2 or "broadcast" not in str(error):
                    raise
                FunctionLayer.in_channels = True  # it multiplies gamma into (N, C, ...) as it comes
                returned = forward(x, **self._shaped(given, x))
            y, *rest = returned if isinstance(returned, (tuple, list)) else (returned,)
            FunctionLayer.returns = len(rest)
            self.cache = rest[0] if len(rest) == 1 else tuple(rest)
            return y

        def backward(self, dy: Array) -> Any:
            returned = self._backward(dy)
            if isinstance(returned, (tuple, list)) and dy.ndim > 2 and not kind.normalizes_features:
                lying = (1, dy.shape[1], *[1] * (dy.ndim - 2))
                # gradients in this shape are of a gamma that the caller is to pass so
                FunctionLayer.in_channels |= len(returned) > 1 and all(np.shape(g) == lying for g in returned[1:])
            if not FunctionLayer.in_channels or not isinstance(returned, (tuple, list)):
                return returned
            dx, *gradients = returned  # in the shape of the gamma that was passed
            if any(np.size(gradient) != dy.shape[1] for gradient in gradients):
                raise ValueError(f"operands could not be broadcast together: gamma of one axis and x of {dy.ndim}")
            return dx, *(np.reshape(gradient, -1) for gradient in gradients)

        def _backward(self, dy: Array) -> Any:
            names = [p.name for p in inspect.signature(backward).parameters.values() if p.default is p.empty]
            if names and names[0] in CACHES:
                return backward(self.cache, dy)
            if len(names) <= 2:
                return backward(dy, self.cache)
            # it takes apart what others keep in one cache: x, gamma and the like by name, the rest in forward's order
            pieces = list(self.cache) if isinstance(self.cache, tuple) else [self.cache]
            known = {"x": self.x, "gamma": self.gamma, "beta": self.beta} | self.config
            given = []
            for name in names[1:]:
                role = "x" if name in ("x", "X", "inputs", "input") else _named_role(name, kind)
                given.append(known[role] if role in known else pieces.pop(0))
            return backward(dy, *given)

    # where the function's name does not tell what it is like, `like` is the better name
    FunctionLayer.__name__ = FunctionLayer.__qualname__ = own_name if kind_in(own_name) is kind else kind.name
    FunctionLayer.like = kind.name  # type: ignore[attr-defined]
    FunctionLayer.size_untold = "normalized_shape" not in arguments  # type: ignore[attr-defined]
    FunctionLayer.functions = (forward, backward)  # type: ignore[attr-defined]
    FunctionLayer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in keywords]
    )
    return FunctionLayer
