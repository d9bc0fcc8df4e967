"""Mistakes in eval mode, where the running statistics normalize and are constants."""

from reference.cases.case import Array
from reference.diagnosis.faults.earlier import TRAINING_FORMULA, earlier, in_eval
from reference.diagnosis.faults.entry import BATCH, Fault, Variant, instead
from reference.diagnosis.faults.formulas import EVAL_DX
from reference.truth.arithmetic import sqrt
from reference.truth.exact import GRADIENTS, Change, Pass


def _batch_backward(p: Pass) -> dict[str, Array]:
    rstd = 1 / sqrt(p.batch_var + p.eps)
    return {"rstd": rstd, "xhat": p.batch_centred * rstd}


def _batch_values(*names: str) -> Variant:
    """The backward in eval mode from the batch's own rstd, xhat or both."""

    def of_batch(name: str) -> Change:
        return lambda p, value: _batch_backward(p)[name] if in_eval(p) else value

    return {f"backward_{name}": of_batch(name) for name in names}


def _last_training(p: Pass) -> Pass | None:
    """In eval mode the last pass in training mode."""
    if not in_eval(p):
        return None
    q = p.previous
    while q is not None and not q.training:
        q = q.previous
    return q


_SAME_DGAMMA: Variant = {"dgamma_factor": instead(lambda p: p.xhat)}
_CACHE = earlier(_last_training)

ENTRIES = (
    Fault(
        id="eval-uses-batch-statistics",
        summary="In eval mode the batch's own mean and variance normalize, where the running ones should.",
        fix="In eval mode use running_mean and running_var.",
        wrong="xhat = (x - batch_mean) / sqrt(batch_var + eps)  # in eval mode",
        right="xhat = (x - running_mean) / sqrt(running_var + eps)  # in eval mode",
        quantities=("y",),
        layers=BATCH,
        variants=(
            {"constant": instead(lambda p: False)},
            {"constant": instead(lambda p: False), "backward_constant": instead(in_eval)},
        ),
        forward=True,
    ),
    Fault(
        id="eval-eps-missing",
        summary="There is no eps in eval mode, where there is one in training.",
        fix="Add eps to running_var too, before the square root.",
        wrong="xhat = (x - running_mean) / sqrt(running_var)  # in eval mode",
        right="xhat = (x - running_mean) / sqrt(running_var + eps)  # in eval mode",
        quantities=("y",),
        layers=BATCH,
        variants=({"eps": lambda p, eps: 0.0 if in_eval(p) else eps},),
        forward=True,
        seen_in="chainer#855",
    ),
    Fault(
        id="eval-dx-uses-training-formula",
        summary="In eval mode dx has the terms of training mode; there mean and variance are constants.",
        fix="In eval mode dx = gamma * dy / sqrt(running_var + eps).",
        wrong="dx = rstd * (d - mean(d) - xhat * mean(d * xhat))  # in eval mode",
        right=EVAL_DX,
        quantities=("dx",),
        layers=BATCH,
        variants=(
            TRAINING_FORMULA,
            {  # node by node, where x - mean is taken to have no mean of its own
                **TRAINING_FORMULA,
                "projection": lambda p, q: (p.backward_xhat - p.average(p.backward_xhat)) * p.projection_mean,
            },
            *(
                {**TRAINING_FORMULA, **_batch_values(*names), **same}
                for names in (("rstd", "xhat"), ("rstd",), ("xhat",))
                for same in ({}, _SAME_DGAMMA)
            ),
        ),
        seen_in="14 of 46 public NumPy BatchNorms; pytorch#586, xla#3361, tensorflow#10857",
    ),
    Fault(
        id="eval-dx-uses-training-cache",
        summary="In eval mode the backward uses what the last forward of training mode left behind.",
        fix="Store what backward needs in eval mode too.",
        wrong="dx from the cache of the last training forward  # in eval mode",
        right=EVAL_DX,
        quantities=("dx",),
        layers=BATCH,
        variants=(
            {**_CACHE, **_SAME_DGAMMA},
            _CACHE,
            {"backward_rstd": _CACHE["backward_rstd"]},
            {**_CACHE, "backward_constant": lambda p, own: own},
            {"backward_xhat": _CACHE["backward_xhat"], **TRAINING_FORMULA},
            {"backward_rstd": _CACHE["backward_rstd"], **TRAINING_FORMULA},
        ),
        stateful=True,
        cached=True,
        covers=("backward-raises",),
    ),
    Fault(
        id="eval-backward-missing",
        told_by="eval mode",
        summary="There is no backward in eval mode: it raises, or returns None.",
        fix="In eval mode return gamma * dy / sqrt(running_var + eps), and set dgamma and dbeta.",
        wrong="raise, or return None  # in eval mode",
        right=EVAL_DX,
        quantities=GRADIENTS,
        layers=BATCH,
        seen_in="20 of 46 public NumPy BatchNorms",
    ),
)
