"""The doors for test suites: an assertion, a pytest decorator with one readable id a check, and functions as a layer.

All of them go through `reference.checks` and `reference.verdict`; nothing is judged here.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from reference import torch_layers
from reference.cases import KEYWORDS, LIKES, RANKS, REQUIRED, Array
from reference.checks import check, infer_like
from reference.coverage import designed_for, discover
from reference.guard import Clock
from reference.probes import probes
from reference.subject import Subject
from reference.verdict import TORCH, Trial, judge

QUANTITIES_OF = {
    "GroupNorm": ("y", "dx", "dgamma", "dbeta"),
    "LayerNorm": ("y", "dx", "dgamma", "dbeta"),
    "RMSNorm": ("y", "dx", "dgamma"),
    "BatchNorm": ("y", "dx", "dgamma", "dbeta", "running_mean", "running_var"),
    "InstanceNorm": ("y", "dx", "dgamma", "dbeta"),
}
DTYPES = ("float64", "float32")


def assert_matches(layer: Any, like: str | None = None, **options: Any) -> None:
    """Raise an AssertionError whose text is the report, unless the layer agrees; the options are those of `check`."""
    report = check(layer, like, **options)
    if not report.passed:
        raise AssertionError(f"\n{report}")


def parametrize_with_checks(
    layers: Iterable[Any], *, expected_failures: Mapping[str, str] | None = None, examples: int = 100
) -> Callable[[Any], Any]:
    """A pytest decorator: the test is called once for each check of each layer, with an argument `check` to call.

        @parametrize_with_checks([MyGroupNorm, (their_norm, "LayerNorm")])
        def test_layers(check):
            check()

    The ids read GroupNorm-dx-float64-4D: the layer, the quantity, the dtype, the rank. Two more check what a layer does
    besides its numbers (GroupNorm-behaviour) and random cases (GroupNorm-random). What a layer refuses is skipped with
    the reason.

    Args:
        layers: classes or factories, or pairs of one and what it is like.
        expected_failures: from the id of a check to the reason why it fails; strict: one that passes fails the test.
        examples: random cases.

    Raises:
        ValueError: an id of `expected_failures` is not one of the checks, or two layers have one name.
    """
    import pytest  # only those who test need it

    checks: dict[str, Callable[[], None]] = {}
    for item in layers:
        layer, like = item if isinstance(item, tuple) else (item, None)
        name = getattr(layer, "__name__", type(layer).__name__)
        if f"{name}-random" in checks:
            raise ValueError(f"Expected layers of different names but got two {name}")
        checks |= _checks_of(layer, like or infer_like(name), name, examples)
    unknown = sorted(set(expected_failures or ()) - set(checks))
    if unknown:
        raise ValueError(
            f"Expected the ids of checks in expected_failures but got {unknown}; they are {sorted(checks)}"
        )
    parameters = []
    for id, run in checks.items():
        reason = (expected_failures or {}).get(id)
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason is not None else []
        parameters.append(pytest.param(run, id=id, marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _checks_of(layer: Any, like: str, name: str, examples: int) -> dict[str, Callable[[], None]]:
    """The checks of one layer by id; the probes are run once, at the first check that asks for them."""

    @cache
    def trials() -> tuple[list[Trial], dict[str, str]]:
        subject, clock = Subject(layer, like, name), Clock(60)
        with torch_layers.one_thread():
            scope, not_covered = discover(subject, None, clock)
            return [judge(subject, case, TORCH, clock) for case in designed_for(scope)], not_covered

    def of_quantity(quantity: str, dtype: str, rank: int) -> None:
        done, not_covered = trials()
        mine = [t for t in done if quantity in t.comparisons and t.case.dtype == dtype and len(t.case.shape) == rank]
        if not mine:
            import pytest

            reason = not_covered.get(f"{rank}D") or not_covered.get(dtype) or not_covered.get(quantity) or "it has none"
            pytest.skip(f"not covered: {reason}")
        wrong = [f"{t.comparisons[quantity]}\n    in {t.case}" for t in mine if quantity in t.wrong]
        if wrong:
            more = f"\n... and in {len(wrong) - 3} more cases" if len(wrong) > 3 else ""
            raise AssertionError(
                "\n".join(wrong[:3]) + more + f"\n(normcheck names the cause: {len(mine)} cases tried)"
            )

    def behaviour() -> None:
        found = [f"{f.id}: {f.quantity}: {f.detail}\n    in {t.case}" for t in trials()[0] for f in t.findings]
        if found:
            raise AssertionError("\n".join(found[:5]))

    def at_random() -> None:
        assert_matches(layer, like, examples=examples, name=name)

    checks: dict[str, Callable[[], None]] = {}
    for quantity in QUANTITIES_OF[like]:
        for dtype in DTYPES:
            # float32 is probed in the ranks that are looked at most closely
            for rank in RANKS[like] if dtype == "float64" else [r for r in RANKS[like] if r in _FLOAT32_RANKS[like]]:

                def run(quantity: str = quantity, dtype: str = dtype, rank: int = rank) -> None:
                    of_quantity(quantity, dtype, rank)

                checks[f"{name}-{quantity}-{dtype}-{rank}D"] = run
    return checks | {f"{name}-behaviour": behaviour, f"{name}-random": at_random}


_FLOAT32_RANKS = {like: sorted({len(c.shape) for c in probes(like) if c.dtype == "float32"}) for like in LIKES}


def from_functions(forward: Callable[..., Any], backward: Callable[..., Any], like: str, **fixed: Any) -> Any:
    """A pair of functions with a cache as a layer class, for `check` and the others.

    Args:
        forward: (x, gamma, beta, **config) -> (y, cache). Of gamma, beta and torch's options it gets those that its
            signature names. For BatchNorm it may also name `training`, `running_mean` and `running_var`, two arrays
            that it is to update in place.
        backward: (dy, cache) -> (dx, dgamma, dbeta), or without the gradients that there are not.
        like: which layer it is.
        fixed: further arguments of forward.
    """
    if like not in LIKES:
        raise ValueError(f"Expected like to be one of {LIKES} but got {like!r}")
    parameters = inspect.signature(forward).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    gamma_optional = "gamma" in parameters and parameters["gamma"].default is None
    affine = {"affine", "elementwise_affine"}
    keywords = [
        name
        for name in KEYWORDS[like]
        if name in REQUIRED[like]
        or ((takes_all or name in parameters) and name not in affine)
        or (name in affine and gamma_optional)
    ]

    class FunctionLayer:
        def __init__(self, **config: Any) -> None:
            self.config = config
            features: Any = config.get("normalized_shape", config.get("num_channels", config.get("num_features")))
            has_gamma = "gamma" in parameters and config.get("affine", config.get("elementwise_affine", True))
            self.gamma: Array | None = np.ones(features) if has_gamma else None
            self.beta: Array | None = np.zeros(features) if has_gamma and "beta" in parameters else None
            self.dgamma: Any = None
            self.dbeta: Any = None
            if "running_mean" in parameters:
                self.running_mean = np.zeros(features)
                self.running_var = np.ones(features)
            if "training" in parameters:
                self.training = True

        def forward(self, x: Array) -> Any:
            given = {name: getattr(self, name) for name in _STATE if name in parameters and hasattr(self, name)}
            config = {name: value for name, value in self.config.items() if takes_all or name in parameters}
            y, self.cache = forward(x, **given, **config, **fixed)
            return y

        def backward(self, dy: Array) -> Any:
            returned = backward(dy, self.cache)
            gradients = returned if isinstance(returned, (tuple, list)) else (returned,)
            dx, self.dgamma, self.dbeta = (*gradients, None, None)[:3]
            return dx

    name = getattr(forward, "__name__", like)  # where that does not tell what it is like, `like` is the better name
    FunctionLayer.__name__ = FunctionLayer.__qualname__ = (
        name if like.lower() in name.replace("_", "").lower() else like
    )
    FunctionLayer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in keywords]
    )
    return FunctionLayer


_STATE = ("gamma", "beta", "training", "running_mean", "running_var")
