"""Mistakes in what a layer remembers, in what it writes to, and in its dtypes.

Those with variants are recognised by their numbers over several calls; the others by what the layer does.
"""

from typing import Any

import numpy as np

from reference.diagnosis.faults.entry import BATCH, Fault, Variant, instead
from reference.truth.arithmetic import sqrt
from reference.truth.exact import GRADIENTS

_RUNNING = "running = (1 - momentum) * running + momentum * batch, the batch's variance unbiased"
_EVAL = "dx = gamma * dy / sqrt(running_var + eps)  # in eval mode"


def _fault(id: str, summary: str, fix: str, wrong: str, right: str, *variants: Variant, **rest: Any) -> Fault:
    kind = rest.pop("kind", "mistake")
    return Fault(id, kind, summary, fix, wrong, right, variants=variants, **rest)


def _in_eval(p: Any) -> bool:
    return bool(p.tracks and not p.training)


def _batch_backward(p: Any) -> dict[str, Any]:
    rstd = 1 / sqrt(p.batch_var + p.eps)
    return {"rstd": rstd, "xhat": p.batch_centred * rstd}


def _batch_values(*names: str) -> Variant:
    """The backward in eval mode from the batch's own rstd, xhat or both."""

    def of_batch(name: str) -> Any:
        return lambda p, value: _batch_backward(p)[name] if _in_eval(p) else value

    return {f"backward_{name}": of_batch(name) for name in names}


def _earlier(choose: Any) -> Variant:
    """The backward from an earlier pass, which choose(pass) picks; from its own where there is none that fits."""

    def value(name: str) -> Any:
        def change(p: Any, own: Any) -> Any:
            other = choose(p)
            earlier = own if other is None else getattr(other, name)
            return earlier if np.shape(earlier) == np.shape(own) else own

        return change

    return {"backward_xhat": value("xhat"), "backward_rstd": value("rstd"), "backward_constant": value("constant")}


def _own_mode(variant: Variant) -> Variant:
    """The same with the formula of this pass's own mode."""
    return {step: change for step, change in variant.items() if step != "backward_constant"}


def _rebuilt(choose: Any) -> Variant:
    """The backward with an earlier rstd, and the xhat that follows from it."""
    rstd = _earlier(choose)["backward_rstd"]
    return {"backward_xhat": lambda p, own: p.centred * rstd(p, p.rstd), "backward_rstd": rstd}


def _previous(p: Any) -> Any:
    return p.previous


def _first(p: Any) -> Any:
    while p.previous is not None:
        p = p.previous
    return p


def _first_of_shape(p: Any) -> Any:
    found, q = p, p
    while q is not None:
        if q.x.shape == p.x.shape:
            found = q
        q = q.previous
    return found


def _after(history: str) -> Any:
    """The pass before, but only where the calls before were made in this way."""
    return lambda p: p.previous if p.case.history == history else None


def _last_training(p: Any) -> Any:
    """In eval mode the last pass in training mode."""
    if not _in_eval(p):
        return None
    q = p.previous
    while q is not None and not q.training:
        q = q.previous
    return q


_CHOICES = (_previous, _first, _first_of_shape, _after("refilled"), _after("forward only"))
_SAME_DGAMMA: Variant = {"dgamma_factor": instead(lambda p: p.xhat)}
_TRAINING_FORMULA: Variant = {"backward_constant": instead(lambda p: False)}
_CACHE = _earlier(_last_training)


def _accumulated(name: str) -> Any:
    def change(p: Any, value: Any) -> Any:
        alone = p.previous is None or p.case.history == "forward only"  # then there was no backward before
        return value if alone else value + getattr(p.previous, name)

    return change


ENTRIES = (
    _fault(
        "running-var-biased",
        "The running variance takes the biased variance of the batch; torch stores the unbiased one.",
        "Multiply the batch's variance by n / (n - 1) before it is stored; or accept this convention.",
        "running_var follows sum((x - mean)**2) / n",
        "running_var follows sum((x - mean)**2) / (n - 1)",
        {"stored_var": instead(lambda p: p.batch_var)},
        kind="convention",
        quantities=("running_var",),
        layers=BATCH,
        forward=True,
        seen_in="37 of 46 public NumPy BatchNorms; tinygrad PR#807, tt-metal#55438, BrainPy PR#843",
    ),
    _fault(
        "momentum-inverted",
        "momentum is taken for the fraction that is kept; in torch it is the fraction of the new.",
        "Use running = (1 - momentum) * running + momentum * batch; or accept this convention.",
        "running = momentum * running + (1 - momentum) * batch",
        _RUNNING,
        {"fraction": lambda p, f: f if p.momentum is None else 1 - f},
        kind="convention",
        quantities=("running_mean", "running_var"),
        layers=BATCH,
        forward=True,
        seen_in="deeplab-pytorch#79, ludwig PR#2100",
    ),
    _fault(
        "running-statistics-updated-in-eval",
        "The running statistics follow batches in eval mode too.",
        "Update them in training mode only.",
        "running = ... in every forward",
        "running is left alone in eval mode",
        {"follows": instead(lambda p: bool(p.tracks))},
        {
            "follows": instead(lambda p: bool(p.tracks)),
            "used_mean": instead(lambda p: p.old_mean),
            "used_var": instead(lambda p: p.old_var),
        },
        quantities=("running_mean", "running_var"),
        layers=BATCH,
        forward=True,
        seen_in="chainer#5555",
    ),
    _fault(
        "running-statistics-not-updated",
        "The running statistics are never updated.",
        "Update them in each forward of training mode.",
        "running stays at mean 0 and variance 1",
        _RUNNING,
        {"follows": instead(lambda p: False)},
        quantities=("running_mean", "running_var"),
        layers=BATCH,
        forward=True,
        seen_in="aprender PR#2166",
    ),
    _fault(
        "running-statistics-replaced-by-first-batch",
        "The first batch replaces the running statistics, where it should be averaged into them.",
        "Start from mean 0 and variance 1, and average from the first batch on.",
        "running = batch  # at the first batch",
        _RUNNING,
        {
            "running_mean": lambda p, mean: p.batch_mean if p.previous is None else mean,
            "running_var": lambda p, var: p.stored_var if p.previous is None else var,
        },
        {"fraction": lambda p, f: f * 0 + 1 if p.previous is None else f},
        quantities=("running_mean", "running_var"),
        layers=BATCH,
        forward=True,
    ),
    _fault(
        "running-var-decayed-twice",
        "The running variance is multiplied by 1 - momentum twice at each update.",
        "Decay it once.",
        "running_var = (1 - momentum)**2 * running_var + momentum * var",
        _RUNNING,
        {"running_var": instead(lambda p: (1 - p.fraction) ** 2 * p.old_var + p.fraction * p.stored_var)},
        {"running_var": lambda p, var: (1 - p.fraction) * var + p.fraction * p.stored_var},
        {"running_var": lambda p, var: (1 - p.fraction) * var},
        quantities=("running_var",),
        layers=BATCH,
        forward=True,
        seen_in="chainer#5555",
    ),
    _fault(
        "eval-uses-batch-statistics",
        "In eval mode the batch's own mean and variance normalize, where the running ones should.",
        "In eval mode use running_mean and running_var.",
        "xhat = (x - batch_mean) / sqrt(batch_var + eps)  # in eval mode",
        "xhat = (x - running_mean) / sqrt(running_var + eps)  # in eval mode",
        {"constant": instead(lambda p: False)},
        {"constant": instead(lambda p: False), "backward_constant": instead(_in_eval)},
        quantities=("y",),
        layers=BATCH,
        forward=True,
    ),
    _fault(
        "eval-dx-uses-training-formula",
        "In eval mode dx has the terms of training mode; there mean and variance are constants.",
        "In eval mode dx = gamma * dy / sqrt(running_var + eps).",
        "dx = rstd * (d - mean(d) - xhat * mean(d * xhat))  # in eval mode",
        _EVAL,
        _TRAINING_FORMULA,
        {  # node by node, where x - mean is taken to have no mean of its own
            **_TRAINING_FORMULA,
            "projection": lambda p, q: (p.backward_xhat - p.average(p.backward_xhat)) * p.projection_mean,
        },
        *(
            {**_TRAINING_FORMULA, **_batch_values(*names), **same}
            for names in (("rstd", "xhat"), ("rstd",), ("xhat",))
            for same in ({}, _SAME_DGAMMA)
        ),
        quantities=("dx",),
        layers=BATCH,
        seen_in="14 of 46 public NumPy BatchNorms; pytorch#586, xla#3361, tensorflow#10857",
    ),
    _fault(
        "eval-dx-uses-training-cache",
        "In eval mode the backward uses what the last forward of training mode left behind.",
        "Store what backward needs in eval mode too.",
        "dx from the cache of the last training forward  # in eval mode",
        _EVAL,
        {**_CACHE, **_SAME_DGAMMA},
        _CACHE,
        {"backward_rstd": _CACHE["backward_rstd"]},
        {**_CACHE, "backward_constant": lambda p, own: own},
        {"backward_xhat": _CACHE["backward_xhat"], **_TRAINING_FORMULA},
        {"backward_rstd": _CACHE["backward_rstd"], **_TRAINING_FORMULA},
        quantities=("dx",),
        layers=BATCH,
        stateful=True,
        cached=True,
    ),
    _fault(
        "eval-backward-missing",
        "There is no backward in eval mode: it raises, or returns None.",
        "In eval mode return gamma * dy / sqrt(running_var + eps), and set dgamma and dbeta.",
        "raise, or return None  # in eval mode",
        _EVAL,
        quantities=GRADIENTS,
        layers=BATCH,
        told_by="eval mode",
        seen_in="20 of 46 public NumPy BatchNorms",
    ),
    _fault(
        "parameter-gradients-accumulate",
        "dgamma and dbeta are added to those of the calls before.",
        "Set them anew in each backward.",
        "dgamma += sum(dy * xhat)",
        "dgamma = sum(dy * xhat)",
        {"dgamma": _accumulated("dgamma"), "dbeta": _accumulated("dbeta")},
        {"dgamma": _accumulated("dgamma")},
        {"dbeta": _accumulated("dbeta")},
        quantities=("dgamma", "dbeta"),
        stateful=True,
        seen_in="llm.c PR#408, mxnet#18499",
    ),
    _fault(
        "parameter-gradients-missing",
        "dgamma and dbeta are never set.",
        "Set both in backward.",
        "self.dgamma stays as it was",
        "dgamma = sum(dy * xhat), dbeta = sum(dy)",
        {"dgamma": lambda p, g: 0 * g, "dbeta": lambda p, g: 0 * g},
        {"dgamma": lambda p, g: 0 * g},
        {"dbeta": lambda p, g: 0 * g},
        quantities=("dgamma", "dbeta"),
        absent=True,
        seen_in="unsloth#4533",
    ),
    _fault(
        "stale-cache",
        "The backward uses an earlier forward's cache.",
        "Store the cache anew in each forward.",
        "xhat and rstd of an earlier call",
        "xhat and rstd of the forward before this backward",
        *(_earlier(choose) for choose in _CHOICES),
        *(_own_mode(_earlier(choose)) for choose in _CHOICES),
        *(_rebuilt(choose) for choose in _CHOICES),
        *(
            {name: change}
            for choose in _CHOICES
            for name, change in _earlier(choose).items()
            if name != "backward_constant"
        ),
        quantities=GRADIENTS,
        stateful=True,
        cached=True,
    ),
    _fault(
        "input-mutated",
        "The caller's x is written to.",
        "Compute into new arrays: x = x - mean, not x -= mean.",
        "x -= mean",
        "centred = x - mean",
        quantities=("y",),
        writes=True,
    ),
    _fault(
        "upstream-gradient-mutated",
        "The caller's dy is written to.",
        "Compute into new arrays: d = dy * gamma, not dy *= gamma.",
        "dy *= gamma",
        "d = dy * gamma",
        quantities=("dx",),
        writes=True,
    ),
    _fault(
        "dx-aliases-dy",
        "dx is dy's own memory: who changes one changes the other.",
        "Return a new array.",
        "dx = dy; dx *= ...",
        "dx = dy * ...",
        quantities=("dx",),
        writes=True,
        covers=("upstream-gradient-mutated",),
        seen_in="unsloth#4533",
    ),
    _fault(
        "input-not-saved",
        "The backward reads the caller's x again, and is wrong if that was changed after the forward.",
        "Keep xhat, or a copy of x.",
        "self.x = x",
        "self.xhat = (x - mean) * rstd",
        quantities=("dx", "dgamma"),
        told_by="x overwritten",
    ),
    _fault(
        "layout-dependent",
        "The numbers are wrong where x or dy is not contiguous in memory.",
        "Do not rely on the order in memory: no ravel(order='K'), no strides of one's own; np.ascontiguousarray first.",
        "x.ravel(order='K')",
        "np.ascontiguousarray(x).ravel()",
        quantities=("y", "dx"),
        told_by="memory layout",
        seen_in="FlagGems#1068, DirectML#588, pytorch#131750",
    ),
    _fault(
        "dtype-promoted",
        "The result has a wider dtype than the input: float32 in, float64 out.",
        "Allocate results and constants in x.dtype.",
        "out = np.zeros(x.shape)",
        "out = np.zeros(x.shape, x.dtype)",
        quantities=("y", "dx"),
    ),
    _fault(
        "dtype-demoted",
        "Precision is lost on the way: float64 in, float32's precision out.",
        "Compute in x.dtype, or wider.",
        "x.astype(np.float32)",
        "x in its own dtype",
        quantities=("y", "dx"),
        told_by="precision",
    ),
)
